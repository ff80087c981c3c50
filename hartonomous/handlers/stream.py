"""Streams to a client: each event flushed when it is made, kept alive while nothing happens.

A client that left is noticed at a write (or by the cancellation of the handler, whichever comes first) and is told
apart from a backend's failure: `ClientGoneError` is no `aiohttp.ClientError`, so no backend pays for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import hdrs, web

from hartonomous import codec
from hartonomous.core import sse
from hartonomous.keys import HELD

PING_S = 15.0


class ClientGoneError(Exception):
    """The client closed its connection in the middle of a response, or stopped reading it."""


class ClientStream:
    """A response that is sent piece by piece; a client that takes nothing of it is cut off by its connection."""

    __slots__ = ("_is_chunked", "_protocol", "_request", "_writer", "response")

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self.response = response
        self._request = request
        self._protocol = request.protocol
        self._writer = request.writer
        self._is_chunked = False

    async def begin(self) -> None:
        """Send status and headers. Raises ClientGoneError."""
        await self._taken(self.response.prepare(self._request))
        self._is_chunked = hdrs.TRANSFER_ENCODING in self.response.headers

    def send(self, data: bytes) -> None:
        """Hand a piece of the body, which is not empty, to the transport at once. Raises ClientGoneError.

        It waits for nothing: whoever sends much looks at `is_full`. It does what aiohttp's writer does in four
        coroutines: there are some 40,000 tokens in a second.
        """
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            raise ClientGoneError
        if self._is_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._writer.output_size += len(data)
        transport.write(data)

    @property
    def is_full(self) -> bool:
        """Whether the client takes less than it is sent: nothing more should be, until it is `drained`."""
        return self._protocol.writing_paused

    async def drained(self) -> None:
        """Wait until the client has taken what it was sent, but for a rest. Raises ClientGoneError."""
        await self._taken(self._writer.drain())

    async def write(self, data: bytes) -> None:
        """Send a piece of the body, and wait until there is room for another. Raises ClientGoneError."""
        if data:
            self.send(data)
        if self.is_full:
            await self.drained()

    async def finish(self) -> None:
        """Send the end of the body. Raises ClientGoneError."""
        await self._taken(self.response.write_eof())

    def hold(self, held: bool) -> None:
        """Let the client take nothing while `held`, however long.

        A client that is still sending its request need not read, and it cannot send while we do not read.
        """
        if held:
            self._request[HELD] = True
        else:
            self._request.pop(HELD, None)

    async def _taken(self, sending: Awaitable[object]) -> None:
        try:
            await sending
        except (ConnectionError, aiohttp.ClientError) as error:
            raise ClientGoneError from error


class EventStream:
    """A `text/event-stream` response with a ping after every 15 s of silence. Used as a context manager."""

    def __init__(self, request: web.Request, headers: dict[str, str] | None = None, ping_s: float = PING_S) -> None:
        own = {"Content-Type": codec.SSE, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        self.response = web.StreamResponse(headers=own | (headers or {}))
        self._client = ClientStream(request, self.response)
        self._ping_s = ping_s
        self._written = 0.0
        self._pings: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._client.begin()
        self._written = time.monotonic()
        self._pings = asyncio.create_task(self._ping())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._pings is not None
        self._pings.cancel()
        # Unlike awaiting it, this lets a cancellation of our own through.
        await asyncio.wait({self._pings})
        if error is None:
            await self._client.finish()

    async def event(self, name: str, value: Any) -> None:
        """Send a named event with a JSON value. Raises ClientGoneError."""
        await self._send(sse.encode(name, codec.dumps(value)))

    async def data(self, value: Any) -> None:
        """Send an unnamed event with a JSON value, as OpenAI's streams do. Raises ClientGoneError."""
        await self._send(b"data: " + codec.dumps(value) + b"\n\n")

    async def done(self) -> None:
        """Send OpenAI's end of stream. Raises ClientGoneError."""
        await self._send(b"data: [DONE]\n\n")

    async def _send(self, data: bytes) -> None:
        self._written = time.monotonic()
        await self._client.write(data)

    async def _ping(self) -> None:
        while True:
            silent = time.monotonic() - self._written
            if silent >= self._ping_s:
                with suppress(ClientGoneError):  # the next event finds out as well
                    await self._send(sse.PING)
            else:
                await asyncio.sleep(self._ping_s - silent)
