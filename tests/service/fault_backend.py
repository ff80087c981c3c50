"""A backend that fails as a test wants: a raw HTTP/1.1 server in the test's own loop.

By itself it answers like llama.cpp (`/health`, `/props`, `/v1/models`, embeddings, rerank, chat), or passes everything
on to a real backend when it is given one (`upstream`), so that only the path which a test sets is faulty:

    backend.on("/v1/embeddings", reset(), DEFAULT)      # the first call is reset, the later ones are answered
    backend.on("/v1/chat/completions", stream([b"data: {}\n\n"], end="reset"))

A behaviour is `async def behave(exchange)`; the functions below make the usual ones. The last one of a path repeats.
"""

from __future__ import annotations

import asyncio
import json
import math
import struct
from array import array
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET
from types import TracebackType
from typing import Any, Literal, Self
from zlib import crc32

import aiohttp
import pytest
from multidict import CIMultiDict

DIMENSION = 32
MODEL = "fault-model"
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
        await _forwarded(url, exchange.request)
        await _end(exchange, end)

    return behave


async def _end(exchange: Exchange, end: End) -> None:
    if end == "complete":
        if not exchange.request.closed.is_set():
            await exchange.raw(b"0\r\n\r\n")
    elif end == "clean":
        exchange.close()
    elif end == "reset":
        exchange.reset()
    else:
        await exchange.hang()


async def DEFAULT(exchange: Exchange) -> None:  # noqa: N802 - stands among behaviours like a constant
    """Answer as llama.cpp does."""
    request = exchange.request
    path = request.path.partition("?")[0]
    value = {"/health": _health, "/props": _props, "/v1/models": _models}.get(path)
    if value is not None:
        await json_reply(value)(exchange)
    elif path == "/v1/embeddings":
        await json_reply(embeddings(request.json))(exchange)
    elif path == "/v1/rerank":
        await json_reply(_ranking(request.json))(exchange)
    elif path == "/v1/chat/completions":
        await (stream(sse(TOKENS)) if request.json.get("stream") else json_reply(completion(TOKENS)))(exchange)
    else:
        await json_reply({"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}, 404)(
            exchange
        )


TOKENS = ("The ", "answer ", "is ", "42.")

_health = {"status": "ok"}
_props = {"default_generation_settings": {"n_ctx": 4096}, "total_slots": 4}
_models = {
    "object": "list",
    "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "llamacpp", "meta": {"n_embd": DIMENSION}}],
}


def vector(text: str, dimension: int = DIMENSION) -> list[float]:
    """Return a unit vector that depends on the text alone."""
    seed = crc32(text.encode("utf-8", "surrogatepass"))
    numbers = [math.sin(seed % 9973 + place * (1 + seed % 31)) + 0.01 for place in range(dimension)]
    length = math.sqrt(sum(number * number for number in numbers))
    return [number / length for number in numbers]


def embeddings(body: Any) -> dict[str, Any]:
    """Return the right answer to an embeddings request."""
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    base64 = body.get("encoding_format") == "base64"
    vectors: list[Any] = [vector(text) for text in texts]
    if base64:
        vectors = [b64encode(array("f", numbers).tobytes()).decode() for numbers in vectors]
    data = [{"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(vectors)]
    return {"object": "list", "model": MODEL, "data": data, "usage": {"prompt_tokens": 7, "total_tokens": 7}}


def _ranking(body: Any) -> dict[str, Any]:
    results = [{"index": index, "relevance_score": -float(index)} for index in range(len(body["documents"]))]
    return {"object": "list", "model": MODEL, "results": results, "usage": {"prompt_tokens": 5, "total_tokens": 5}}


def completion(tokens: Sequence[str]) -> dict[str, Any]:
    """Return a whole chat completion."""
    message = {"role": "assistant", "content": "".join(tokens)}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": len(tokens), "total_tokens": 9 + len(tokens)},
    }


def sse(tokens: Sequence[str], *, done: bool = True) -> list[bytes]:
    """Return the events of a streamed chat completion, one bytes object each."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}, *({"content": text} for text in tokens)]
    chunks = [head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    usage = {"prompt_tokens": 9, "completion_tokens": len(tokens), "total_tokens": 9 + len(tokens)}
    chunks.append(head | {"choices": [], "usage": usage})
    events = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
    return [*events, b"data: [DONE]\n\n"] if done else events


async def _forwarded(url: str, request: Received) -> tuple[int, bytes, dict[str, str]]:
    headers = {name: request.headers[name] for name in ("Content-Type", "X-Request-ID") if name in request.headers}
    headers["Accept-Encoding"] = "identity"
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.request(request.method, url + request.path, data=request.body or None, headers=headers) as response,
    ):
        kept = {"Content-Type": response.headers.get("Content-Type", "application/json")}
        return response.status, await response.read(), kept


class FaultBackend:
    """The server; an async context manager that listens on a free port of 127.0.0.1."""

    def __init__(self, upstream: str | None = None) -> None:
        self.upstream = upstream
        self.requests: list[Received] = []
        self.connections = 0
        self._open = 0
        self._port = 0
        self._paths: dict[str, list[Behaviour]] = {}
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The base address."""
        return f"http://127.0.0.1:{self._port}"

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
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, limit=1 << 26)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End every connection and stop listening: connections are refused from now on."""
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self._open += 1
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            return  # stop() ended it; asyncio would report it otherwise
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
            behaviour: Behaviour = DEFAULT
        else:
            behaviour = behaviours[0] if len(behaviours) == 1 else behaviours.pop(0)
        if behaviour is DEFAULT and self.upstream is not None:
            await exchange.answer(*await _forwarded(self.upstream, exchange.request))
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
