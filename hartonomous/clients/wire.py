"""How a request is sent over a session's connections: a head that is prepared once, and the body behind it.

`ClientSession.request` makes a request, a response, two timers, a task and some forty smaller objects for each call, of
which a service's calls differ in nothing but a few headers and the body (60 to 85 µs). So of aiohttp's client this uses
what is worth having, its connector (connections, TLS, names, keep-alive, unix sockets) and its parser, through
`connector.connect` and the protocol; and sends the rest itself. What comes back is an `Exchange`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import hdrs
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest, ConnectionKey
from aiohttp.http import StreamWriter
from yarl import URL

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage
    from aiohttp.streams import StreamReader
    from aiohttp.tracing import Trace

    from hartonomous.clients.exchange import Exchange

# A larger body goes piece by piece, because in one it would hold the loop.
_IN_ONE = 512 * 1024
_PIECE = 64 * 1024
_MOST_TARGETS = 1_024
_NO_TRACES: list[Trace] = []
# What a kept connection that closes in this moment may be asked once more (RFC 9110, 9.2.2).
_REPEATED = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})


class Wire(ResponseHandler):
    """A connection to a backend, which tells the exchange under way of what comes."""

    exchange: Exchange | None = None

    def data_received(self, data: bytes) -> None:
        """Let aiohttp read what came, and the exchange go on with it."""
        exchange = self.exchange
        if exchange is None:
            if data:  # nothing was asked: the next request would take it for its answer
                self.close()
            return
        super().data_received(data)
        if self._exception is None:
            exchange.flow()
        else:
            exchange.lost(self._exception)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], _size: int = 0) -> None:
        """Hand the headers of a response to the exchange."""
        if self.exchange is None or not self.exchange.began(*data):
            self.force_close()  # more than was asked for

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on where reading was held: aiohttp's streams ask for it at each piece, and run the parser for it."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let the exchange end."""
        super().connection_lost(exc)
        if self.exchange is not None:
            self.exchange.lost(self._exception or aiohttp.ServerDisconnectedError())


class _Target(ClientRequest):
    """What is asked of an address: aiohttp's request, whose headers are written out once, and its way to connect."""

    head = b""

    def prepare(self) -> _Target:
        """Write out what all requests like this one begin with."""
        self._key = super().connection_key
        self.headers.popall(hdrs.CONTENT_LENGTH, None)
        line = f"{self.method} {self.url.raw_path_qs} HTTP/1.1\r\n"
        self.head = line.encode() + lines(self.headers)
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
        self._targets: dict[tuple[str, str, str], _Target] = {}

    async def send(
        self, exchange: Exchange, method: str, url: str, path: str, headers: Mapping[str, str], body: bytes | None
    ) -> None:
        """Send a request to `path` of an address; return when it is answered (`Exchange.answered`).

        Raises aiohttp.ClientError, TimeoutError; RuntimeError when the session is closed.
        """
        connector = self._session.connector
        if connector is None or connector.closed:
            raise RuntimeError("the session is closed")
        target = self._targets.get((method, url, path)) or self._prepare(method, url, path)
        may_repeat = method in _REPEATED
        while True:
            try:
                connection = await exchange.connected(connector.connect(target, _NO_TRACES, self._timeout))
                _write(exchange, connection, target, headers, body)
                return await exchange.answered()
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                raise
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
                if not may_repeat or exchange.status:
                    raise
            except (aiohttp.ClientError, TimeoutError):
                raise
            except OSError as error:
                raise aiohttp.ClientOSError(*error.args) from error
            may_repeat = False
            exchange.begin_again()

    async def close(self) -> None:
        """Close every connection, which ends the exchanges that have one."""
        await self._session.close()

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
            loop=asyncio.get_running_loop(),
        )
        self._targets[method, url, path] = target.prepare()
        return target


def lines(headers: Mapping[str, str]) -> bytes:
    """Return headers as they are sent. Raises ValueError where one would begin another line."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if not text.count("\r") == text.count("\n") == len(headers) or "\0" in text:
        raise ValueError("a header cannot hold a line break")
    return text.encode()


def _write(
    exchange: Exchange, connection: Connection, target: _Target, headers: Mapping[str, str], body: bytes | None
) -> None:
    transport = exchange.attach(connection, is_without_body=target.method == hdrs.METH_HEAD)
    head = target.head + lines(headers)
    if body is None:
        transport.write(head + (b"\r\n" if target.method in target.GET_METHODS else b"Content-Length: 0\r\n\r\n"))
        return
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    if len(body) <= _IN_ONE:
        transport.write(head + body)
        return
    transport.write(head)
    wire = connection.protocol
    assert wire is not None
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
