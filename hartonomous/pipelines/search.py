"""The search pipeline: questions to ranked hits, for one question or for many at once.

Many questions cost one embedding call for each full batch, one call to the vector store for each collection (more
where one answer cannot hold all hits), and a reranking each, side by side. One question is the same with a list of one.
What fails for one question stays its own: `search_many` returns an error in its place. A question that is longer than
the embedding model takes is embedded as far as it fits.

How `score` in 0..1 is made: `dense` is the cosine similarity, `sparse` BM25's s / (s + 8), `hybrid` the fused
reciprocal rank as a share of the best possible one; where a reranker answered, its calibrated score takes over. When
the reranker is down the order of the search stays; when the embedding service is down a hybrid search answers from
BM25 alone. Both are named in `degraded`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hartonomous.clients.embedding import EmbeddingClient, Vector
from hartonomous.clients.points import Hit, StoredChunk, newest_only
from hartonomous.clients.reranking import RerankingClient
from hartonomous.clients.schema import CollectionInfo, Schema
from hartonomous.clients.sparse import Bm25Encoder
from hartonomous.clients.status import AnswerTooLargeError, BackendRefusedError
from hartonomous.clients.vectors import Search, VectorClient
from hartonomous.config import Retrieval
from hartonomous.core.call import Call
from hartonomous.core.chunking import estimate_tokens
from hartonomous.core.deadline import Deadline
from hartonomous.core.fingerprint import EmbeddingFingerprint
from hartonomous.core.fusion import reciprocal_rank, rocchio, unit_bm25, unit_cosine
from hartonomous.core.prompt import truncate_to
from hartonomous.errors import HartonomousError, NotFoundError, ValidationFailedError
from hartonomous.metrics import Metrics
from hartonomous.pipelines.traffic import Traffic

Mode = Literal["hybrid", "dense", "sparse"]
Kind = Literal["dense", "sparse"]

# A question that is too long for the embedding model is shortened so many times at most, to what should fit.
_SHORTENINGS = 4
_SPECIAL_TOKENS = 16
_LEAST_CONTEXT = 512

# Pseudo-relevance feedback looks at so many of the best hits.
_FEEDBACK_HITS = 5


@dataclass(slots=True, frozen=True)
class SearchRequest:
    """One question to one collection. `filter` is Qdrant's filter, checked already."""

    query: str
    collection: str
    top_k: int
    mode: Mode = "hybrid"
    filter: Mapping[str, Any] | None = None
    rerank: bool = True
    feedback: bool = False
    score_threshold: float | None = None


@dataclass(slots=True)
class ScoredHit:
    """A chunk with its final score in 0..1 and the scores that it was made of."""

    chunk: StoredChunk
    score: float
    scores: dict[str, float]


@dataclass(slots=True)
class SearchResult:
    """Hits, best first; stages that were left out; milliseconds by stage."""

    hits: list[ScoredHit]
    degraded: list[str]
    timings: dict[str, float]


@dataclass(slots=True)
class _Item:
    """A question on its way through the stages. Once `error` is set, the later stages leave it alone."""

    request: SearchRequest
    info: CollectionInfo | None = None
    vector: Vector | None = None
    rankings: dict[Kind, list[Hit]] = field(default_factory=dict)
    hits: list[ScoredHit] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    error: HartonomousError | None = None

    @property
    def wants_embedding(self) -> bool:
        return self.error is None and self.request.mode != "sparse"

    @property
    def wants_feedback(self) -> bool:
        return self.error is None and self.request.feedback and self.vector is not None and bool(self.hits)


class Searcher:
    """Answers questions with hits."""

    def __init__(
        self,
        embedding: EmbeddingClient,
        reranking: RerankingClient | None,
        vectors: VectorClient,
        schema: Schema,
        config: Retrieval,
        metrics: Metrics,
        traffic: Traffic,
    ) -> None:
        self._traffic = traffic
        self._embedding = embedding
        self._reranking = reranking
        self._vectors = vectors
        self._schema = schema
        self._config = config
        self._degraded = metrics.degraded
        self._stages = {name: metrics.stage.labels(name) for name in ("embed", "search", "rerank")}

    async def search(self, request: SearchRequest, call: Call) -> SearchResult:
        """Answer one question. Raises any of our errors."""
        (result,) = await self.search_many([request], call)
        if isinstance(result, HartonomousError):
            raise result
        return result

    async def search_many(self, requests: Sequence[SearchRequest], call: Call) -> list[SearchResult | HartonomousError]:
        """Answer each question with its result or its error, in order."""
        items = [_Item(request) for request in requests]
        with self._traffic.query():
            await self._describe(items, call)
            await self._embed([item for item in items if item.wants_embedding], call)
            await self._search(items, call)
            await asyncio.gather(*(self._feedback(item, call) for item in items if item.wants_feedback))
            await asyncio.gather(*(self._rerank(item, call) for item in items if item.error is None))
        return [item.error or self._result(item) for item in items]

    async def _describe(self, items: Sequence[_Item], call: Call) -> None:
        for name, group in _by_collection(items).items():
            try:
                info = await self._schema.describe(name, call)
                if info is None:
                    raise NotFoundError("There is no such collection.", param="collection", code="collection_not_found")
            except HartonomousError as error:
                _fail(group, error)
                continue
            for item in group:
                item.info = info

    async def _embed(self, items: Sequence[_Item], call: Call) -> None:
        if not items:
            return
        started = time.perf_counter()
        try:
            fingerprint = await self._embedding.fingerprint(call)
        except HartonomousError as error:
            self._without_embedding(items, error, call)
        else:
            await self._compare(items, fingerprint, call)
            alive = [item for item in items if item.error is None]
            size = self._embedding.batch_size
            batches = [alive[start : start + size] for start in range(0, len(alive), size)]
            await asyncio.gather(*(self._embed_batch(batch, call) for batch in batches))
        self._timed(items, "embed", started)

    async def _compare(self, items: Sequence[_Item], fingerprint: EmbeddingFingerprint, call: Call) -> None:
        """Give the questions to a collection that another embedding model made their error."""
        for name, group in _by_collection(items).items():
            try:
                await self._schema.require(name, fingerprint, call)
            except HartonomousError as error:
                error.param = "collection"
                _fail(group, error)

    async def _embed_batch(self, items: Sequence[_Item], call: Call) -> None:
        try:
            embedded = await self._embedding.embed_queries([item.request.query for item in items], call)
        except ValidationFailedError as error:
            if len(items) == 1:
                await self._embed_beginning(items[0], error, call)
                return
            # One question is too long for the model: halved until it stands alone, it does not fail the others.
            middle = len(items) // 2
            await self._embed_batch(items[:middle], call)
            await self._embed_batch(items[middle:], call)
        except HartonomousError as error:
            self._without_embedding(items, error, call)
        else:
            for item, vector in zip(items, embedded.vectors, strict=True):
                item.vector = vector

    async def _embed_beginning(self, item: _Item, error: ValidationFailedError, call: Call) -> None:
        """Embed as much of a question as the model takes; BM25 has the whole of it."""
        text = item.request.query
        try:
            context = (await self._embedding.model(call)).context or _LEAST_CONTEXT
            for _ in range(_SHORTENINGS):
                text = truncate_to(text, min(0.75, context / (estimate_tokens(text) + _SPECIAL_TOKENS)))
                with suppress(ValidationFailedError):
                    (item.vector,) = (await self._embedding.embed_queries([text], call)).vectors
                    return
        except HartonomousError as failure:
            self._without_embedding([item], failure, call)
            return
        error.param = "query"
        item.error = error

    def _without_embedding(self, items: Sequence[_Item], error: HartonomousError, call: Call) -> None:
        for item in items:
            if item.request.mode == "dense" or call.deadline.expired:
                item.error = error
            else:
                self._degrade(item, "embedding")

    async def _search(self, items: Sequence[_Item], call: Call) -> None:
        groups = _by_collection([item for item in items if item.error is None])
        await asyncio.gather(*(self._search_collection(name, group, call) for name, group in groups.items()))

    async def _search_collection(self, name: str, items: Sequence[_Item], call: Call) -> None:
        started = time.perf_counter()
        plans = [self._searches(item) for item in items]
        flat = [search for plan in plans for search in plan]
        try:
            rankings = await self._vectors.search(name, flat, call)
        except AnswerTooLargeError as error:
            if len(items) == 1:
                _fail(items, error)
                return
            middle = len(items) // 2
            await self._search_collection(name, items[:middle], call)
            await self._search_collection(name, items[middle:], call)
            return
        except HartonomousError as error:
            if isinstance(error, (BackendRefusedError, ValidationFailedError)):
                await self._search_apart(name, items, call, error)
            else:
                _fail(items, error)
            return
        start = 0
        for item, plan in zip(items, plans, strict=True):
            found = dict(zip((search.using for search in plan), rankings[start : start + len(plan)], strict=True))
            item.rankings = found
            item.hits = self._fuse(item)
            start += len(plan)
        self._timed(items, "search", started)

    async def _search_apart(self, name: str, items: Sequence[_Item], call: Call, error: HartonomousError) -> None:
        """The store called something in the batch wrong: find whose it was; it is the filter that a caller gave."""
        if len(items) > 1:
            await asyncio.gather(*(self._search_collection(name, [item], call) for item in items))
        elif items[0].request.filter is not None:
            items[0].error = ValidationFailedError("The vector store refused the filter.", param="filter")
        else:
            items[0].error = error

    def _searches(self, item: _Item) -> list[Search]:
        request, limit = item.request, max(self._config.candidates, item.request.top_k)
        searches = []
        if item.vector is not None:
            searches.append(Search("dense", item.vector, limit, request.filter))
        if request.mode != "dense":
            assert item.info is not None
            words = Bm25Encoder.for_language(item.info.language).query(request.query)
            searches.append(Search("sparse", words, limit, request.filter))
        return searches

    async def _feedback(self, item: _Item, call: Call) -> None:
        """Search once more with the question moved towards its best hits (pseudo-relevance feedback after Rocchio)."""
        started = time.perf_counter()
        request, best = item.request, [hit.chunk.id for hit in item.hits[:_FEEDBACK_HITS]]
        assert item.vector is not None
        try:
            vectors = await self._vectors.dense_vectors(request.collection, best, len(item.vector), call)
            moved = rocchio(item.vector, vectors)
            limit = max(self._config.candidates, request.top_k)
            (dense,) = await self._vectors.search(
                request.collection, [Search("dense", moved, limit, request.filter)], call
            )
        except HartonomousError as error:
            item.error = error
            return
        # A document may have been replaced between the two searches: of one document only one version may stay.
        others = [kind for kind in item.rankings if kind != "dense"]
        rankings = newest_only([dense, *(item.rankings[kind] for kind in others)])
        item.rankings = dict(zip(("dense", *others), rankings, strict=True))
        item.hits = self._fuse(item)
        item.timings["search"] += round((time.perf_counter() - started) * 1000, 2)

    def _fuse(self, item: _Item) -> list[ScoredHit]:
        found = item.rankings
        chunks = {hit.chunk.id: hit.chunk for hits in found.values() for hit in hits}
        scores: dict[str, dict[str, float]] = {chunk_id: {} for chunk_id in chunks}
        for using, hits in found.items():
            for hit in hits:
                scores[hit.chunk.id][using] = hit.score
        if item.request.mode == "hybrid":
            rankings = [[hit.chunk.id for hit in hits] for hits in found.values()]
            ranked = reciprocal_rank(rankings, k=self._config.fusion.k)
        else:
            unit = unit_cosine if item.request.mode == "dense" else unit_bm25
            ranked = [(hit.chunk.id, unit(hit.score)) for hits in found.values() for hit in hits]
        return [ScoredHit(chunks[chunk_id], score, scores[chunk_id]) for chunk_id, score in ranked]

    async def _rerank(self, item: _Item, call: Call) -> None:
        candidates = item.hits[: max(self._config.rerank_candidates, item.request.top_k)]
        if self._reranking is None or not item.request.rerank or not candidates:
            return
        started = time.perf_counter()
        texts = [hit.chunk.text for hit in candidates]
        # A reranker that hangs must leave time for an answer without it.
        half = replace(call, deadline=Deadline(call.deadline.remaining / 2))
        try:
            scores = await self._reranking.rerank(item.request.query, texts, half)
        except HartonomousError as error:
            if call.deadline.expired:
                item.error = error
            else:
                self._degrade(item, "reranking")
            return
        for hit, score in zip(candidates, scores, strict=True):
            hit.score = hit.scores["rerank"] = score
        # A stable sort: equal scores keep the order of the search.
        item.hits = sorted(candidates, key=lambda hit: -hit.score)
        self._timed([item], "rerank", started)

    def _degrade(self, item: _Item, stage: str) -> None:
        item.degraded.append(stage)
        self._degraded.labels(stage).inc()

    def _timed(self, items: Sequence[_Item], stage: str, started: float) -> None:
        took = time.perf_counter() - started
        self._stages[stage].observe(took)
        for item in items:
            item.timings[stage] = round(took * 1000, 2)

    @staticmethod
    def _result(item: _Item) -> SearchResult:
        threshold = item.request.score_threshold
        hits = [hit for hit in item.hits if threshold is None or hit.score >= threshold]
        return SearchResult(hits[: item.request.top_k], item.degraded, item.timings)


def _by_collection(items: Sequence[_Item]) -> dict[str, list[_Item]]:
    groups: dict[str, list[_Item]] = {}
    for item in items:
        groups.setdefault(item.request.collection, []).append(item)
    return groups


def _fail(items: Sequence[_Item], error: HartonomousError) -> None:
    for item in items:
        item.error = error
