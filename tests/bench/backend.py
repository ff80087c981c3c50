"""All backends in one light process, whose calls take a given time: `python -m tests.bench.backend PORT PACES`.

PACES is JSON: for `embedding`, `search`, `reranking`, `chat` how long a call takes and how many at a time,
as llama.cpp has slots. What is not named answers at once. `POST /pace` sets other ones, and the counts to 0;
`GET /stats` tells them. A third argument names a file with a vector store's answers to the searches of a question, by
`using`, and with what is said to a chat (`answer`) and what else it says (`described`, by path).
"""

from __future__ import annotations

import asyncio
import json
import sys
from array import array
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

import orjson

from tests.bench.texts import DIMENSION, MODEL, answer, documents, pieces
from tests.service.fault_answers import HEALTH, completion, ranking, sse

_VARIANTS = 256
_PROPS = {"default_generation_settings": {"n_ctx": 8192}, "total_slots": 8}
_META = {"n_embd": DIMENSION, "n_ctx_train": 8192}
_MODELS = {
    "object": "list",
    "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "bench", "meta": _META}],
}


@dataclass(slots=True)
class Pace:
    """How long a service takes: for a call, for each text in it; and how many calls it works on at a time."""

    call_s: float = 0.0
    text_s: float = 0.0
    slots: int = 1_000_000


@dataclass(slots=True)
class Stats:
    """What a service has done. Times are of the monotonic clock; it is busy while it works on anything."""

    calls: int = 0
    texts: int = 0
    busy_s: float = 0.0
    first_s: float = 0.0
    last_s: float = 0.0


class Service:
    """Lets answers wait for their turn and their time."""

    def __init__(self, pace: Pace, loop: asyncio.AbstractEventLoop) -> None:
        self._pace = pace
        self._loop = loop
        self.stats = Stats()
        self._working = 0
        self._line: deque[tuple[float, Callable[[], None]]] = deque()

    def told(self) -> Stats:
        """Return the stats, up to now."""
        now = self._loop.time()
        return replace(self.stats, busy_s=self.stats.busy_s + now, last_s=now) if self._working else self.stats

    def take(self, texts: int, done: Callable[[], None]) -> None:
        """Call `done` when a call of so many texts has been worked on."""
        self.stats.calls += 1
        self.stats.texts += texts
        took = self._pace.call_s + self._pace.text_s * texts
        if not took:
            done()
        elif self._working < self._pace.slots:
            if not self._working:
                self._begins()
            self._working += 1
            self._loop.call_later(took, self._end, done)
        else:
            self._line.append((took, done))

    def _begins(self) -> None:
        now = self._loop.time()
        self.stats.first_s = self.stats.first_s or now
        self.stats.busy_s -= now

    def _end(self, done: Callable[[], None]) -> None:
        done()
        if self._line:
            took, following = self._line.popleft()
            self._loop.call_later(took, self._end, following)
            return
        self._working -= 1
        if not self._working:
            self.stats.last_s = self._loop.time()
            self.stats.busy_s += self.stats.last_s


class Backend:
    """The services and their answers."""

    def __init__(self, found: dict[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._found = found
        self._described = {path: reply(told.encode()) for path, told in found.get("described", {}).items()}
        self._vectors = _vectors()
        said = pieces(found.get("answer") or answer(documents()))
        self._whole = reply(orjson.dumps(completion(said)))
        self._streamed = reply(b"".join(sse(said)), "text/event-stream")
        self.pace({})

    def pace(self, paces: dict[str, Any]) -> None:
        """Let the services take so long from now on, and count from 0."""
        names = ("embedding", "search", "reranking", "chat")
        self._services = {name: Service(Pace(**paces.get(name, {})), self._loop) for name in names}

    def handle(self, path: str, body: bytes, send: Callable[[bytes], None]) -> None:
        """Answer a request, now or when its time has passed."""
        if path == "/v1/embeddings":
            asked = orjson.loads(body)
            texts = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
            answered = self._embeddings(texts, is_base64=asked.get("encoding_format") == "base64")
            self._services["embedding"].take(len(texts), lambda: send(answered))
        elif path == "/v1/chat/completions":
            said = self._streamed if b'"stream":true' in body or b'"stream": true' in body else self._whole
            self._services["chat"].take(1, lambda: send(said))
        elif path == "/v1/rerank":
            ranked = reply(orjson.dumps(ranking(orjson.loads(body))))
            self._services["reranking"].take(1, lambda: send(ranked))
        elif path.endswith("/points/query/batch"):
            found = self._search(orjson.loads(body)["searches"])
            self._services["search"].take(1, lambda: send(found))
        else:
            send(self._other(path, body))

    def _other(self, path: str, body: bytes) -> bytes:
        if path == "/pace":
            self.pace(orjson.loads(body))
            return reply(b"{}")
        if path == "/stats":
            return reply(orjson.dumps({name: asdict(service.told()) for name, service in self._services.items()}))
        return self._described.get(path) or PLAIN.get(path) or reply(b"{}", status="404 Not Found")

    def _embeddings(self, texts: list[str], *, is_base64: bool) -> bytes:
        kind = 0 if is_base64 else 1
        rows = (
            b'{"object":"embedding","index":%d,"embedding":%s}'
            % (index, self._vectors[crc32(text.encode()) % _VARIANTS][kind])
            for index, text in enumerate(texts)
        )
        usage = {"prompt_tokens": 20 * len(texts), "total_tokens": 20 * len(texts)}
        head = b'{"object":"list","model":"%s","usage":%s,"data":[' % (MODEL.encode(), orjson.dumps(usage))
        return reply(head + b",".join(rows) + b"]}")

    def _search(self, searches: list[dict[str, Any]]) -> bytes:
        found = [self._found[search.get("using", "dense")] for search in searches]
        return reply(orjson.dumps({"result": found, "status": "ok", "time": 0.001}))


class Connection(asyncio.Protocol):
    """One connection: its requests are answered one after the other."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._data = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        """Nobody wants what is under way."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Answer a request that is whole."""
        self._data += data
        end = self._data.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = self._data[:end]
        size = length(head)
        if len(self._data) < end + size:
            return
        body, self._data = self._data[end : end + size], self._data[end + size :]
        self._backend.handle(head.split(b" ", 2)[1].decode().partition("?")[0], body, self._send)

    def _send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def reply(body: bytes, content_type: str = "application/json", status: str = "200 OK") -> bytes:
    """Return a whole answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def length(head: bytes) -> int:
    """Return how long the body is, by a request's head."""
    _, _, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0] or 0)


def _vectors() -> list[tuple[bytes, bytes]]:
    """Return vectors, as base64 and as numbers, any two of which have a similarity of some 0.8."""
    chance = Random(0)
    common = [chance.gauss(0, 1) for _ in range(DIMENSION)]
    made = []
    for _ in range(_VARIANTS):
        numbers = [2 * one + chance.gauss(0, 1) for one in common]
        length = sum(one * one for one in numbers) ** 0.5
        numbers = [one / length for one in numbers]
        made.append((orjson.dumps(b64encode(array("f", numbers).tobytes()).decode()), orjson.dumps(numbers)))
    return made


PLAIN = {
    "/health": reply(orjson.dumps(HEALTH)),
    "/props": reply(orjson.dumps(_PROPS)),
    "/v1/models": reply(orjson.dumps(_MODELS)),
}
"""What a service says of itself, by path."""


async def serve(port: int, paces: dict[str, Any], found: dict[str, Any]) -> None:
    """Serve until the process ends."""
    loop = asyncio.get_running_loop()
    backend = Backend(found, loop)
    backend.pace(paces)
    server = await loop.create_server(lambda: Connection(backend), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def main(arguments: list[str]) -> None:
    """Serve as the command line says."""
    port, paces, *files = arguments
    found = json.loads(Path(files[0]).read_text(encoding="utf-8")) if files else {}
    asyncio.run(serve(int(port), json.loads(paces), found))


if __name__ == "__main__":
    main(sys.argv[1:])
