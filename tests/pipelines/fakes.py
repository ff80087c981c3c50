"""Collaborators of the pipelines by hand: they answer from memory, remember what they were asked, fail on request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from hartonomous.cache.vectors import QuestionVectors
from hartonomous.clients.embedding import Embedded
from hartonomous.clients.generative import Delta, Usage
from hartonomous.clients.models import ModelInfo
from hartonomous.clients.points import ChunkPoint, DocumentState, Hit, StoredChunk
from hartonomous.clients.schema import CollectionInfo
from hartonomous.clients.vectors import BestVectors, Search
from hartonomous.clients.versions import AttributeChange, Publication
from hartonomous.config import EmbeddingCache
from hartonomous.core.access import EVERYTHING
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.core.fingerprint import EmbeddingFingerprint
from hartonomous.errors import ConflictError, HartonomousError, NotFoundError, ValidationFailedError
from hartonomous.metrics import Metrics

FINGERPRINT = EmbeddingFingerprint("fake", 2, "", "")
OTHER = EmbeddingFingerprint("another", 2, "", "")


def call(seconds: float = 60.0) -> Call:
    """Return the context of a request with so much time left."""
    return Call("request-1", Deadline(seconds), grant=EVERYTHING)


def questions() -> QuestionVectors:
    """Return a cache of questions' vectors with nothing in it."""
    return QuestionVectors(EmbeddingCache(), 60.0, Metrics())


async def until(state: Callable[[], object]) -> None:
    """Let others run until `state()` is true; fail when it never is."""
    for _ in range(10_000):
        if state():
            return
        await asyncio.sleep(0)
    raise AssertionError("the state was not reached")


def chunk(name: str, text: str = "", *, document: str = "", content: str = "", sequence: int = 1) -> StoredChunk:
    """Return a stored chunk; by default the only one of its document."""
    document = document or name
    return StoredChunk(
        id=name,
        document_id=document,
        content_hash=content or document,
        version="sha256:1",
        chunk_index=0,
        chunk_count=1,
        text=text or f"Text of {name}.",
        start=0,
        end=len(text),
        sequence=sequence,
    )


def hits(**scores: float) -> list[Hit]:
    """Return a ranking, best first."""
    return [Hit(chunk(name), score) for name, score in scores.items()]


class Embedding:
    """Embeds in two dimensions; a text with `refuses` in it is too long, `error` fails every call of more than `takes`
    texts."""

    def __init__(self, batch_size: int = 4) -> None:
        self.batch_size = batch_size
        self.typical_s = 0.0
        self.concurrency = 2
        self.active = 0
        self.most_active = 0
        self.batches: list[list[str]] = []
        self.refuses = "long"
        self.error: HartonomousError | None = None
        self.failing: str | None = None
        self.takes = 0
        self.gate: asyncio.Event | None = None

    async def model(self, call: Call) -> ModelInfo:
        return ModelInfo("fake", 2, 512, 1)

    async def fingerprint(self, call: Call) -> EmbeddingFingerprint:
        return FINGERPRINT

    async def embed_queries(self, texts: Sequence[str], call: Call) -> Embedded:
        return await self.embed_documents(texts, call)

    async def embed_documents(self, texts: Sequence[str], call: Call) -> Embedded:
        self.batches.append(list(texts))
        self.active += 1
        self.most_active = max(self.active, self.most_active)
        try:
            await (asyncio.sleep(0) if self.gate is None else self.gate.wait())
        finally:
            self.active -= 1
        if (
            self.error is not None
            and len(texts) > self.takes
            and (self.failing is None or any(self.failing in text for text in texts))
        ):
            raise self.error
        if any(self.refuses in text for text in texts):
            raise ValidationFailedError("too long", code="input_too_long")
        return Embedded([[1.0, float(len(text))] for text in texts], len(texts))


class Tokens:
    """Cannot count."""

    async def count(self, texts: Sequence[str], call: Call) -> list[int] | None:
        return None


class Reranking:
    """Scores as it was told, by text; `error` fails every call."""

    def __init__(self, scores: Mapping[str, float] | None = None) -> None:
        self.scores = scores or {}
        self.error: HartonomousError | None = None

    async def rerank(self, query: str, documents: Sequence[str], call: Call) -> list[float]:
        if self.error is not None:
            raise self.error
        return [self.scores.get(text, 0.0) for text in documents]


class Schema:
    """Knows the collections `docs` and `other`, and `foreign` of another model."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def describe(self, name: str, call: Call) -> CollectionInfo | None:
        self.asked.append(name)
        if name not in {"docs", "other", "foreign"}:
            return None
        return CollectionInfo(name, 2, OTHER if name == "foreign" else FINGERPRINT, "english", 0, frozenset())

    async def require(self, name: str, fingerprint: EmbeddingFingerprint, call: Call) -> CollectionInfo:
        info = await self.describe(name, call)
        if info is None:
            raise NotFoundError("none")
        if info.fingerprint != fingerprint:
            raise ConflictError("another model")
        return info

    def forget(self, name: str) -> None:
        pass

    async def ensure(self, name: str, fingerprint: EmbeddingFingerprint, language: str, call: Call) -> CollectionInfo:
        return await self.require(name, fingerprint, call)


class Vectors:
    """Answers each search with the ranking of its kind; keeps what is written in `steps`."""

    def __init__(self, dense: Sequence[Hit] = (), sparse: Sequence[Hit] = ()) -> None:
        self.rankings: dict[str, Sequence[Hit]] = {"dense": dense, "sparse": sparse}
        self.searches: list[tuple[str, list[Search]]] = []
        self.best: list[BestVectors] = []
        self.stored = {"a": [0.0, 2.0], "c": [0.0, 1.0]}
        self.error: HartonomousError | None = None
        self.refuses: Mapping[str, Any] | None = None
        self.known: dict[str, DocumentState] = {}
        self.steps: list[tuple[str, str]] = []
        self.points: dict[str, list[ChunkPoint]] = {}
        self.failing: str | None = None
        self.gate: asyncio.Event | None = None
        self.fails_once = False
        self.writes: list[list[str]] = []
        self.written: list[ChunkPoint] = []
        self.changed: dict[str, HartonomousError] = {}

    async def search_with_vectors(
        self, collection: str, searches: Sequence[Search], best: Sequence[BestVectors], call: Call
    ) -> tuple[list[list[Hit]], list[dict[str, list[float]]]]:
        self.searches.append((collection, list(searches)))
        self.best += best
        if self.error is not None and (
            self.refuses is None or any(search.filter == self.refuses for search in searches)
        ):
            raise self.error
        return [list(self.rankings[search.using]) for search in searches], [self.stored for _ in best]

    async def states(self, collection: str, ids: Sequence[str], call: Call) -> dict[str, DocumentState]:
        return {name: self.known[name] for name in ids if name in self.known}

    async def write(self, collection: str, points: Sequence[ChunkPoint], call: Call) -> None:
        names = list(dict.fromkeys(point.document_id for point in points))
        self.writes.append(names)
        self.steps += [("write", name) for name in names]
        if self.gate is not None:
            await self.gate.wait()
        if self.failing in names and self.error is not None:
            if self.fails_once:
                self.failing = None
            raise self.error
        self.written += points
        for name in names:
            new = [point for point in points if point.document_id == name]
            same = [point for point in self.points.get(name, ()) if point.sequence == new[0].sequence]
            self.points[name] = sorted(same + new, key=lambda point: point.chunk_index)

    async def publish(
        self, collection: str, publications: Sequence[Publication], call: Call
    ) -> list[HartonomousError | None]:
        for one in publications:
            self.steps.append(("publish", one.document_id))
            assert one.point_ids == [point.id for point in self.points[one.document_id]]
        return [self.changed.pop(one.document_id, None) for one in publications]

    async def set_attributes(
        self, collection: str, changes: Sequence[AttributeChange], call: Call
    ) -> list[HartonomousError | None]:
        self.steps += [("attributes", change.state.document_id) for change in changes]
        return [self.changed.pop(change.state.document_id, None) for change in changes]


class Generative:
    """Says `words`; with `error` it fails after them."""

    def __init__(self, *words: str, context: int = 4096) -> None:
        self.words = words
        self.context = context
        self.error: HartonomousError | None = None
        self.context_error: HartonomousError | None = None
        self.asked: list[Mapping[str, Any]] = []
        self.active = 0
        self.most_active = 0
        self.gate: asyncio.Event | None = None

    async def context_tokens(self, call: Call) -> int:
        if self.context_error is not None:
            raise self.context_error
        return self.context

    async def context_anew(self, call: Call) -> int:
        return await self.context_tokens(call)

    async def render(self, request: Mapping[str, Any], call: Call) -> str | None:
        return None

    async def count_tokens(self, texts: Sequence[str], call: Call) -> list[int] | None:
        return None

    async def chat(self, request: Mapping[str, Any], call: Call) -> Delta:
        self.asked.append(request)
        self.active += 1
        self.most_active = max(self.active, self.most_active)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.error is not None:
                raise self.error
            return Delta("".join(self.words), "stop", Usage(3, len(self.words)), "fake")
        finally:
            self.active -= 1

    async def stream(self, request: Mapping[str, Any], call: Call) -> AsyncGenerator[Delta]:
        self.asked.append(request)
        self.active += 1
        try:
            for word in self.words:
                yield Delta(word, model="fake")
            if self.error is not None:
                raise self.error
            yield Delta(finish_reason="stop")
            yield Delta(usage=Usage(3, len(self.words)))
        finally:
            self.active -= 1
