"""What a call's response comes through: pieces, pauses, time limits, connections that are used again or are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from hartonomous.clients.failures import AnswerTooLargeError, BrokenOffError, SlowAnswerError
from hartonomous.clients.pool import Pool
from hartonomous.clients.wire import Wire
from hartonomous.core.access import EVERYTHING
from hartonomous.core.call import Call, lines
from hartonomous.core.deadline import Deadline
from hartonomous.metrics import Metrics
from hartonomous.services import Service

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def call(seconds: float = 10.0, **headers: str) -> Call:
    return Call("test", Deadline(seconds), headers, grant=EVERYTHING)


class Backend:
    """A server that does to each request what it is told, and counts connections and requests."""

    def __init__(self, serve: Serve, *, reads: bool) -> None:
        self._serve, self._reads = serve, reads
        self.connections = 0
        self.requests: list[bytes] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.append(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests.append(head)
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0
                )
                await reader.readexactly(length)
                await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def ended(self) -> None:
        """Wait until every connection is closed."""
        await asyncio.wait_for(asyncio.gather(*self._tasks), 5)


@asynccontextmanager
async def served(
    serve: Serve, config: Service | None = None, *, reads: bool = True
) -> AsyncIterator[tuple[Pool, Backend]]:
    backend = Backend(serve, reads=reads)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(await asyncio.start_server(backend, "127.0.0.1", 0))
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        pool = Pool("generative", (url,), config or Service(), Metrics())
        stack.push_async_callback(backend.ended)
        stack.push_async_callback(pool.close)
        yield pool, backend
        assert [replica.active for replica in pool.replicas] == [0]


def length_of(head: bytes) -> int:
    return next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)


def answering(*pieces: bytes) -> Serve:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return serve


async def test_a_body_is_poured_as_it_comes_and_its_connection_used_again() -> None:
    async with served(answering(CHUNKED, b"2\r\nab\r\n", b"1\r\nc\r\n", b"0\r\n\r\n")) as (pool, backend):
        for _ in range(3):
            taken: list[bytes] = []
            async with pool.open("POST", "/x", call(), b"{}") as opened:
                assert (opened.status, opened.length) == (200, None)
                await opened.pour(taken.append)
            assert b"".join(taken) == b"abc"
        assert backend.connections == 1


async def test_what_a_taker_raises_ends_the_pouring_and_the_connection() -> None:
    def take(_: bytes) -> None:
        raise ConnectionResetError("the client left")

    async with served(answering(CHUNKED, b"2\r\nab\r\n", b"1\r\nc\r\n", b"0\r\n\r\n")) as (pool, backend):
        for _ in range(2):
            with pytest.raises(ConnectionResetError, match="the client left"):
                async with pool.open("POST", "/x", call(), b"{}") as opened:
                    await opened.pour(take)
        assert backend.connections == 2 or backend.requests  # where the end came at once, the connection is whole


async def test_a_paused_body_is_held_back_and_whole_in_the_end() -> None:
    size, taken = 8 * 1024 * 1024, bytearray()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    came_meanwhile = 0
    async with (
        served(answering(head, b"x" * size)) as (pool, _),
        pool.open("POST", "/x", call(), b"{}") as opened,
    ):

        def take(data: bytes) -> None:
            taken.extend(data)
            opened.pause()
            asyncio.get_running_loop().call_later(0.001, go_on, len(taken))

        def go_on(before: int) -> None:
            nonlocal came_meanwhile
            came_meanwhile += len(taken) - before
            opened.resume()

        assert opened.length == size
        await opened.pour(take)
    assert (len(taken), came_meanwhile) == (size, 0)


async def test_a_stream_that_pauses_too_long_is_ended_while_it_is_poured() -> None:
    async with served(answering(CHUNKED, b"2\r\nab\r\n"), Service(idle_timeout_s=0.1)) as (pool, _):
        with pytest.raises(SlowAnswerError) as raised:
            async with pool.open("POST", "/x", call(), b"{}") as opened:
                await opened.pour(lambda _: None)
        assert raised.value.is_blamed


async def test_a_paused_stream_is_not_taken_for_an_idle_one() -> None:
    async with served(answering(CHUNKED, b"2\r\nab\r\n", b"0\r\n\r\n"), Service(idle_timeout_s=0.05)) as (pool, _):
        async with pool.open("POST", "/x", call(), b"{}") as opened:
            opened.pause()
            asyncio.get_running_loop().call_later(0.3, opened.resume)
            taken: list[bytes] = []
            await opened.pour(taken.append)
        assert taken == [b"ab"]


async def test_a_stream_has_until_its_deadline() -> None:
    async with served(answering(CHUNKED, b"2\r\nab\r\n")) as (pool, _):
        with pytest.raises(SlowAnswerError) as raised:
            async with pool.open("POST", "/x", call(0.2), b"{}") as opened:
                await opened.pour(lambda _: None)
        assert not raised.value.is_blamed


async def test_a_broken_body_fails_whoever_pours_it() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED + b"2\r\nab\r\n")
        writer.close()

    async with served(serve) as (pool, _):
        with pytest.raises(BrokenOffError):
            async with pool.open("POST", "/x", call(), b"{}") as opened:
                await opened.pour(lambda _: None)


async def test_a_malformed_body_fails_at_once() -> None:
    async with served(answering(CHUNKED, b"zz\r\nab\r\n")) as (pool, _):
        with pytest.raises(BrokenOffError):
            await pool.request("POST", "/x", call(), b"{}", is_idempotent=False)


async def test_a_body_without_a_length_ends_with_the_connection() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nab")
        await writer.drain()
        writer.write(b"c")
        writer.close()

    async with served(serve) as (pool, backend):
        for _ in range(2):
            assert (await pool.request("GET", "/x", call())).body == b"abc"
        assert backend.connections == 2


async def test_interim_answers_are_skipped_and_redirects_not_followed() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    moved = b"HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n"
    async with (
        served(answering(interim, moved)) as (pool, backend),
        pool.open("POST", "/x", call(), b"{}") as opened,
    ):
        assert (opened.status, await opened.read(), len(backend.requests)) == (302, b"", 1)


async def test_an_answer_that_nobody_asked_for_is_nobodys() -> None:
    """aiohttp's own client takes it for the next request's."""
    stray = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()
        await stray.wait()
        writer.write(OK.replace(b"ok", b"no"))
        await writer.drain()

    async with served(serve) as (pool, backend):
        assert (await pool.request("POST", "/x", call(), b"{}")).body == b"ok"
        stray.set()
        await asyncio.sleep(0.05)
        assert (await pool.request("POST", "/x", call(), b"{}")).body == b"ok"
        assert backend.connections == 2


async def test_a_large_body_is_sent_whole() -> None:
    async with served(answering(OK)) as (pool, backend):
        for _ in range(2):
            assert (await pool.request("POST", "/x", call(), b"x" * (3 * 1024 * 1024))).body == b"ok"
        assert backend.connections == 1


async def test_an_answer_before_the_end_of_a_large_body_is_taken() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(0.05)
        while await reader.read(65_536):
            pass
        raise ConnectionError

    async with (
        served(refuse, reads=False) as (pool, _),
        pool.open("POST", "/x", call(), b"x" * (64 * 1024 * 1024)) as opened,
    ):
        assert opened.status == 413


async def test_an_answer_beyond_the_bound_is_refused() -> None:
    large = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000
    async with served(answering(large), Service(max_answer_bytes=1024)) as (pool, _):
        with pytest.raises(AnswerTooLargeError):
            await pool.request("POST", "/x", call(), b"{}")


async def test_a_kept_connection_that_has_closed_costs_what_may_be_repeated_nothing() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if backend.connections == 1 and len(backend.requests) == 2:
            writer.close()
            return
        writer.write(OK)

    async with served(serve) as (pool, backend):
        for _ in range(2):
            assert (await pool.request("GET", "/x", call(), is_idempotent=False)).body == b"ok"
        assert (backend.connections, len(backend.requests)) == (2, 3)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b"])
def test_a_header_is_never_two(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        lines({"X-Request-ID": value, "traceparent": "00"})


async def test_who_leaves_an_answer_under_way_closes_its_connection_and_leaves_no_place() -> None:
    async with served(answering(CHUNKED, b"2\r\nab\r\n")) as (pool, _):

        async def pour() -> None:
            async with pool.open("POST", "/x", call(), b"{}") as opened:
                begun.set()
                await opened.pour(lambda _: None)

        begun = asyncio.Event()
        task = asyncio.create_task(pour())
        await begun.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not tuple(pool.watch)


async def test_a_pool_that_stops_ends_who_pours() -> None:
    async with served(answering(CHUNKED, b"2\r\nab\r\n")) as (pool, _):
        begun = asyncio.Event()

        async def pour() -> None:
            async with pool.open("POST", "/x", call(), b"{}") as opened:
                begun.set()
                await opened.pour(lambda _: None)

        task = asyncio.create_task(pour())
        await begun.wait()
        await pool.abort()
        with pytest.raises(Exception, match="shutting down"):
            await task


@pytest.mark.parametrize("late_s", [7.0, 60.0], ids=["for its headers", "for its end"])
async def test_an_answer_that_has_come_whole_is_not_late_any_more(
    late_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the loop was held, its last byte and the end of its time come in one round, before its reader's turn."""
    leave = Wire.leave

    def leave_late(self: Wire, *, is_whole: bool, is_stream: bool) -> None:
        exchange = self.exchange
        leave(self, is_whole=is_whole, is_stream=is_stream)
        assert exchange is not None
        exchange.look(asyncio.get_running_loop().time() + late_s)

    async with served(answering(OK), Service(first_byte_timeout_s=5)) as (pool, backend):
        monkeypatch.setattr(Wire, "leave", leave_late)
        for _ in range(2):  # read by the parser, and by what is known of it
            assert (await pool.request("POST", "/x", call(), b"{}", is_idempotent=False)).body == b"ok"
    assert backend.connections == 1
