"""Row 39: with few descriptors connections make room for each other, health answers, the backends keep theirs."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp

from tests.service import fault_backend as fault
from tests.service.application import WAIT_S, eventually
from tests.service.fault_backend import FaultBackend
from tests.service.serving import Served, backends, serving

CHAT = "/v1/chat/completions"
DESCRIPTORS = 200
# More than there are descriptors.
MANY = 260
LIMIT = aiohttp.ClientTimeout(total=15)

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def _few(tmp_path: Path, url: str, **server: object) -> AsyncIterator[tuple[Served, int]]:
    """A server with few descriptors, and how many connections it has room for."""
    few = {resource.RLIMIT_NOFILE: DESCRIPTORS}
    services = backends(url, concurrency=4)
    services["generative"]["concurrency"] = 256 if server.get("max_connections") else 4
    services["qdrant"]["concurrency"] = 4
    async with serving(tmp_path, few, backends=services, server=server, health={"interval_s": 60.0}) as served:
        room = next(int(line["connections"]) for line in served.lines if line["message"] == "listening")
        yield served, room


async def _connect(served: Served, stack: AsyncExitStack) -> Connection:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    stack.callback(writer.close)
    return reader, writer


async def _get(connection: Connection, path: str = "/health") -> int:
    """Send a request on a connection and read the answer; 0 when the connection has ended."""
    reader, writer = connection
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    try:
        async with asyncio.timeout(WAIT_S):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")
            )
            await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0
    return int(head.split()[1])


async def _metric(url: str, line: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(url + "/metrics") as response:
        text = await response.text()
    return next((float(row.rpartition(" ")[2]) for row in text.splitlines() if row.startswith(line + " ")), 0.0)


def _limited(action: str) -> str:
    return f'hartonomous_http_connections_limited_total{{action="{action}"}}'


def _descriptors(served: Served) -> int:
    """How many descriptors the process has open."""
    return len(list(Path(f"/proc/{served.process.pid}/fd").iterdir()))


def _cpu_s(served: Served) -> float:
    """Processor time of the process, in seconds."""
    fields = Path(f"/proc/{served.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def test_row_39_idle_connections_make_room_and_everything_answers(tmp_path: Path, faulty: FaultBackend) -> None:
    async with _few(tmp_path, faulty.url) as (served, room), AsyncExitStack() as stack:
        assert 16 <= room < DESCRIPTORS
        first = await _connect(served, stack)
        assert await _get(first) == 200
        kept = [await _connect(served, stack) for _ in range(MANY)]
        for connection in kept[-5:]:
            assert await _get(connection) == 200  # of the last ones, which had to wait for others to make room
        async with aiohttp.ClientSession() as session:  # a new connection, and calls to a backend
            for _ in range(5):
                async with session.get(served.url + "/health") as response:
                    assert response.status == 200
                async with session.post(served.url + CHAT, json={"messages": []}) as response:
                    assert response.status == 200
        before, began = _cpu_s(served), asyncio.get_running_loop().time()
        await asyncio.sleep(0.5)  # idle, but for the connections
        assert _cpu_s(served) - before < 0.5 * (asyncio.get_running_loop().time() - began)
        assert await _get(first) == 0  # it had been idle for the longest
        assert await _metric(served.url, _limited("closed_idle")) >= MANY - room
        assert await _metric(served.url, "hartonomous_http_connections") <= room
        assert len(served.lines) < 60  # a line a request, and no storm
        for _, writer in kept:
            writer.close()
        await eventually(lambda: _descriptors(served) < 40, "they are gone")
        closed = await _metric(served.url, _limited("closed_idle"))
        again = await _connect(served, stack)
        assert await _get(again) == 200
        assert await _metric(served.url, _limited("closed_idle")) == closed


async def test_row_39_when_every_connection_is_busy_health_answers_and_work_is_refused(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    released = asyncio.Event()
    faulty.on(CHAT, fault.after(fault.reply(200, b'{"whole": true}'), released))
    async with (
        _few(tmp_path, faulty.url, max_connections=16) as (served, room),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=LIMIT) as session,
    ):
        assert room == 16
        asking = [asyncio.create_task(_ask(session, served)) for _ in range(room)]
        await eventually(lambda: len(faulty.calls(CHAT)) == room, "all are busy")
        for path in ("/health", "/metrics"):
            async with session.get(served.url + path) as response:
                assert (response.status, response.headers["Connection"]) == (200, "close")
        async with session.post(served.url + CHAT, json={"messages": []}) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
            assert (await response.json())["error"]["code"] == "too_many_connections"
        assert await _metric(served.url, _limited("surplus")) >= 3
        # More than are let in even for health: they wait, and nothing is lost.
        late = [asyncio.create_task(_ask(session, served)) for _ in range(60)]
        assert set(await asyncio.gather(*late)) == {503}
        released.set()
        assert await asyncio.gather(*asking) == [200] * room
        assert await _ask(session, served) == 200


async def _ask(session: aiohttp.ClientSession, served: Served) -> int:
    async with session.post(served.url + CHAT, json={"messages": []}) as response:
        await response.read()
        return response.status


async def test_row_39_without_any_descriptor_accepting_backs_off_and_says_so_once(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    """The limit is lowered under what is open: not one descriptor can be had."""
    async with _few(tmp_path, faulty.url) as (served, _), AsyncExitStack() as stack:
        held = [await _connect(served, stack) for _ in range(8)]
        for connection in held:
            assert await _get(connection) == 200
        # Those below are the interpreter's and the loop's own: not enough, were all that are held closed.
        served.limit(resource.RLIMIT_NOFILE, 6)
        assert await _get(held[-1]) == 200  # an open connection goes on
        before = _cpu_s(served)
        waiting = await _connect(served, stack)
        asking = asyncio.create_task(_get(waiting))
        await eventually(lambda: served.told("no descriptor is left for a connection"), "it is told")
        await asyncio.sleep(0.6)
        assert _cpu_s(served) - before < 0.3
        assert not asking.done()
        served.limit(resource.RLIMIT_NOFILE, DESCRIPTORS)
        assert await asking == 200
        await eventually(lambda: served.told("there are descriptors for connections again"), "it is told")
        assert served.told("no descriptor is left for a connection") == 1
        assert await _metric(served.url, _limited("exhausted")) >= 2
