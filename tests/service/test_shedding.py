"""A process with its hands full refuses work before it costs anything, and finishes what it has."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from hartonomous.core import overload
from hartonomous.keys import STATE
from hartonomous.log import configure, logger
from tests.service.application import WAIT_S, ConfigMaker, RunningApp, eventually, running
from tests.service.fault_backend import FaultBackend
from tests.service.rag import sample
from tests.service.sockets import port_of

CHAT = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
MANY = 150
_STEP = 10


class Held:
    """An application whose chats wait for the model, as many as there are, until `gate` is set."""

    def __init__(self, app: RunningApp, session: aiohttp.ClientSession, gate: asyncio.Event) -> None:
        self.app, self.session, self.gate = app, session, gate
        self._asked: list[asyncio.Task[int]] = []

    async def ask(self, **options: Any) -> tuple[int, Any, Any]:
        """Ask for a chat; return status, headers and body."""
        async with self.session.post(self.app.url + CHAT, **({"json": BODY} | options)) as response:
            return response.status, response.headers, await response.json()

    async def let_in(self) -> None:
        """Ask until it is answered: that there is room again is seen in the loop's next rounds."""
        async with asyncio.timeout(WAIT_S):
            while (await self.ask())[0] == 503:
                continue

    async def hold(self, count: int) -> None:
        """Ask for so many more, and wait until they are under way; not all at once, which is work as well."""
        for _ in range(0, count, _STEP):
            expected = self.active + _STEP
            self._asked += [asyncio.create_task(self._status()) for _ in range(_STEP)]
            await eventually(lambda: self.active == expected, "all under way")  # noqa: B023 - called at once

    async def release(self) -> list[int]:
        """Let the model answer; return the statuses of what was held."""
        self.gate.set()
        return await asyncio.gather(*self._asked)

    @property
    def active(self) -> int:
        """How many requests are under way."""
        return self.app.app[STATE].active

    @property
    def shed(self) -> float:
        """How many were refused at once."""
        return sample(self.app, "hartonomous_http_shed_total")

    async def _status(self) -> int:
        """Ask until it is let in: where other programs take the processor, the loop's rounds are long as well."""
        status, _, _ = await self.ask()
        while status == 503:
            await asyncio.sleep(0.05)
            status, _, _ = await self.ask()
        return status


@pytest.fixture
async def held(make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Held]:
    # What is held stands for what is at work, however long it takes here.
    monkeypatch.setattr(overload, "ROUNDS_OF_WORK", 100_000)
    gate = asyncio.Event()

    async def behave(exchange: Any) -> None:
        await gate.wait()
        await exchange.answer(200, b'{"choices": []}', {"Content-Type": "application/json"})

    async with FaultBackend() as generative:
        generative.on(CHAT, behave)
        config = make_config(backends={"generative": {"urls": (generative.url,), "concurrency": 300, "queue": 300}})
        connector = aiohttp.TCPConnector(limit=0)
        async with running(config) as app, aiohttp.ClientSession(connector=connector) as session:
            await eventually(lambda: not app.runtime.monitor.missing(), "the backends")
            made = Held(app, session, gate)
            yield made
            await made.release()


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The log."""
    text = io.StringIO()
    configure("INFO", text)
    yield text
    logger.remove()


@asynccontextmanager
async def busy(held: Held) -> AsyncIterator[None]:
    """Make the loop's rounds so long that many under way are too many."""

    async def burn() -> None:
        while True:
            time.sleep(0.25)  # noqa: ASYNC251 - it is what is to be seen
            await asyncio.sleep(0)

    task = asyncio.create_task(burn())
    crowd = held.app.app[STATE].crowd
    try:
        await eventually(lambda: crowd.is_crowded and crowd.is_beyond(MANY), "the crowd")
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_requests_that_wait_for_a_backend_turn_nobody_away(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "LONG_S", 5.0)  # longer than other programs keep the processor from this one
    await held.hold(200)
    await held.hold(50)
    assert set(await held.release()) == {200}
    assert held.shed == 0


async def test_what_only_waits_for_a_backend_turns_nobody_away_in_a_busy_loop(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    await held.hold(MANY)
    crowd = held.app.app[STATE].crowd
    async with busy(held):
        before = held.shed
        assert (await held.ask())[0] == 503
        monkeypatch.setattr(overload, "ROUNDS_OF_WORK", 8)
        await eventually(lambda: crowd.at_work == 0 and not crowd.is_beyond(crowd.at_work), "they count no longer")
        await held.hold(_STEP)
        assert held.active == MANY + _STEP
        assert held.shed - before >= 1
    assert set(await held.release()) == {200}


async def test_beyond_what_a_busy_loop_can_do_work_is_refused_and_what_has_begun_is_answered(held: Held) -> None:
    await held.hold(MANY)
    async with busy(held):
        status, headers, body = await held.ask(headers={"X-Request-ID": "mine"})
        error = body["error"]
        assert (status, headers["Retry-After"], headers["X-Request-ID"]) == (503, "1", "mine")
        assert (error["type"], error["code"], body["request_id"]) == ("backend_unavailable", "overloaded", "mine")
        assert held.active == MANY
        for path in ("/health", "/metrics"):
            async with held.session.get(held.app.url + path) as response:
                assert response.status == 200
        async with held.session.post(held.app.url + "/admin/sweep") as response:
            assert response.status != 503
    assert set(await held.release()) == {200}
    await held.let_in()


async def test_a_request_that_is_not_plain_is_refused_in_the_same_way(held: Held) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"model": '
        yield b'"m"}'

    await held.hold(MANY)
    async with busy(held):
        before = held.shed
        plain, chunked = await held.ask(), await held.ask(data=pieces(), json=None)
        closing = await held.ask(headers={"Connection": "close"})
        assert held.shed - before == 3
    for status, headers, body in (plain, chunked, closing):
        assert (status, headers["Retry-After"]) == (503, "1")
        assert body["request_id"] == headers["X-Request-ID"]
        assert body["error"] == plain[2]["error"]


async def test_what_is_refused_is_counted_and_logged_like_all_requests(lines: io.StringIO, held: Held) -> None:
    await held.hold(MANY)
    async with busy(held):
        before = held.shed
        for _ in range(3):
            await held.ask(headers={"X-Request-ID": "mine"})
        assert held.shed - before == 3
        assert sample(held.app, "hartonomous_http_requests_total", route=CHAT, method="POST", status="503") == held.shed
        assert sample(held.app, "hartonomous_http_failures_total", status="503") == held.shed

    def mine() -> list[dict[str, Any]]:
        records = [json.loads(line) for line in lines.getvalue().splitlines()]
        return [record for record in records if record.get("request_id") == "mine"]

    await eventually(lambda: len(mine()) == 3, "the lines")
    said = {name: mine()[0][name] for name in ("message", "logger", "method", "route", "status", "remote", "key")}
    assert said == {
        "message": "request",
        "logger": "hartonomous.middleware.access",
        "method": "POST",
        "route": CHAT,
        "status": 503,
        "remote": "127.0.0.1",
        "key": None,
    }


async def test_a_connection_serves_on_after_a_refusal(held: Held) -> None:
    await held.hold(MANY)
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector) as session:
        one = Held(held.app, session, held.gate)
        async with busy(held):
            assert [(await one.ask())[0] for _ in range(3)] == [503] * 3
            assert sample(held.app, "hartonomous_http_connections") == MANY + 1
        await held.release()
        await one.let_in()
        assert (await one.ask())[0] == 200
        assert sample(held.app, "hartonomous_http_connections") == MANY + 1


@pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
async def test_the_first_request_of_a_connection_is_refused_from_its_bytes(held: Held) -> None:
    """Who refuses from the bytes says no date: that is aiohttp's way, which takes six times as long."""
    body = json.dumps(BODY)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    await held.hold(MANY)
    async with busy(held):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(held.app.url))
        writer.write(f"{head}\r\n\r\n{body}".encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        status, headers, _ = await held.ask(headers={"Connection": "close"})
        writer.close()
    assert (answer[:12], status, "Date" in headers) == (b"HTTP/1.1 503", 503, True)
    assert b"\r\nDate: " not in answer
