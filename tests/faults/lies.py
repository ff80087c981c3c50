"""Backends that lie: rows 6 to 16 and 20 of the fault table, each a behaviour that stands before the truth.

The truth is what llama.cpp would answer, or what a real backend does answer. Only the calls that the service is for are
lied to, so that it looks healthy (but for `loading`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import aiohttp

from tests.service.fault_answers import TOKENS, completion, sse
from tests.service.fault_backend import FaultBackend
from tests.service.fault_behaviours import (
    DEFAULT,
    Behaviour,
    Exchange,
    Received,
    cut,
    done_but_lost,
    endless,
    forwarded,
    json_reply,
    reply,
    stream,
)

Service = Literal["embedding", "reranking", "generative", "qdrant"]
SERVICES: tuple[Service, ...] = get_args(Service)
_MODELS: tuple[Service, ...] = ("embedding", "reranking", "generative")
_WORK = {"embedding": "/v1/embeddings", "reranking": "/v1/rerank", "generative": "/v1/chat/completions"}
_WRITES = ("/points/batch", "/points/delete", "/points/payload", "/collections/aliases")


_Maker = Callable[[Behaviour, str | None], Behaviour]
"""Makes a behaviour of the true one and the URL of who knows the truth."""


@dataclass(frozen=True, slots=True)
class Lie:
    """What is answered instead of the truth, by which services, in which row of the table."""

    row: int
    line: str
    services: tuple[Service, ...]
    made: _Maker
    what: Literal["work", "writes", "everything"] = "work"


def liar(service: Service, lie: str | None = None, upstream: str | None = None) -> FaultBackend:
    """Return a backend, not started, that stands for a service and tells this lie (None: the truth).

    `upstream` is the URL of a real backend whose answers are the truth; Qdrant needs one. ValueError: no such lie.
    """
    if service == "qdrant" and upstream is None:
        raise ValueError("A lying qdrant needs --upstream: the store that does the work.")
    backend = FaultBackend(upstream)
    truth = DEFAULT if upstream is None else _passed_on(upstream)
    backend.otherwise = _polite(truth if lie is None else _lying(service, lie, truth, upstream))
    return backend


def _polite(behaviour: Behaviour) -> Behaviour:
    """Answer 400 to a request that cannot be understood: by hand such things are sent."""

    async def behave(exchange: Exchange) -> None:
        try:
            await behaviour(exchange)
        except (ValueError, KeyError, TypeError, AttributeError):
            error = {"code": 400, "message": "This is no such request.", "type": "invalid_request_error"}
            await json_reply({"error": error}, 400)(exchange)

    return behave


def _lying(service: Service, name: str, truth: Behaviour, upstream: str | None) -> Behaviour:
    lie = LIES.get(name)
    if lie is None or service not in lie.services:
        raise ValueError(f"The {service} backend has no lie {name!r}; --list names them.")
    told, what = lie.made(truth, upstream), lie.what

    async def behave(exchange: Exchange) -> None:
        await (told if _concerned(service, what, exchange.request) else truth)(exchange)

    return behave


def _concerned(service: Service, what: str, request: Received) -> bool:
    path = request.path.partition("?")[0]
    if what == "everything":
        return True
    if what == "writes":
        return request.method in {"PUT", "PATCH", "DELETE"} or path.endswith(_WRITES)
    return path.startswith("/collections") if service == "qdrant" else path == _WORK[service]


def _passed_on(upstream: str) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        try:
            answer = await forwarded(upstream, exchange.request)
        except aiohttp.ClientError:
            exchange.reset()
        else:
            await exchange.answer(*answer)

    return behave


class _Overheard(Exchange):
    """An exchange whose answer is kept instead of sent."""

    def __init__(self, request: Received) -> None:
        self.request = request
        self.ended = False
        self.status = 0
        self.body = b""

    async def answer(self, status: int, body: bytes, headers: Any) -> None:
        """Keep it."""
        self.status, self.body = status, body

    def reset(self) -> None:
        """The truth cannot be had."""
        self.status, self.body = 502, b"{}"


def _always(behaviour: Behaviour) -> _Maker:
    return lambda truth, upstream: behaviour


def _changed(key: str, change: Callable[[Any], Any]) -> _Maker:
    """Change the list under a key of the true answer; vectors come as numbers."""

    def made(truth: Behaviour, upstream: str | None) -> Behaviour:
        async def behave(exchange: Exchange) -> None:
            asked = exchange.request.json | ({"encoding_format": "float"} if key == "data" else {})
            heard = _Overheard(replace(exchange.request, body=json.dumps(asked).encode()))
            await truth(heard)
            answer = json.loads(heard.body)
            if heard.status == 200:
                answer[key] = change(answer[key])
            await json_reply(answer, heard.status)(exchange)

        return behave

    return made


def _vectors(change: Callable[[list[float]], Any]) -> _Maker:
    return _changed("data", lambda data: [item | {"embedding": change(item["embedding"])} for item in data])


def _streamed(streamed: Behaviour, whole: Behaviour) -> _Maker:
    async def behave(exchange: Exchange) -> None:
        await (streamed if exchange.request.json.get("stream") else whole)(exchange)

    return _always(behave)


def _written_but_lost(truth: Behaviour, upstream: str | None) -> Behaviour:
    assert upstream is not None
    return done_but_lost(upstream)


def _error(status: int, message: str, kind: str, **headers: str) -> _Maker:
    body = json.dumps({"error": {"code": status, "message": message, "type": kind}}).encode()
    return _always(reply(status, body, {name.replace("_", "-"): value for name, value in headers.items()}))


_TOO_LARGE = "input is too large to process. increase the physical batch size"
_HALF = b'{"data": [{"index": 0, "embedding": [0.1, 0.'
_WHOLE = json.dumps(completion(TOKENS)).encode()
_CUT = _streamed(stream(sse(TOKENS)[:3], "reset"), cut(_WHOLE, len(_WHOLE) // 2))

LIES = {
    "cut": Lie(6, "the answer is reset in its middle", ("generative",), _CUT),
    "no-done": Lie(
        6,
        "a stream ends cleanly without [DONE], a whole answer in its middle",
        ("generative",),
        _streamed(stream(sse(TOKENS, done=False)), cut(_WHOLE, len(_WHOLE) // 2, "clean")),
    ),
    "error-500": Lie(8, "500 to every call", SERVICES, _error(500, "Something broke.", "server_error")),
    "too-large": Lie(9, "500 input is too large", ("embedding", "reranking"), _error(500, _TOO_LARGE, "server_error")),
    "loading": Lie(
        10,
        "503 Loading model, on /health too",
        _MODELS,
        _error(503, "Loading model", "unavailable_error"),
        "everything",
    ),
    "busy-429": Lie(11, "429, Retry-After 2", SERVICES, _error(429, "Slow down.", "rate_limit", Retry_After="2")),
    "busy-503": Lie(11, "503, Retry-After 2", SERVICES, _error(503, "Busy.", "unavailable_error", Retry_After="2")),
    "unauthorized": Lie(12, "401", SERVICES, _error(401, "Invalid API Key", "authentication_error")),
    "forbidden": Lie(12, "403", SERVICES, _error(403, "Forbidden", "permission_error")),
    "html": Lie(
        13, "200 and a page", SERVICES, _always(reply(200, b"<html>busy</html>", {"Content-Type": "text/html"}))
    ),
    "garbage": Lie(13, "200 and bytes that are no JSON", SERVICES, _always(reply(200, b"\x00\xff\xfe{]"))),
    "truncated": Lie(13, "200 and half of a JSON", SERVICES, _always(reply(200, _HALF))),
    "no-choices": Lie(13, "200 and no choices", ("generative",), _always(json_reply({"choices": []}))),
    "endless": Lie(14, "200 and a body without end", SERVICES, _always(endless(b" " * 8_192))),
    "wrong-dimension": Lie(15, "vectors one number short", ("embedding",), _vectors(lambda vector: vector[:-1])),
    "nan": Lie(15, "a NaN in each vector", ("embedding",), _vectors(lambda vector: [float("nan"), *vector[1:]])),
    "null": Lie(15, "null for each vector", ("embedding",), _vectors(lambda vector: None)),
    "zero": Lie(15, "vectors of zeros", ("embedding",), _vectors(lambda vector: [0.0] * len(vector))),
    "too-few": Lie(15, "a vector too few", ("embedding",), _changed("data", lambda data: data[:-1])),
    "too-many": Lie(15, "a vector too many", ("embedding",), _changed("data", lambda data: [*data, *data[:1]])),
    "duplicate-index": Lie(
        15, "all at index 0", ("embedding",), _changed("data", lambda data: [item | {"index": 0} for item in data])
    ),
    "permuted": Lie(15, "right, but backwards", ("embedding",), _changed("data", lambda data: data[::-1])),
    "index-out-of-range": Lie(
        16,
        "each index one too high",
        ("reranking",),
        _changed("results", lambda ranks: [_moved(rank) for rank in ranks]),
    ),
    "index-twice": Lie(
        16, "the first result twice", ("reranking",), _changed("results", lambda ranks: [*ranks, *ranks[:1]])
    ),
    "index-missing": Lie(16, "a result too few", ("reranking",), _changed("results", lambda ranks: ranks[:-1])),
    "nan-score": Lie(
        16,
        "NaN for each score",
        ("reranking",),
        _changed("results", lambda ranks: [rank | {"relevance_score": float("nan")} for rank in ranks]),
    ),
    "write-lost": Lie(20, "writes are done, their answers reset", ("qdrant",), _written_but_lost, "writes"),
}


def _moved(rank: dict[str, Any]) -> dict[str, Any]:
    return rank | {"index": rank["index"] + 1}
