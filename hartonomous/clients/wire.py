"""How a request is sent over a session's connections: a head that is prepared once, and the body behind it.

`ClientSession.request` makes a request, a response, two timers, a task and some forty smaller objects for each call, of
which a service's calls differ in nothing but a few headers and the body (60 to 85 µs). So of aiohttp's client this uses
what is worth having, its connector (connections, TLS, names, unix sockets) and its parser, through `connector.connect`
and the protocol; and sends the rest itself, over connections that it keeps. What comes back is an `Exchange`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest, ConnectionKey
from aiohttp.http import StreamWriter
from yarl import URL

from hartonomous.clients.heads import Heads
from hartonomous.core import chunked
from hartonomous.core.call import lines
from hartonomous.pausing import Pausing

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage
    from aiohttp.streams import StreamReader
    from aiohttp.tracing import Trace

    from hartonomous.clients.exchange import Exchange

KEEPALIVE_S = 4.0
"""How long a connection waits for a call: llama.cpp closes it after 5 s, and no request is to meet a closing one."""

REST_S = 0.25
"""How long a connection rests after a stream."""

# A larger body goes piece by piece, because in one it would hold the loop.
_IN_ONE = 512 * 1024
_PIECE = 64 * 1024
_MOST_TARGETS = 1_024
_NO_TRACES: list[Trace] = []
# What a kept connection that closes in this moment may be asked once more (RFC 9110, 9.2.2).
_REPEATED = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


class Wire(Pausing, ResponseHandler):
    """A connection to a backend, which tells the exchange under way of what comes."""

    exchange: Exchange | None = None
    connection: Connection
    kept: Kept
    kept_at = 0.0
    """When it was kept last, or began to rest, in the loop's time."""
    is_resting = False
    """Whether it is to be seen if the backend closes it."""
    _is_without_body: bool | None = None
    _is_unread = False
    """Whether nothing has come of a response that is expected."""
    _is_parsed = True
    """Whether aiohttp's parser has read any of it: else it is as ready for the next one as it was for this."""
    _is_chunked = False
    _is_before_chunk = False
    """Whether the parser expects the size of a chunk: what is known to be whole chunks need not go through it then."""
    _was_paused = False

    def expect(self, exchange: Exchange, *, is_without_body: bool) -> asyncio.Transport:
        """Begin to read the response of an exchange, which has no body to HEAD; return what the request is written to.

        aiohttp's parser is ready for the next response when it has read one to its end.
        """
        transport = self.transport
        assert transport is not None
        exchange.wire, self.exchange = self, exchange
        if is_without_body is not self._is_without_body:
            self._is_without_body = is_without_body
            self.set_response_params(skip_payload=is_without_body, read_until_eof=True, auto_decompress=False)
        self._is_unread = not is_without_body
        if self._is_parsed:
            self._is_chunked = self._is_before_chunk = self._is_parsed = False
        return transport

    def leave(self, *, is_whole: bool, is_stream: bool) -> None:
        """End the exchange; with its whole answer the connection is kept for another one, after a stream later."""
        self.exchange = None
        if is_whole and self.transport is not None and not (self._is_parsed and self._may_not_stay()):
            if not is_stream:
                self.kept.keep(self)
                return
            if self.kept.rest(self):
                return
        if self.transport is not None and self.transport.get_write_buffer_size():
            self.transport.abort()  # to close it would be to wait until the backend has taken all of the request
        self.connection.close()

    def _may_not_stay(self) -> bool:
        """Whether the parser has read something after which the connection serves no more."""
        return self.should_close or self._has_begun_another()

    def _has_begun_another(self) -> bool:
        """Whether the beginning of another answer came behind the one that is whole: the next one would go on with it.

        The parser tells so only when it is told that nothing more comes; without such a beginning that changes nothing.
        """
        assert self._parser is not None
        try:
            return self._parser.feed_eof() is not None
        except Exception:  # noqa: BLE001 - what it says of half a head
            return True

    def hold(self) -> None:
        """Let the backend wait with what it has not sent yet.

        The transport alone is held: the parser would go on with what it has only where it was told so while it reads.
        """
        self._pause_reading_for_buffer()

    def let_go(self) -> None:
        """Go on after a `hold`."""
        self._resume_reading_for_buffer()

    def data_received(self, data: bytes) -> None:
        """Let aiohttp read what came, and the exchange go on with it."""
        exchange = self.exchange
        if exchange is None:
            if data:  # nothing was asked: the next request would take it for its answer
                self.close()
            return
        if self._is_before_chunk:
            content = chunked.content_of(data)
            if content is not None and exchange.came(content):
                return
            self._is_before_chunk = content is not None
        is_first, self._is_unread = self._is_unread, False
        if is_first and (known := self.kept.heads.read(data)) is not None:
            exchange.answered_at_once(*known)
            return
        self._is_parsed = True
        super().data_received(data)
        if self._exception is not None:
            exchange.lost(self._exception)
            return
        if is_first and self._is_chunked:
            self._is_before_chunk = chunked.is_before_chunk(data) and not self._was_paused
        elif is_first and self._payload is not None and not self.should_close:
            self.kept.heads.learn(data, exchange.status, exchange.headers, self._payload.total_bytes)
        exchange.flow()

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], _size: int = 0) -> None:
        """Hand the headers of a response to the exchange."""
        message, content = data
        self._is_chunked = message.chunked and message.code >= 200  # before the answer itself no body comes
        if self.exchange is None or not self.exchange.began(message.code, message.headers, content):
            self.force_close()  # more than was asked for
            if self.exchange is not None and not self.exchange.status:
                self.exchange.abort(aiohttp.ClientPayloadError("no status"))

    def pause_reading(self) -> None:
        """Hold reading, and the parser, in the midst of what it was given."""
        self._is_before_chunk = False
        super().pause_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let the exchange end."""
        super().connection_lost(exc)
        if self.is_resting:
            self.kept.lost(self)
        if self.exchange is not None:
            self.exchange.lost(self._exception or aiohttp.ServerDisconnectedError())


class Kept:
    """The connections to one address that wait for a call, each `KEEPALIVE_S` at most. For one event loop.

    They stay the connector's, which counts them as in use: to give each back to it and to ask for it again costs 5 µs
    a call, to take it from here a tenth of that.

    After a stream of events llama.cpp closes a connection, though it says Keep-Alive: the next call would meet it
    closing. So one rests for `REST_S` then. Of a backend that has closed a resting one no other is kept.
    """

    __slots__ = ("_closes_streams", "_loop", "_resting", "_timer", "_wires", "heads")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.heads = Heads()
        """Those of the address's answers."""
        self._timer: asyncio.TimerHandle | None = None
        self._wires: list[Wire] = []
        self._resting: deque[Wire] = deque()
        self._closes_streams = False

    def take(self) -> Wire | None:
        """Return the one that was used last and is still good; None where there is none."""
        wires = self._wires
        if self._resting and not wires:
            self._wake()
        while wires:
            wire = wires.pop()
            if wire.is_connected() and wire.kept_at > self._loop.time() - KEEPALIVE_S:
                return wire
            wire.connection.close()
        return None

    def keep(self, wire: Wire) -> None:
        """Keep one that has nothing more to read."""
        wire.kept_at = self._loop.time()
        self._wires.append(wire)
        if self._timer is None:
            self._timer = self._loop.call_at(wire.kept_at + KEEPALIVE_S, self._sweep)

    def rest(self, wire: Wire) -> bool:
        """Keep one later that has just ended a stream; return whether it is worth it."""
        if self._closes_streams:
            return False
        wire.kept_at, wire.is_resting = self._loop.time(), True
        self._resting.append(wire)
        if self._timer is None:
            self._timer = self._loop.call_at(wire.kept_at + KEEPALIVE_S, self._sweep)
        return True

    def lost(self, wire: Wire) -> None:
        """A resting one is lost: the backend closes connections after streams."""
        self._closes_streams = True
        self._resting.remove(wire)
        wire.is_resting = False
        wire.connection.close()

    def _wake(self) -> None:
        """Take those for connections like others that have rested."""
        by = self._loop.time() - REST_S
        while self._resting and self._resting[0].kept_at <= by:
            wire = self._resting.popleft()
            wire.is_resting = False
            self._wires.append(wire)

    def close(self) -> None:
        """Close all of them."""
        if self._timer is not None:
            self._timer.cancel()
        while self._resting:
            wire = self._resting.popleft()
            wire.is_resting = False
            wire.connection.close()
        for wire in self._wires:
            wire.connection.close()
        self._wires.clear()

    def _sweep(self) -> None:
        """Close those that have waited too long, or were closed by the backend; the first has waited longest."""
        self._wake()
        by, wires = self._loop.time() - KEEPALIVE_S, self._wires
        self._wires = [wire for wire in wires if wire.kept_at > by and wire.is_connected()]
        for wire in [wire for wire in wires if wire not in self._wires]:
            wire.connection.close()
        first = min((each[0].kept_at for each in (self._wires, self._resting) if each), default=None)
        self._timer = None if first is None else self._loop.call_at(first + KEEPALIVE_S, self._sweep)


class _Target(ClientRequest):
    """What is asked of an address: aiohttp's request, whose headers are written out once, and its way to connect."""

    head = b""
    is_without_body = False
    """Whether the answer has none."""
    kept: Kept

    def prepare(self) -> _Target:
        """Write out what all requests like this one begin with."""
        self._key = super().connection_key
        self.headers.popall(hdrs.CONTENT_LENGTH, None)
        line = f"{self.method} {self.url.raw_path_qs} HTTP/1.1\r\n"
        self.head = line.encode() + lines(self.headers)
        self.is_without_body = self.method == hdrs.METH_HEAD
        return self

    @property
    def connection_key(self) -> ConnectionKey:
        """Which connections are as good as each other; aiohttp makes it anew each time."""
        return self._key


class Wires:
    """The connections of a session, for calls with the same time to connect. Made inside a running loop."""

    def __init__(self, session: aiohttp.ClientSession, connect_timeout_s: float) -> None:
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s)
        self._loop = asyncio.get_running_loop()
        self._targets: dict[tuple[str, str, str], _Target] = {}
        self._kept: dict[ConnectionKey, Kept] = {}

    async def send(
        self, exchange: Exchange, method: str, url: str, path: str, headers: bytes, body: bytes | None
    ) -> None:
        """Send a request to `path` of an address; return when the headers are there, of what is whole the answer.

        `headers` are `core.call.lines`.

        Raises aiohttp.ClientError, TimeoutError; RuntimeError when the session is closed.
        """
        target = self._targets.get((method, url, path)) or self._prepare(method, url, path)
        has_repeated = False
        while True:
            try:
                wire = target.kept.take()
                if wire is None:
                    wire = await self._connected(exchange, target)
                _write(exchange, wire, target, headers, body)
                await exchange.news()
                if exchange.error is None:
                    return
                raise exchange.error
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                raise
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
                if has_repeated or method not in _REPEATED or exchange.status:
                    raise
            except (aiohttp.ClientError, TimeoutError):
                raise
            except OSError as error:
                raise aiohttp.ClientOSError(*error.args) from error
            has_repeated = True
            exchange.begin_again()

    async def _connected(self, exchange: Exchange, target: _Target) -> Wire:
        """Return a new connection."""
        connector = self._session.connector
        if connector is None or connector.closed:
            raise RuntimeError("the session is closed")
        try:
            connection = await exchange.connected(connector.connect(target, _NO_TRACES, self._timeout))
        except aiohttp.ClientConnectorError as error:
            error.__traceback__ = None  # aiohttp's frame keeps it, and it all the callers of this with their requests
            raise
        wire = connection.protocol
        assert isinstance(wire, Wire)
        if not wire.is_connected():
            connection.close()
            raise aiohttp.ClientConnectionResetError("closed meanwhile")
        wire.connection, wire.kept = connection, target.kept
        return wire

    async def close(self) -> None:
        """Close every connection, which ends the exchanges that have one."""
        await self._session.close()
        for kept in self._kept.values():
            kept.close()

    def _prepare(self, method: str, url: str, path: str) -> _Target:
        """Return what is asked with its headers, the session's among them; it is kept for the next time."""
        if len(self._targets) >= _MOST_TARGETS:
            self._targets.clear()
        target = _Target(
            method,
            URL(url + path),
            headers={**self._session.headers, hdrs.CONTENT_TYPE: "application/json"},
            skip_auto_headers=self._session.skip_auto_headers,
            session=self._session,
            loop=self._loop,
        )
        self._targets[method, url, path] = target.prepare()
        target.kept = self._kept.setdefault(target.connection_key, Kept(self._loop))
        return target


def _write(exchange: Exchange, wire: Wire, target: _Target, headers: bytes, body: bytes | None) -> None:
    transport = wire.expect(exchange, is_without_body=target.is_without_body)
    head = target.head + headers
    if body is None:
        transport.write(head + (b"\r\n" if target.method in target.GET_METHODS else b"Content-Length: 0\r\n\r\n"))
        return
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    if len(body) <= _IN_ONE:
        transport.write(head + body)
        return
    transport.write(head)
    exchange.writing(asyncio.create_task(_write_on(wire, exchange, body)))


async def _write_on(wire: ResponseHandler, exchange: Exchange, body: bytes) -> None:
    """Send a large body as fast as the backend takes it."""
    writer, rest = StreamWriter(wire, asyncio.get_running_loop()), memoryview(body)
    try:
        for start in range(0, len(body), _PIECE):
            await writer.write(rest[start : start + _PIECE])
    except OSError as error:
        if not exchange.status:
            exchange.abort(aiohttp.ClientOSError(error.errno, "the body could not be sent"))
