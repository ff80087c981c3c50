"""Every kind of call that the application makes to a backend on a caller's behalf, and how each is asked for.

A kind names the route that leads to it and the backend's path that is to be spoilt. Each request is another one, so
that no cache answers it; each asks nothing of the same service beside the call that it is about.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from tests.service.fault_backend import Behaviour, FaultBackend, Received
from tests.service.rag import CHAT, EMBEDDINGS, Rig, RigMaker, events_of, ingest, sample

TEXT = "Limes are green and sour."
_STATUS = {
    "invalid_request_error": 422,
    "backend_error": 502,
    "backend_unavailable": 503,
    "timeout_error": 504,
}
_number = count()


@dataclass(slots=True, frozen=True)
class Kind:
    """A kind of call. `needs`: it asks of a collection, which must be there. `repeats`: it may be sent twice."""

    name: str
    service: str
    path: str
    route: str
    body: Callable[[int], dict[str, Any]]
    needs: bool = True
    repeats: bool = True

    def backend(self, rig: Rig) -> FaultBackend:
        """Return the backend that is asked."""
        found: FaultBackend = getattr(rig, self.service)
        return found

    def seen(self, rig: Rig) -> list[Received]:
        """Return the calls that the backend has seen."""
        return self.backend(rig).calls(self._path(rig))

    def calls(self, rig: Rig) -> int:
        """Return how many there were."""
        return len(self.seen(rig))

    def spoil(self, rig: Rig, *behaviours: Behaviour) -> None:
        """Let the backend behave so to such calls, to each the next, the last one stays."""
        self.backend(rig).on(self._path(rig), *behaviours)

    @property
    def patience(self) -> float:
        """How many times as long a limit must be as for others, to be kept where nothing is wrong."""
        return 3.0 if self._is_store else 1.0

    def _path(self, rig: Rig) -> str:
        # What is written and read is the collection behind the alias that callers name.
        paths = {request.path.partition("?")[0] for request in rig.qdrant.requests}
        behind = next((path for path in paths if path.endswith(self.path) and "@" in path), None)
        return behind or f"/collections/{rig.config.rag.default_collection}{self.path}" if self._is_store else self.path

    @property
    def _is_store(self) -> bool:
        return self.service == "qdrant"

    def __str__(self) -> str:
        return self.name


@dataclass(slots=True, frozen=True)
class Told:
    """What a caller was told: the status (of an error within a stream: what its type stands for), the error."""

    status: int
    type: str | None
    message: str
    retry_after: str | None


def _document(number: int) -> dict[str, Any]:
    return {"documents": [{"id": f"n{number}", "text": f"Document number {number}."}]}


def _chat(number: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"Hello {number}"}], "max_tokens": 4}


INGEST = Kind("ingest", "embedding", EMBEDDINGS, "/rag/ingest", _document)
SEARCH = Kind(
    "search",
    "embedding",
    EMBEDDINGS,
    "/rag/search",
    lambda n: {"query": f"limes {n}", "mode": "dense", "rerank": False},
)
RELAYED = Kind("relayed embeddings", "embedding", EMBEDDINGS, EMBEDDINGS, lambda n: {"input": f"limes {n}"}, False)
RERANK = Kind(
    "rerank", "reranking", "/v1/rerank", "/v1/rerank", lambda n: {"query": f"limes {n}", "documents": [TEXT]}, False
)
LOOKUP = Kind(
    "lookup",
    "qdrant",
    "/points/query/batch",
    "/rag/search",
    lambda n: {"query": f"limes {n}", "mode": "sparse", "rerank": False},
)
UPSERT = Kind("upsert", "qdrant", "/points/batch", "/rag/ingest", _document)
QUERY = Kind(
    "query", "generative", CHAT, "/rag/query", lambda n: {"query": f"limes {n}", "rerank": False}, repeats=False
)
STREAMED_QUERY = Kind(
    "streamed query",
    "generative",
    CHAT,
    "/rag/query",
    lambda n: {"query": f"limes {n}", "rerank": False, "stream": True},
    repeats=False,
)
RELAYED_CHAT = Kind("relayed chat", "generative", CHAT, CHAT, _chat, False, False)
RELAYED_STREAM = Kind("relayed stream", "generative", CHAT, CHAT, lambda n: {**_chat(n), "stream": True}, False, False)

PARSED = (INGEST, SEARCH, RERANK, LOOKUP, UPSERT)
REPEATED = (*PARSED, RELAYED)
GENERATIONS = (QUERY, STREAMED_QUERY, RELAYED_CHAT, RELAYED_STREAM)
ALL = (*REPEATED, *GENERATIONS)


@asynccontextmanager
async def prepared(rigs: RigMaker, kind: Kind, **settings: Any) -> AsyncIterator[Rig]:
    """Start a rig whose service of this kind has these settings, with a document if it takes one."""
    async with rigs.make(backends={kind.service: settings}) as rig:
        if kind.needs:
            await ingest(rig.app, {"id": "limes", "text": TEXT})
        yield rig


async def told(rig: Rig, kind: Kind, timeout_ms: int | None = None) -> Told:
    """Make one request; hold what comes back against its status."""
    headers = {} if timeout_ms is None else {"X-Request-Timeout-Ms": str(timeout_ms)}
    body = kind.body(next(_number))
    async with rig.app.session.post(rig.app.url + kind.route, json=body, headers=headers) as response:
        if response.content_type == "text/event-stream":
            return _of_stream(await response.text())
        answer = await response.json(content_type=None)
    error = answer.get("error") or {"type": None, "message": ""}
    assert response.status == _STATUS.get(error["type"], 200), answer
    return Told(response.status, error["type"], error["message"], response.headers.get("Retry-After"))


def _of_stream(text: str) -> Told:
    finished = text.rstrip().endswith("[DONE]")
    name, last = events_of(text.replace("data: [DONE]", ": done"))[-1]
    if "error" not in last:
        assert finished or name == "done", text
        return Told(200, None, "", None)
    assert not finished
    return Told(_STATUS[last["error"]["type"]], last["error"]["type"], last["error"]["message"], None)


def retries(rig: Rig, kind: Kind, reason: str) -> float:
    """Return how many calls of its service were sent again because of that."""
    return sample(rig.app, "hartonomous_backend_retries_total", service=kind.service, reason=reason)


def outcomes(rig: Rig, kind: Kind, outcome: str) -> float:
    """Return how many calls of its service ended so."""
    return sample(rig.app, "hartonomous_backend_requests_total", service=kind.service, outcome=outcome)


def circuit(rig: Rig, kind: Kind) -> float:
    """Return the state of the circuit towards its service: closed (0), half-open (1), open (2)."""
    return sample(rig.app, "hartonomous_breaker_state", service=kind.service, address=kind.backend(rig).url)
