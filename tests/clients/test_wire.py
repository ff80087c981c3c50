"""Connections to a backend: how long they wait for a call, which is taken, and what ends them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp.connector import Connection

from hartonomous.clients import wire
from hartonomous.clients.pool import Pool
from hartonomous.errors import BackendError, HartonomousError
from hartonomous.metrics import Metrics
from hartonomous.services import Service
from tests.clients.guarded import ticks
from tests.clients.test_exchange import CHUNKED, OK, answering, call, served
from tests.service import fault_backend as fault
from tests.service.application import WAIT_S, eventually
from tests.service.fault_backend import FaultBackend

PATH = "/x"


@asynccontextmanager
async def _pool(backend: FaultBackend, config: Service | None = None) -> AsyncIterator[Pool]:
    pool = Pool("generative", (backend.url,), config or Service(), Metrics())
    try:
        yield pool
    finally:
        await pool.close()


async def _together(pool: Pool, backend: FaultBackend, count: int) -> None:
    """Make so many calls at once, each over a connection of its own."""
    begun, asked = asyncio.Event(), len(backend.calls(PATH))
    backend.on(PATH, fault.after(fault.reply(), begun))
    tasks = [asyncio.create_task(pool.request("POST", PATH, call(), b"{}")) for _ in range(count)]
    await eventually(lambda: len(backend.calls(PATH)) == asked + count, "all are asked")
    begun.set()
    await asyncio.gather(*tasks)


def _waiting(pool: Pool) -> int:
    """Return how many connections wait for a call that have not been closed by the backend."""
    return sum(one.is_connected() for kept in pool._caller._wires._kept.values() for one in kept._wires)


async def test_idle_connections_are_closed_in_time(faulty: FaultBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "KEEPALIVE_S", 0.1)
    async with _pool(faulty) as pool:
        for _ in range(2):  # the sweep goes on where it has ended before
            await _together(pool, faulty, 3)
            await eventually(lambda: not faulty.open_connections, "idle connections are closed")
        assert faulty.connections == 6


async def test_a_connection_in_use_outlives_the_idle_ones(
    faulty: FaultBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "KEEPALIVE_S", 0.5)
    async with _pool(faulty) as pool, asyncio.timeout(WAIT_S):
        await _together(pool, faulty, 3)
        faulty.on(PATH, fault.reply())
        while faulty.open_connections > 1:
            await pool.request("POST", PATH, call(), b"{}")
            await asyncio.sleep(0.01)
        assert faulty.connections == 3


async def test_the_connection_that_was_used_last_goes_first(faulty: FaultBackend) -> None:
    peers: list[object] = []

    async def behave(exchange: fault.Exchange) -> None:
        peers.append(exchange._writer)
        await fault.reply()(exchange)

    async with _pool(faulty) as pool:
        await _together(pool, faulty, 3)
        faulty.on(PATH, behave)
        for _ in range(3):
            await pool.request("POST", PATH, call(), b"{}")
    assert (len(peers), len(set(peers)), faulty.connections) == (3, 1, 3)


async def test_a_connection_that_the_backend_has_closed_is_not_used(faulty: FaultBackend) -> None:
    async def ending(exchange: fault.Exchange) -> None:
        await fault.reply()(exchange)
        exchange.close()

    faulty.on(PATH, ending)
    async with _pool(faulty) as pool:
        for number in range(1, 4):  # none of these may be sent again
            await pool.request("POST", PATH, call(), b"{}", is_idempotent=False)
            await eventually(lambda: not _waiting(pool), "the end has come")
            assert (faulty.connections, len(faulty.calls(PATH))) == (number, number)


async def test_the_oldest_are_closed_while_the_others_stay(
    faulty: FaultBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep that finds some to keep comes again for them."""
    monkeypatch.setattr(wire, "KEEPALIVE_S", 0.4)
    async with _pool(faulty) as pool, asyncio.timeout(WAIT_S):
        await _together(pool, faulty, 3)
        faulty.on(PATH, fault.reply())
        while faulty.open_connections == 3:
            await pool.request("POST", PATH, call(), b"{}")
            await asyncio.sleep(0.01)
        assert faulty.open_connections == 1
        await eventually(lambda: not faulty.open_connections, "the last one is closed as well")
        assert faulty.connections == 3


@pytest.mark.parametrize("status", [b"000", b"099"])
async def test_a_status_below_100_breaks_the_call_off_at_once(status: bytes) -> None:
    answer = b"HTTP/1.1 %b X\r\nContent-Length: 2\r\n\r\n{}" % status
    async with served(answering(answer), Service(first_byte_timeout_s=20)) as (pool, _), asyncio.timeout(10):
        with pytest.raises(BackendError):
            await pool.request("POST", PATH, call(30), b"{}", is_idempotent=False)


async def test_an_informational_answer_after_the_final_one_closes_the_connection() -> None:
    for stray in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"):
        async with served(answering(OK + stray)) as (pool, backend):
            for _ in range(2):
                assert (await pool.request("POST", PATH, call(), b"{}")).body == b"ok"
            assert backend.connections == 2


@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 500 X\r\nX-Told: ", b"HTTP/1.1 100 Continue\r\n"])
@pytest.mark.parametrize("whole", [OK, CHUNKED + b"2\r\nok\r\n0\r\n\r\n"], ids=["told", "chunked"])
async def test_what_begins_behind_an_answer_is_no_part_of_the_next_one(whole: bytes, begun: bytes) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(whole + begun if len(backend.requests) == 1 else OK)

    async with served(serve) as (pool, backend):
        for _ in range(3):
            answer = await pool.request("POST", PATH, call(), b"{}", is_idempotent=False)
            assert (answer.status, answer.body, answer.headers.get("X-Told")) == (200, b"ok", None)
        assert backend.connections == 2


async def test_no_body_is_read_before_the_answer_itself() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in (CHUNKED.replace(b"200 OK", b"102 Wait"), b"5\r\nhello\r\n", OK):
            writer.write(piece)
            await ticks()  # each comes by itself

    async with served(serve) as (pool, _):
        with pytest.raises(BackendError):
            await pool.request("POST", PATH, call(), b"{}", is_idempotent=False)


@asynccontextmanager
async def _deaf() -> AsyncIterator[tuple[str, list[socket.socket]]]:
    """A server that takes connections and reads nothing; yields its address and what it has taken."""
    taken: list[socket.socket] = []
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        listening.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(listening, lambda: taken.append(stack.enter_context(listening.accept()[0])))
        stack.callback(loop.remove_reader, listening)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", taken


def _open_sockets() -> int:
    """Return how many sockets this process has: uvloop has files of its own beside."""
    return sum(each.is_socket() for each in Path("/proc/self/fd").iterdir())


async def test_a_backend_that_does_not_read_a_large_request_keeps_no_connection() -> None:
    async with _deaf() as (url, taken):
        pool, before = Pool("generative", (url,), Service(), Metrics()), _open_sockets()
        try:
            with pytest.raises(HartonomousError):
                await pool.request("POST", PATH, call(0.3), b"x" * (16 * 1024 * 1024), is_idempotent=False)
            assert taken
            await eventually(lambda: _open_sockets() == before + len(taken), "our side is closed")
        finally:
            await pool.close()


@pytest.mark.parametrize("size", [1, 65_536, 65_537, 131_072, 131_073, 200_000])
async def test_what_came_in_the_segment_in_which_it_was_held_is_handed_out(size: int) -> None:
    """The parser holds as well when it has much; nothing comes from the backend any more, which would wake it."""
    segment = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (size, b"x" * size) for _ in range(3)) + b"0\r\n\r\n"
    taken = bytearray()
    async with (
        served(answering(segment), Service(idle_timeout_s=5)) as (pool, _),
        pool.open("POST", PATH, call(), b"{}") as opened,
    ):

        def take(data: bytes) -> None:
            taken.extend(data)
            opened.pause()
            asyncio.get_running_loop().call_later(0.01, opened.resume)

        await opened.pour(take)
    assert len(taken) == 3 * size


@pytest.mark.parametrize("count", [16_384, 16_385, 16_386])
async def test_a_body_of_many_chunks_is_read_where_the_parser_was_held_at_the_last_that_came(count: int) -> None:
    """Held while it parses what came, it is to go on with what comes next."""
    taken = bytearray()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"1\r\nx\r\n" * count)
        await eventually(lambda: len(taken) == count, "all that came is handed out")
        writer.write(b"1\r\ny\r\n0\r\n\r\n")

    async with (
        served(serve, Service(idle_timeout_s=5)) as (pool, _),
        pool.open("POST", PATH, call(), b"{}") as opened,
    ):
        await opened.pour(taken.extend)
    assert len(taken) == count + 1


STREAM = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Type: text/event-stream\r\n\r\n") + b"2\r\nab\r\n0\r\n\r\n"


async def test_a_connection_is_used_again_when_it_has_rested_after_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(answering(STREAM)) as (pool, backend):
        for rest_s, connections in ((60.0, 1), (60.0, 2), (0.0, 2), (0.0, 2)):
            monkeypatch.setattr(wire, "REST_S", rest_s)
            assert (await pool.request("POST", "/x", call(), b"{}")).body == b"ab"
            assert backend.connections == connections


async def test_resting_connections_are_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "KEEPALIVE_S", 0.05)
    async with served(answering(STREAM)) as (pool, backend):
        for _ in range(2):
            await pool.request("POST", "/x", call(), b"{}")
            await backend.ended()
        assert backend.connections == 2


async def test_where_the_backend_closes_a_connection_after_a_stream_none_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        if backend.connections == 1:
            await asyncio.sleep(0.02)
            writer.close()

    async with served(serve) as (pool, backend):
        await pool.request("POST", "/x", call(), b"{}")
        await backend.ended()
        await eventually(lambda: not _resting(pool), "the closed connection is noticed")
        monkeypatch.setattr(wire, "REST_S", 0.0)
        for connections in (2, 3):
            await pool.request("POST", "/x", call(), b"{}")
            assert backend.connections == connections
            await backend.ended()


def _resting(pool: Pool) -> int:
    return sum(len(kept._resting) for kept in pool._caller._wires._kept.values())


async def test_a_connection_that_is_lost_before_anything_was_asked_over_it_is_closed() -> None:
    """It has no parser any more that could be asked whether it may stay."""
    lost, connection = wire.Wire(asyncio.get_running_loop()), Mock()
    lost.connection = connection
    lost.leave(is_whole=False, is_stream=False)
    connection.close.assert_called_once_with()


async def test_a_connection_that_is_lost_before_anything_is_sent_is_made_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Connection] = []
    async with served(answering(OK)) as (pool, backend):
        connector = pool._caller._wires._session.connector
        assert connector is not None
        connect = connector.connect

        async def losing(*asked: Any) -> Connection:
            made.append(connection := await connect(*asked))
            if len(made) == 1:
                protocol = connection.protocol
                assert protocol is not None
                assert protocol.transport is not None
                protocol.transport.close()
                await eventually(lambda: protocol.transport is None, "it is lost")
            return connection

        monkeypatch.setattr(connector, "connect", losing)
        assert (await pool.request("GET", "/x", call())).body == b"ok"
        assert (len(made), len(backend.requests)) == (2, 1)
        assert made[0].closed
