"""Row 34, all the way down: a hundred clients vanish in mid-generation, and llama.cpp has nothing to do any more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hartonomous.clients import sessions, wire
from hartonomous.clients.pool import Pool
from hartonomous.keys import METRICS
from hartonomous.trial.llama_server import KINDS
from tests.service.application import ConfigMaker, RunningApp, eventually, running
from tests.service.rag import CHAT, ingest, sample

CLIENTS = 100
QUERY = "/rag/query"
SLOTS = KINDS["generative"].slots
# More than there are slots, so that of those that are let through some wait in llama.cpp's own line.
CONCURRENCY = 2 * SLOTS
# What issue 5 asks for is 2 s; the rest is for a busy machine.
FREE_WITHIN_S = 4.0
# llama.cpp looks whether the client of a whole answer is still there when no task has had a result for a second, and to
# tell of its slots is a task as well: whoever asks more often than that keeps those answers alive.
QUIET_S = 1.5

SHORT = {"stream": False, "max_tokens": 2}

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def app(make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RunningApp]:
    """The application over the real models, with a document; it keeps idle connections for a moment only."""
    for module in (sessions, wire):
        monkeypatch.setattr(module, "KEEPALIVE_S", 0.3)
    generative = {"concurrency": CONCURRENCY, "queue": 2 * CLIENTS}
    config = make_config(backends={"generative": generative}, health={"interval_s": 1000.0})
    async with running(config) as made:
        await eventually(made.runtime.monitor.first_round.is_set, "the first poll")
        await ingest(made, "Limes are green and sour. They grow on trees.")
        for _, body in map(partial(_request, made), range(3)):  # each service has been asked what it can
            assert (await made.post(CHAT if "model" in body else QUERY, body | SHORT))[0] == 200
        yield made
        await made.delete(f"/rag/collections/{config.rag.default_collection}")


def _chat(number: int, model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": f"sour {number}"}], **fields}


def _request(app: RunningApp, number: int) -> tuple[str, dict[str, Any]]:
    """Return a request of each kind in turn: from documents in both dialects and not, two streamed and two whole.

    Each asks something else, as equal questions share a call, and wants more than it will live to see.
    """
    model = f"rag:{app.runtime.config.rag.default_collection}"
    from_documents = {"max_tokens": 1800}
    streamed = number // 2 % 2 == 0
    kinds = [
        (QUERY, {"query": f"sour {number}", "stream": streamed, **from_documents}),
        (CHAT, _chat(number, "any", max_tokens=3900, stream=streamed)),
        (CHAT, _chat(number, model, stream=streamed, **from_documents)),
    ]
    return kinds[number % len(kinds)]


async def _send(app: RunningApp, path: str, body: dict[str, Any]) -> Client:
    """Send a request over a connection of its own, and read nothing."""
    host, port = app.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    writer.write(f"{head}\r\n\r\n".encode() + content)
    return reader, writer


def _vanish(clients: list[Client]) -> None:
    """Leave all at once: every other one with a reset, as a process that is killed with data unread."""
    for number, (_, writer) in enumerate(clients):
        if number % 2:
            writer.transport.abort()
        else:
            writer.close()


def _pool(app: RunningApp) -> Pool:
    return app.runtime.pools["generative"]


def _under_way(app: RunningApp) -> dict[str, int]:
    """Return how many calls of the generative service there are in each state."""
    pool = _pool(app)
    streaming = sum(bool(exchange.status) and not exchange.is_whole for exchange in pool.watch)
    running = pool.replicas[0].active - streaming
    return {"queued": pool.admission.waiting, "running": running, "streaming": streaming}


def _saved(app: RunningApp) -> dict[str, int]:
    name = "hartonomous_backend_cancelled_total"
    states = ("queued", "running", "streaming")
    return {state: int(sample(app, name, service="generative", state=state)) for state in states}


def _answered(app: RunningApp) -> int:
    samples = next(iter(app.app[METRICS].requests.collect())).samples
    return sum(int(found.value) for found in samples if found.labels.get("status") == "200" and "_total" in found.name)


def _held() -> tuple[int, int]:
    """Return the tasks of the loop and the files and sockets of the process."""
    return len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir()))


async def _slots(app: RunningApp, url: str) -> list[bool]:
    """Return for each of llama.cpp's slots whether it is busy, as it says itself."""
    async with app.session.get(f"{url}/slots") as response:
        assert response.status == 200
        return [slot["is_processing"] for slot in await response.json()]


async def _all_idle(app: RunningApp, url: str) -> None:
    await asyncio.sleep(QUIET_S)
    while any(await _slots(app, url)):  # noqa: ASYNC110 - the state is another process's
        await asyncio.sleep(QUIET_S)


async def _all_sent(app: RunningApp) -> list[Client]:
    """Return the clients: two read a stream, two wait for llama.cpp, the others are in line.

    They come one after the other, because a crowd that keeps a busy machine's event loop for long is turned away.
    """
    already = _answered(app)
    clients = []
    for number in range(CLIENTS):
        clients.append(await _send(app, *_request(app, number)))
        await eventually(partial(_is_begun, app, number + 1 + already), f"call {number} is under way or in line")
        if number == 1:
            await asyncio.gather(*(reader.readuntil(b"data: ") for reader, _ in clients))
    return clients


def _is_begun(app: RunningApp, calls: int) -> bool:
    return sum(_under_way(app).values()) + _answered(app) >= calls


async def test_row_34_a_hundred_clients_that_vanish_free_every_slot(app: RunningApp, generative_url: str) -> None:
    before = _held()
    clients = await _all_sent(app)
    assert all(await _slots(app, generative_url))
    begun = _under_way(app)
    assert begun["streaming"] > 0
    assert begun["running"] > 0
    assert begun["queued"] >= CLIENTS / 2
    _vanish(clients)
    async with asyncio.timeout(FREE_WITHIN_S):
        await eventually(lambda: not any(_under_way(app).values()), "no call is left")
        await _all_idle(app, generative_url)
    # In each slot a generation may have ended, and another begun, while the clients left.
    saved = _saved(app)
    assert sum(begun.values()) - SLOTS <= sum(saved.values()) <= sum(begun.values())
    assert all(abs(saved[state] - begun[state]) <= SLOTS for state in begun), (saved, begun)
    assert (await app.post(CHAT, _chat(0, "any", **SHORT)))[0] == 200
    await eventually(lambda: all(map(int.__le__, _held(), before)), "tasks and sockets are given back")
