"""A backend that fails as a test wants: a raw HTTP/1.1 server in the test's own loop.

By itself it answers like llama.cpp (`/health`, `/props`, `/v1/models`, embeddings, rerank, chat), or passes everything
on to a real backend when it is given one (`upstream`), so that only the path which a test sets is faulty:

    backend.on("/v1/embeddings", reset(), DEFAULT)      # the first call is reset, the later ones are answered
    backend.on("/v1/chat/completions", stream([b"data: {}\n\n"], end="reset"))

A behaviour is `async def behave(exchange)`; the functions below make the usual ones. The last one of a path repeats.
`otherwise` is the behaviour of the paths that nothing was said of.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Self

import pytest
from multidict import CIMultiDict

from tests.accepting import Accepting
from tests.service.fault_answers import DIMENSION, MODEL, TOKENS, completion, embeddings, sse, vector
from tests.service.fault_behaviours import (
    DEFAULT,
    Behaviour,
    End,
    Exchange,
    Received,
    after,
    close,
    cut,
    done_but_lost,
    drip,
    endless,
    forwarded,
    hang,
    json_reply,
    raw,
    reply,
    reset,
    stream,
)

__all__ = [
    "DEFAULT",
    "DIMENSION",
    "MODEL",
    "TOKENS",
    "Behaviour",
    "End",
    "Exchange",
    "FaultBackend",
    "Received",
    "after",
    "close",
    "completion",
    "cut",
    "done_but_lost",
    "drip",
    "embeddings",
    "endless",
    "hang",
    "json_reply",
    "raw",
    "reply",
    "reset",
    "sse",
    "stream",
    "vector",
]


class FaultBackend:
    """The server: an async context manager that listens on a free port of 127.0.0.1, over TLS with a context."""

    def __init__(self, upstream: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.upstream = upstream
        self.tls = tls
        self.otherwise: Behaviour = DEFAULT
        self.requests: list[Received] = []
        self.connections = 0
        self._open = 0
        self._port = 0
        self._paths: dict[str, list[Behaviour]] = {}
        self._server = Accepting(self._accept, tls=tls, limit=1 << 26)

    @property
    def url(self) -> str:
        """The base address."""
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self._port}"

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return self._open

    def on(self, path: str, *behaviours: Behaviour) -> None:
        """Let a path (without its query) behave so: each call takes the next behaviour, the last one stays."""
        self._paths[path] = list(behaviours)

    def calls(self, path: str) -> list[Received]:
        """Return the requests of a path (without its query), in the order they came."""
        return [request for request in self.requests if request.path.partition("?")[0] == path]

    async def start(self) -> None:
        """Listen; after `stop` on the same port again."""
        self._port = self._server.start("127.0.0.1", self._port)

    async def stop(self) -> None:
        """End every connection and stop listening: connections are refused from now on."""
        await self._server.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open += 1
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            return  # the peer ended it
        finally:
            self._open -= 1
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(1)
        while first:
            request = await _read_request(first, reader)
            self.requests.append(request)
            # The next byte is the next request's, or says that the peer has gone.
            watch = asyncio.create_task(_watch(reader, request))
            exchange = Exchange(request, writer)
            try:
                await self._behave(exchange)
                request.answered = True
                if exchange.ended:
                    return
                first = await watch
            except ConnectionError:
                request.closed.set()
                return
            finally:
                await _cancelled(watch)

    async def _behave(self, exchange: Exchange) -> None:
        path = exchange.request.path.partition("?")[0]
        behaviours = self._paths.get(path)
        if behaviours is None:
            behaviour = self.otherwise
        else:
            behaviour = behaviours[0] if len(behaviours) == 1 else behaviours.pop(0)
        if behaviour is DEFAULT and self.upstream is not None:
            await exchange.answer(*await forwarded(self.upstream, exchange.request))
        else:
            await behaviour(exchange)


async def _watch(reader: asyncio.StreamReader, request: Received) -> bytes:
    try:
        byte = await reader.read(1)
    except ConnectionError:
        byte = b""
    if not byte:
        request.closed.set()
    return byte


async def _cancelled(task: asyncio.Task[bytes]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _read_request(first: bytes, reader: asyncio.StreamReader) -> Received:
    head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    start, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    method, path, _ = start.split(" ")
    headers = CIMultiDict([(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)])
    body = await reader.readexactly(int(headers.get("Content-Length", "0")))
    return Received(method, path, headers, body)


@pytest.fixture
async def faulty() -> AsyncIterator[FaultBackend]:
    """A backend that answers like llama.cpp until the test says otherwise."""
    async with FaultBackend() as backend:
        yield backend
