"""Streams to a client: each event flushed when it is made, kept alive while nothing happens.

A client that left is noticed at a write (or by the cancellation of the handler, whichever comes first) and is told
apart from a backend's failure: `ClientGoneError` is no `aiohttp.ClientError`, so no backend pays for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web

from hartonomous import codec
from hartonomous.core import sse

PING_S = 15.0


class ClientGoneError(Exception):
    """The client closed its connection in the middle of a response."""


@contextmanager
def _client_errors() -> Iterator[None]:
    try:
        yield
    except (ConnectionError, aiohttp.ClientError) as error:
        raise ClientGoneError from error


async def begin(response: web.StreamResponse, request: web.Request) -> None:
    """Send status and headers. Raises ClientGoneError."""
    with _client_errors():
        await response.prepare(request)


async def write(response: web.StreamResponse, data: bytes) -> None:
    """Send a piece of the body. Raises ClientGoneError."""
    with _client_errors():
        await response.write(data)


async def finish(response: web.StreamResponse) -> None:
    """Send the end of the body. Raises ClientGoneError."""
    with _client_errors():
        await response.write_eof()


class EventStream:
    """A `text/event-stream` response with a ping after every 15 s of silence. Used as a context manager."""

    def __init__(self, request: web.Request, headers: dict[str, str] | None = None, ping_s: float = PING_S) -> None:
        self.response = web.StreamResponse(
            headers={"Content-Type": codec.SSE, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            | (headers or {})
        )
        self._request = request
        self._ping_s = ping_s
        self._written = 0.0
        self._pings: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await begin(self.response, self._request)
        self._written = time.monotonic()
        self._pings = asyncio.create_task(self._ping())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._pings is not None
        self._pings.cancel()
        with suppress(asyncio.CancelledError, ClientGoneError):
            await self._pings
        if error is None:
            await finish(self.response)

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
        await write(self.response, data)

    async def _ping(self) -> None:
        while True:
            silent = time.monotonic() - self._written
            if silent >= self._ping_s:
                await self._send(sse.PING)
            else:
                await asyncio.sleep(self._ping_s - silent)
