"""Rows 32 and 33 on a server of its own: SIGHUP with a broken file, and 200 reloads while everything is asked of it,
with keys that come and go.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.service.application import WAIT_S, eventually, merged
from tests.service.fault_backend import DEFAULT, FaultBackend, after
from tests.service.keyed import PEPPER, Key, auth_section
from tests.service.rag import CHAT
from tests.service.serving import Served, backends, serving
from tests.service.vector_store import drop_collection

RELOADS = 200
# What an interpreter keeps of its first reloads is no leak.
WARM_UP = 40
KEY_RELOADS = 60
OPERATOR = Key("operator", ("admin", "ingest", "query"), ("*",))
NO_KEY: Mapping[str, str] = {}
Writer = Callable[..., None]
QUERY = {"query": "What does a lime weigh?", "max_tokens": 8}
DOCUMENTS = [{"id": f"d{number}", "text": f"Lime {number} weighs {number} grams."} for number in range(4)]


async def test_row_32_a_broken_file_at_a_hangup_leaves_the_old_configuration_serving(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    async with (
        serving(tmp_path, backends=backends(faulty.url), health={"ready": ["embedding"]}) as served,
        aiohttp.ClientSession(served.url) as session,
    ):
        right = (tmp_path / "config.yaml").read_text(encoding="utf-8")
        await _ready(session)
        (tmp_path / "config.yaml").write_text(right + "sever: {}\n", encoding="utf-8")
        served.process.send_signal(signal.SIGHUP)
        await eventually(lambda: served.told("the configuration is wrong: the old one serves on"), "the complaint")
        line = next(line for line in served.lines if "problem" in line)
        number = len(right.splitlines()) + 1
        assert (line["level"], line["problem"]) == ("ERROR", f"{tmp_path}/config.yaml:{number}: sever: unknown key")
        assert (await session.get("/ready")).status == 200
        (tmp_path / "config.yaml").write_text(right + "log: {level: DEBUG}\n", encoding="utf-8")
        served.process.send_signal(signal.SIGHUP)
        await eventually(lambda: served.told("the configuration was read again"), "the reload")
        async with session.get("/metrics") as response:
            text = await response.text()
        assert 'hartonomous_config_reloads_total{outcome="failed"} 1.0' in text
        assert "hartonomous_config_last_reload_successful 1.0" in text
        served.stop()
        assert await served.exit_code() == 0


async def test_row_33_200_reloads_under_load_fail_no_request_and_leak_nothing(
    tmp_path: Path, faulty: FaultBackend, vector_url: str, collection_name: str
) -> None:
    sections: dict[str, Any] = {
        "backends": backends(faulty.url, vector_url),
        "rag": {"default_collection": collection_name, "cache": {"answers": {"enabled": True}}},
    }
    write, asked = _writer(tmp_path, sections), Asked()
    async with serving(tmp_path, **sections) as served:
        async with aiohttp.ClientSession(served.url) as session:
            await _ready(session)
            async with session.post("/rag/ingest", json={"documents": DOCUMENTS}) as response:
                assert response.status == 200
        descriptors = _descriptors(served)
        await _reloads(served, write, WARM_UP, asked)
        resident = _resident(served)
        await _reloads(served, write, RELOADS, asked)
        assert not asked.failures
        assert min(asked.well[kind.name] for kind in KINDS) >= 20, asked.well
        # Each runtime that is left behind has some; the current one's idle connections are there.
        await eventually(lambda: _descriptors(served) < descriptors + 20, "the descriptors are closed")
        assert _resident(served) - resident < 8 * 1024 * 1024
        assert not _complaints(served)
    await drop_collection(vector_url, collection_name)


async def test_row_33_a_revoked_key_is_dead_and_a_new_one_lives_while_keys_come_and_go_under_load(
    tmp_path: Path, faulty: FaultBackend, vector_url: str, collection_name: str
) -> None:
    """A reload every 50 ms brings a key and takes one; each has a connection of its own, which is kept alive."""
    sections: dict[str, Any] = {
        "backends": backends(faulty.url, vector_url),
        "rag": {"default_collection": collection_name},
        "auth": auth_section(OPERATOR, _key(0), _key(1)),
    }
    write, asked = _writer(tmp_path, sections), Asked()
    async with serving(tmp_path, **sections) as served, AsyncExitStack() as stack:
        async with aiohttp.ClientSession(served.url, headers=OPERATOR.headers) as session:
            await _ready(session)
            async with session.post("/rag/ingest", json={"documents": DOCUMENTS}) as response:
                assert response.status == 200
        clients = [await _client(stack, served, _key(number)) for number in range(2)]
        async with asked.load(served.url, OPERATOR.headers) as operator:
            for number in range(KEY_RELOADS):
                write(number, auth=auth_section(OPERATOR, _key(number + 1), _key(number + 2)))
                clients.append(await _client(stack, served, _key(number + 2)))
                revoked, living, new = clients[number:]
                assert [await _status(client) for client in (revoked, living, new)] == [200, 200, 401]
                begun = time.monotonic()
                await _reload(served, operator, by_signal=number % 10 == 9)
                # After a signal nobody says when it is done; before, only what both configurations allow is allowed.
                while [await _status(client) for client in (revoked, new)] != [401, 200]:
                    assert time.monotonic() - begun < WAIT_S
                assert [await _status(client) for client in (living, new, revoked)] == [200, 200, 401]
                await asyncio.sleep(max(0.0, begun + 0.05 - time.monotonic()))
        assert not asked.failures
        assert min(asked.well[kind.name] for kind in KINDS) >= 20, asked.well
        assert not _complaints(served)
        log = served.log.read_text(encoding="utf-8")
        assert not any(secret in log for key in (OPERATOR, _key(0)) for secret in (PEPPER, key.text, key.entry["hash"]))
    await drop_collection(vector_url, collection_name)


async def test_row_33_a_stream_that_began_with_a_key_is_finished_when_the_key_is_revoked(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    go = asyncio.Event()
    sections: dict[str, Any] = {"backends": backends(faulty.url), "auth": auth_section(OPERATOR, _key(0))}
    async with serving(tmp_path, **sections) as served, AsyncExitStack() as stack:
        faulty.on(CHAT, after(DEFAULT, go))
        client = await _client(stack, served, _key(0))
        operator = await _client(stack, served, OPERATOR)
        asking = asyncio.create_task(client.post(CHAT, json={"messages": [], "stream": True}))
        await eventually(lambda: faulty.calls(CHAT), "the call")
        _writer(tmp_path, sections)(0, auth=auth_section(OPERATOR))
        await _reload(served, operator, by_signal=False)
        assert await _status(client) == 401
        go.set()
        response = await asking
        assert (response.status, (await response.read()).rstrip()[-12:]) == (200, b"data: [DONE]")


def _key(number: int) -> Key:
    return Key(f"key-{number}", ("query",), ("*",))


async def _client(stack: AsyncExitStack, served: Served, key: Key) -> aiohttp.ClientSession:
    """Return a session of this key."""
    return await stack.enter_async_context(aiohttp.ClientSession(served.url, headers=key.headers))


async def _status(client: aiohttp.ClientSession) -> int:
    """Return what a request is answered."""
    async with client.get("/v1/models") as response:
        await response.read()
        return response.status


async def _reload(served: Served, operator: aiohttp.ClientSession, *, by_signal: bool) -> None:
    if by_signal:
        served.process.send_signal(signal.SIGHUP)
        return
    async with operator.post("/admin/config/reload") as response:
        assert response.status == 200, await response.text()


def _complaints(served: Served) -> list[Any]:
    """Return what the log complains of, but for the missing keys of a server that has none."""
    lines = [line for line in served.lines if line["level"] in {"ERROR", "WARNING"}]
    return [line for line in lines if not line["message"].startswith("there are no keys")]


def _writer(folder: Path, sections: dict[str, Any]) -> Writer:
    """Return what writes the file's next state: mostly settings alone, now and then other pools, caches, parsers."""
    changes: list[Callable[[int], dict[str, Any]]] = [
        lambda number: {"rag": {"retrieval": {"top_k": 1 + number % 7}}},
        lambda number: {"backends": {"generative": {"idle_timeout_s": 60.0 + number}}},
        lambda number: {"rag": {"cache": {"answers": {"ttl_s": 300.0 + number}}}},
        lambda number: {"backends": {"qdrant": {"timeout_s": 30.0 + number}}},
        lambda number: {"backends": {"embedding": {"timeout_s": 60.0 + number}}, "rag": {"parsing": {"workers": 1}}},
    ]

    def write(number: int, **more: Any) -> None:
        change = changes[number % len(changes)](number) | more
        made = folder / "next.yaml"
        made.write_text(yaml.safe_dump(merged(sections | {"server": {"port": 0}}, change)), encoding="utf-8")
        made.replace(folder / "config.yaml")

    return write


class Asked:
    """How many requests of each kind were answered well, and what the others were answered."""

    def __init__(self) -> None:
        self.well: Counter[str] = Counter()
        self.failures: list[tuple[str, int, bytes]] = []

    @asynccontextmanager
    async def load(self, url: str, headers: Mapping[str, str] = NO_KEY) -> AsyncIterator[aiohttp.ClientSession]:
        """Ask for everything again and again within the context; what has been asked is answered before its end."""
        stopped = asyncio.Event()
        async with aiohttp.ClientSession(url, headers=headers) as session, asyncio.TaskGroup() as group:
            for kind in KINDS:
                group.create_task(self._ask(kind, session, stopped))
            try:
                yield session
            finally:
                stopped.set()

    async def _ask(self, kind: Kind, session: aiohttp.ClientSession, stopped: asyncio.Event) -> None:
        while not stopped.is_set():
            method = "GET" if kind.body is None else "POST"
            async with session.request(method, kind.path, json=kind.body) as response:
                answer = await response.read()
            if response.status == 200 and kind.ends in answer:
                self.well[kind.name] += 1
            else:
                self.failures.append((kind.name, response.status, answer))
            await asyncio.sleep(kind.pause_s)


@dataclass(slots=True, frozen=True)
class Kind:
    """What is asked, and what stands in a good answer."""

    name: str
    path: str
    body: Any
    ends: bytes
    pause_s: float = 0.02


KINDS = (
    Kind("ready", "/ready", None, b'"status":"ready"', 0.005),
    Kind("health", "/health", None, b'"status":"ok"'),
    Kind("ingest", "/rag/ingest", {"documents": DOCUMENTS}, b'"failed":0'),
    Kind("query", "/rag/query", QUERY, b'"answer"'),
    Kind("stream", "/rag/query", QUERY | {"stream": True}, b"event: done"),
    Kind("proxy", CHAT, {"messages": [], "stream": True}, b"data: [DONE]"),
)


async def _ready(session: aiohttp.ClientSession) -> None:
    for _ in range(1_000):
        async with session.get("/ready") as response:
            if response.status == 200:
                return
        await asyncio.sleep(0.02)
    raise AssertionError("the server never was ready")


async def _reloads(served: Served, write: Writer, count: int, asked: Asked) -> None:
    """Reload so many times under load, by the one way and the other."""
    async with asked.load(served.url) as session:
        for number in range(count):
            write(number)
            if number % 10 == 9:
                served.process.send_signal(signal.SIGHUP)
            async with session.post("/admin/config/reload") as response:
                assert response.status == 200, await response.text()


def _descriptors(served: Served) -> int:
    return sum(1 for _ in Path(f"/proc/{served.process.pid}/fd").iterdir())


def _resident(served: Served) -> int:
    """Return the bytes of memory that the server holds."""
    pages = Path(f"/proc/{served.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
