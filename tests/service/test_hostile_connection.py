"""Clients that keep a connection and give nothing for it: timed, bounded, closed, while others are served."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from hartonomous.keys import METRICS, STATE
from tests.service import fault_backend as fault
from tests.service.application import ConfigMaker, RunningApp, eventually, running
from tests.service.fault_backend import FaultBackend
from tests.service.rag import CHAT
from tests.service.serving import Served, backends, serving
from tests.service.sockets import HOST, Client, connected, get, port_of, post

MANY = 200
# Of those that do not read: each fills the system's buffers.
READERS = 50
SHORT = {"header_timeout_s": 0.3, "body_timeout_s": 0.3, "write_timeout_s": 0.3}
BUFFER_BYTES = 16_384
LARGE = "/openapi.json"


@pytest.fixture
async def hasty(make_config: ConfigMaker) -> AsyncIterator[RunningApp]:
    """The application, with little patience and sockets that hold little."""
    async with running(make_config(server=SHORT), buffer_bytes=BUFFER_BYTES) as app:
        yield app


def limited(app: RunningApp, action: str) -> float:
    """How often a connection was closed for this."""
    name, labels = "hartonomous_http_connections_limited_total", {"action": action}
    return app.app[METRICS].registry.get_sample_value(name, labels) or 0.0


async def test_headers_that_do_not_come_are_a_408_of_our_shape(hasty: RunningApp) -> None:
    async with connected(port_of(hasty.url)) as client:
        client.writer.write(b"GET /health HTTP/1.1\r\n" + HOST)
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"\r\nConnection: close\r\n" in head
        body = await client.rest()
        assert b'"type":"timeout_error"' in body
        assert b"X-Request-ID: " + body.partition(b'"request_id":"')[2].partition(b'"')[0] in head


async def test_headers_that_come_slowly_are_a_408(hasty: RunningApp) -> None:
    async with connected(port_of(hasty.url)) as client:
        dripping = asyncio.create_task(drip(client, b"GET /health HTTP/1.1\r\n" + HOST, b"X: a\r\n"))
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        dripping.cancel()
    assert limited(hasty, "header_timeout") == 1


async def test_a_later_request_of_a_connection_has_the_same_time(hasty: RunningApp) -> None:
    async with connected(port_of(hasty.url)) as client:
        for _ in range(3):
            assert (await client.ask(get("/health")))[0] == 200
        client.writer.write(b"G")
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")


async def test_a_connection_between_two_requests_is_left_alone(hasty: RunningApp) -> None:
    async with connected(port_of(hasty.url)) as client, connected(port_of(hasty.url)) as silent:
        assert (await client.ask(get("/health")))[0] == 200
        assert await silent.rest() == b""  # it has waited longer than headers may take
        assert (await client.ask(get("/health")))[0] == 200


async def test_time_does_not_run_while_an_earlier_request_is_answered(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    released = asyncio.Event()
    faulty.on(CHAT, fault.after(fault.reply(200, b'{"whole": true}'), released))
    config = make_config(server=SHORT, backends={"generative": {"urls": (faulty.url,)}})
    async with running(config) as app, connected(port_of(app.url)) as client, connected(port_of(app.url)) as silent:
        client.writer.write(post(CHAT, b'{"messages": []}'))
        await eventually(lambda: bool(faulty.calls(CHAT)), "the backend is asked")
        client.writer.write(b"GET /health HTTP/1.1\r\n")
        assert await silent.rest() == b""
        released.set()
        assert (await client.answer())[0] == 200
        client.writer.write(HOST + b"\r\n")
        assert (await client.answer())[0] == 200


async def test_a_whole_answer_that_nobody_reads_ends_its_connection(hasty: RunningApp) -> None:
    async with connected(port_of(hasty.url), buffer_bytes=4_096) as client:
        client.writer.write(get(LARGE) * 20)
        await eventually(lambda: limited(hasty, "write_timeout") == 1, "it is cut off")
        await eventually(hasty.app[STATE].idle.is_set, "nothing is under way")
        assert (await client.rest()).count(b'"openapi"') in range(1, 20)


async def test_a_connection_that_is_closed_and_not_read_ends_as_well(hasty: RunningApp) -> None:
    async with connected(port_of(hasty.url), buffer_bytes=4_096) as client:
        client.pause()
        client.writer.write(get(LARGE, b"Connection: close"))
        await eventually(lambda: limited(hasty, "write_timeout") == 1, "it is cut off")


async def test_a_client_that_reads_slowly_gets_all_of_it(hasty: RunningApp) -> None:
    async with connected(port_of(hasty.url), buffer_bytes=4_096) as client:
        client.writer.write(get(LARGE, b"Connection: close"))
        received = b""
        while piece := await client.reader.read(8_192):
            received += piece
            await asyncio.sleep(0.05)  # in all many times what a client may take nothing for
        head, _, body = received.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}\r\n".encode() in head + b"\r\n"
    assert limited(hasty, "write_timeout") == 0


async def test_over_tls_the_same_holds(make_config: ConfigMaker) -> None:
    authority = trustme.CA()
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    authority.configure_trust(ours)
    async with running(make_config(server=SHORT), buffer_bytes=BUFFER_BYTES, ssl_context=theirs) as app:
        options: dict[str, Any] = {"ssl": ours, "server_hostname": "127.0.0.1"}
        async with connected(port_of(app.url), **options) as client:
            assert (await client.ask(get("/health")))[0] == 200
            client.writer.write(b"GET /he")
            assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        async with connected(port_of(app.url), buffer_bytes=4_096, **options) as client:
            client.pause()
            client.writer.write(get(LARGE) * 20)
            await eventually(lambda: limited(app, "write_timeout") == 1, "it is cut off")


async def test_a_thousand_requests_at_once_wait_in_their_sockets(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    """What cannot be answered yet is not read: memory is bounded, and the answers come in order."""
    released = asyncio.Event()
    faulty.on(CHAT, fault.after(fault.reply(200, b'{"whole": true}'), released))
    config = make_config(backends={"generative": {"urls": (faulty.url,)}})
    async with (
        running(config, buffer_bytes=BUFFER_BYTES) as app,
        connected(port_of(app.url), buffer_bytes=BUFFER_BYTES) as client,
    ):
        client.writer.write(post(CHAT, b'{"messages": []}', b"X-Request-ID: first"))
        await eventually(lambda: bool(faulty.calls(CHAT)), "the backend is asked")
        padding = b"X: " + b"a" * 7_000
        last = get("/nowhere", b"X-Request-ID: last", b"Connection: close")
        requests = [get("/nowhere", b"X-Request-ID: r%d" % number, padding) for number in range(1_000)]
        client.writer.write(b"".join(requests) + last)
        await settled(client)
        assert client.unsent > 6_000_000
        released.set()
        answers = await client.rest()
    ids = [line.partition(b": ")[2] for line in answers.split(b"\r\n") if line.startswith(b"X-Request-ID")]
    assert ids == [b"first", *(b"r%d" % number for number in range(1_000)), b"last"]


async def settled(client: Client) -> None:
    """Wait until the server takes nothing more."""
    before, same = -1, 0
    while same < 10:
        await asyncio.sleep(0.02)
        same = same + 1 if client.unsent == before else 0
        before = client.unsent


async def test_an_address_has_so_many_connections_and_others_are_unhurt(make_config: ConfigMaker) -> None:
    config = make_config(server={"max_connections_per_address": 3})
    async with running(config) as app, AsyncExitStack() as stack:
        port = port_of(app.url)
        held = [await stack.enter_async_context(connected(port)) for _ in range(3)]
        for client in held:
            assert (await client.ask(get("/health")))[0] == 200
        for _ in range(5):
            async with connected(port) as client:
                assert await client.rest() == b""
        assert limited(app, "address") == 5
        async with connected(port, local_addr=("127.0.0.2", 0)) as other:
            assert (await other.ask(get("/health")))[0] == 200
        assert (await held[0].ask(get("/health", b"Connection: close")))[0] == 200
        await held[0].rest()
        async with connected(port) as client:
            assert (await client.ask(get("/health")))[0] == 200


# slowhttptest's three modes, against the server as a process.


@asynccontextmanager
async def patient(folder: Path, url: str) -> AsyncIterator[tuple[Served, aiohttp.ClientSession]]:
    """Start a server that waits a second for everything, and a client of it that behaves."""
    server = {"header_timeout_s": 1.0, "body_timeout_s": 1.0, "write_timeout_s": 1.0, "request_timeout_s": 3.0}
    async with (
        serving(folder, backends=backends(url), server=server, health={"interval_s": 60.0}) as served,
        aiohttp.ClientSession(served.url, timeout=aiohttp.ClientTimeout(total=30)) as session,
    ):
        yield served, session


async def drip(client: Client, first: bytes, then: bytes) -> None:
    """Send the beginning of something, and a little more now and then for as long as the server takes it."""
    client.writer.write(first)
    with suppress(ConnectionError):
        while True:
            await asyncio.sleep(0.1)
            client.writer.write(then)
            await client.writer.drain()


async def serves_others(served: Served, session: aiohttp.ClientSession, attackers: list[asyncio.Task[bytes]]) -> None:
    """Ask for this and that, on kept connections and new ones, until all attackers have ended."""
    while True:
        async with session.get("/health") as response:
            assert response.status == 200
        async with session.post(CHAT, json={"messages": []}) as response:
            assert response.status == 200
        async with connected(served.port) as client:
            assert (await client.ask(get("/health")))[0] == 200
        if all(attacker.done() for attacker in attackers):
            return
        await asyncio.sleep(0.05)


async def attack(served: Served, first: bytes, then: bytes) -> bytes:
    """Drip on a connection; return what the server says before it closes it."""
    async with connected(served.port) as client:
        dripping = asyncio.create_task(drip(client, first, then))
        try:
            return await client.rest()
        finally:
            dripping.cancel()


async def test_slow_headers_hurt_nobody_else(tmp_path: Path, faulty: FaultBackend) -> None:
    async with patient(tmp_path, faulty.url) as (served, session):
        first = b"GET /health HTTP/1.1\r\n" + HOST
        attackers = [asyncio.create_task(attack(served, first, b"X: a\r\n")) for _ in range(MANY)]
        await serves_others(served, session, attackers)
        assert {(await attacker)[9:12] for attacker in attackers} == {b"408"}


async def test_slow_bodies_hurt_nobody_else(tmp_path: Path, faulty: FaultBackend) -> None:
    """A body of which nothing comes ends at its idle time, one that never ends at the request's deadline."""
    async with patient(tmp_path, faulty.url) as (served, session):
        first = post("/rag/search", b"{", length=100_000)
        attackers = [asyncio.create_task(attack(served, first, then)) for then in (b" ", b"") for _ in range(MANY // 2)]
        await serves_others(served, session, attackers)
        assert {(await attacker)[9:12] for attacker in attackers} == {b"408"}


async def test_slow_readers_hurt_nobody_else(tmp_path: Path, faulty: FaultBackend) -> None:
    async with patient(tmp_path, faulty.url) as (served, session), AsyncExitStack() as stack:

        async def unread() -> bytes:
            client = await stack.enter_async_context(connected(served.port, buffer_bytes=4_096))
            client.pause()
            client.writer.write(get(LARGE) * 60)
            await cut_off.wait()
            return b""

        async def told() -> None:
            line = 'hartonomous_http_connections_limited_total{action="write_timeout"} '
            closed = 0.0
            while closed < READERS:
                async with session.get("/metrics") as response:
                    text = await response.text()
                closed = sum(float(row.removeprefix(line)) for row in text.splitlines() if row.startswith(line))
                await asyncio.sleep(0.05)
            cut_off.set()

        cut_off, telling = asyncio.Event(), asyncio.create_task(told())
        await serves_others(served, session, [asyncio.create_task(unread()) for _ in range(READERS)])
        await telling
