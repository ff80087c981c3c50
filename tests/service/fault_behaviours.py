"""What a fault backend can do with a request: answer, drip, hang, break off in every way."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, Literal

import aiohttp
from multidict import CIMultiDict

from tests.service.fault_answers import HEALTH, MODELS, PROPS, TOKENS, completion, embeddings, ranking, sse

End = Literal["complete", "clean", "reset", "hang"]


@dataclass(slots=True)
class Received:
    """A request that came in. `closed` is set when the peer ends the connection before or after the answer."""

    method: str
    path: str
    headers: CIMultiDict[str]
    body: bytes
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    answered: bool = False

    @property
    def json(self) -> Any:
        """The parsed body."""
        return json.loads(self.body)


class Exchange:
    """One request and the connection that its answer is written to."""

    def __init__(self, request: Received, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self._writer = writer
        self.ended = False

    async def raw(self, data: bytes) -> None:
        """Write bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, status: int, headers: Mapping[str, str]) -> None:
        """Write a status line and headers."""
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
        await self.raw("\r\n".join((*lines, "", "")).encode("latin-1"))

    async def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Write a whole answer."""
        await self.head(status, {"Content-Length": str(len(body)), **headers})
        await self.raw(body)

    async def chunk(self, data: bytes) -> None:
        """Write one piece of a chunked body."""
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def hang(self) -> None:
        """Wait until the peer has had enough."""
        await self.request.closed.wait()
        self.ended = True

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        socket = self._writer.get_extra_info("socket")
        # SO_LINGER with 0 s: close() sends RST at once.
        socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
        self.ended = True

    def close(self) -> None:
        """End the connection in the normal way (FIN)."""
        self._writer.close()
        self.ended = True


Behaviour = Callable[[Exchange], Awaitable[None]]


def reply(
    status: int = 200, body: bytes = b"{}", headers: Mapping[str, str] | None = None, *, delay_s: float = 0.0
) -> Behaviour:
    """Answer so, after a delay."""

    async def behave(exchange: Exchange) -> None:
        await asyncio.sleep(delay_s)
        await exchange.answer(status, body, {"Content-Type": "application/json", **(headers or {})})

    return behave


def json_reply(value: Any, status: int = 200, *, delay_s: float = 0.0) -> Behaviour:
    """Answer with JSON as Python writes it, `NaN` and lone surrogates included."""
    return reply(status, json.dumps(value).encode(), delay_s=delay_s)


def stream(
    pieces: Sequence[bytes],
    end: End = "complete",
    *,
    gap_s: float = 0.0,
    status: int = 200,
    content_type: str = "text/event-stream",
    headers: Mapping[str, str] | None = None,
) -> Behaviour:
    """Send a chunked body in pieces, `gap_s` before each.

    It ends as HTTP wants ("complete"), with a FIN in the middle ("clean"), with a RST, or not at all ("hang").
    """

    async def behave(exchange: Exchange) -> None:
        fields = {"Content-Type": content_type, "Transfer-Encoding": "chunked", **(headers or {})}
        await exchange.head(status, fields)
        for piece in pieces:
            await asyncio.sleep(gap_s)
            await exchange.chunk(piece)
        await _end(exchange, end)

    return behave


def cut(body: bytes, after: int, end: End = "reset", *, status: int = 200) -> Behaviour:
    """Promise the whole body by `Content-Length`, send `after` bytes of it, then end the connection so."""

    async def behave(exchange: Exchange) -> None:
        await exchange.head(status, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        await exchange.raw(body[:after])
        await _end(exchange, end)

    return behave


def drip(body: bytes, gap_s: float, *, status: int = 200) -> Behaviour:
    """Send the body a byte at a time."""

    async def behave(exchange: Exchange) -> None:
        await exchange.head(status, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        for byte in body:
            await asyncio.sleep(gap_s)
            await exchange.raw(bytes((byte,)))

    return behave


def endless(piece: bytes, *, content_type: str = "application/json") -> Behaviour:
    """Send the piece again and again until the peer ends the connection."""

    async def behave(exchange: Exchange) -> None:
        await exchange.head(200, {"Content-Type": content_type, "Transfer-Encoding": "chunked"})
        while not exchange.request.closed.is_set():
            await exchange.chunk(piece)
            await asyncio.sleep(0)

    return behave


def raw(data: bytes) -> Behaviour:
    """Send bytes that need be no HTTP, then close."""

    async def behave(exchange: Exchange) -> None:
        await exchange.raw(data)
        exchange.close()

    return behave


def hang() -> Behaviour:
    """Take the request and never answer."""

    async def behave(exchange: Exchange) -> None:
        await exchange.hang()

    return behave


def reset() -> Behaviour:
    """End the connection with a RST before the answer's first byte."""

    async def behave(exchange: Exchange) -> None:
        exchange.reset()

    return behave


def close() -> Behaviour:
    """End the connection with a FIN before the answer's first byte."""

    async def behave(exchange: Exchange) -> None:
        exchange.close()

    return behave


def after(first: Behaviour, event: asyncio.Event) -> Behaviour:
    """Behave as `first` does, once `event` is set (or not at all, if the peer leaves before)."""

    async def behave(exchange: Exchange) -> None:
        waits = [asyncio.create_task(event.wait()), asyncio.create_task(exchange.request.closed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        if event.is_set():
            await first(exchange)
        else:
            exchange.ended = True

    return behave


def done_but_lost(url: str, end: Literal["reset", "hang"] = "reset") -> Behaviour:
    """Let the backend at `url` do what is asked, and lose its answer."""

    async def behave(exchange: Exchange) -> None:
        await forwarded(url, exchange.request)
        await _end(exchange, end)

    return behave


async def _end(exchange: Exchange, end: End) -> None:
    if end == "complete":
        if not exchange.request.closed.is_set():
            await exchange.raw(b"0\r\n\r\n")
    elif end == "clean":
        exchange.close()
    elif end == "reset":
        await asyncio.sleep(0.01)  # a reset takes with it what the peer has not read yet
        exchange.reset()
    else:
        await exchange.hang()


async def DEFAULT(exchange: Exchange) -> None:  # noqa: N802 - stands among behaviours like a constant
    """Answer as llama.cpp does."""
    request = exchange.request
    path = request.path.partition("?")[0]
    value = {"/health": HEALTH, "/props": PROPS, "/v1/models": MODELS}.get(path)
    if value is not None:
        await json_reply(value)(exchange)
    elif path == "/v1/embeddings":
        await json_reply(embeddings(request.json))(exchange)
    elif path == "/v1/rerank":
        await json_reply(ranking(request.json))(exchange)
    elif path == "/v1/chat/completions":
        await (stream(sse(TOKENS)) if request.json.get("stream") else json_reply(completion(TOKENS)))(exchange)
    else:
        await json_reply({"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}, 404)(
            exchange
        )


async def forwarded(url: str, request: Received) -> tuple[int, bytes, dict[str, str]]:
    """Return what the backend at `url` answers to the same request: status, body, headers."""
    headers = {name: request.headers[name] for name in ("Content-Type", "X-Request-ID") if name in request.headers}
    headers["Accept-Encoding"] = "identity"
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.request(request.method, url + request.path, data=request.body or None, headers=headers) as response,
    ):
        kept = {"Content-Type": response.headers.get("Content-Type", "application/json")}
        return response.status, await response.read(), kept
