"""The search pipeline: questions to ranked hits, for one question or for many at once.

Many questions cost one embedding call for each full batch (`pipelines.vectorizing`), one call to the vector store for
each collection (more where one answer cannot hold all hits), and a reranking each, side by side (`pipelines.ranking`).
One question is the same with a list of one. What fails for one question stays its own: `search_many` returns an error
in its place. A stage that is left out because its backend is down is named in `degraded`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from hartonomous.clients.embedding import EmbeddingClient
from hartonomous.clients.points import newest_only
from hartonomous.clients.reranking import RerankingClient
from hartonomous.clients.schema import Schema
from hartonomous.clients.sparse import Bm25Encoder
from hartonomous.clients.status import AnswerTooLargeError, BackendRefusedError
from hartonomous.clients.vectors import Search, VectorClient
from hartonomous.config import Retrieval
from hartonomous.core.call import Call
from hartonomous.core.fusion import rocchio
from hartonomous.errors import HartonomousError, NotFoundError, ValidationFailedError
from hartonomous.metrics import Metrics
from hartonomous.pipelines.questions import Account, Question, SearchRequest, SearchResult, by_collection, fail
from hartonomous.pipelines.ranking import Reranker, fuse
from hartonomous.pipelines.traffic import Traffic
from hartonomous.pipelines.vectorizing import Vectorizer

# Pseudo-relevance feedback looks at so many of the best hits.
_FEEDBACK_HITS = 5


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
        self._vectors = vectors
        self._schema = schema
        self._config = config
        self._account = Account(metrics)
        self._vectorizer = Vectorizer(embedding, schema, self._account)
        self._reranker = Reranker(reranking, config, self._account)

    async def search(self, request: SearchRequest, call: Call) -> SearchResult:
        """Answer one question. Raises any of our errors."""
        (result,) = await self.search_many([request], call)
        if isinstance(result, HartonomousError):
            raise result
        return result

    async def search_many(self, requests: Sequence[SearchRequest], call: Call) -> list[SearchResult | HartonomousError]:
        """Answer each question with its result or its error, in order."""
        items = [Question(request) for request in requests]
        with self._traffic.query():
            await self._describe(items, call)
            await self._vectorizer.embed([item for item in items if item.wants_embedding], call)
            await self._search(items, call)
            await asyncio.gather(*(self._feedback(item, call) for item in items if item.wants_feedback))
            await asyncio.gather(*(self._reranker.rerank(item, call) for item in items if item.error is None))
        return [item.error or self._result(item) for item in items]

    async def _describe(self, items: Sequence[Question], call: Call) -> None:
        for name, group in by_collection(items).items():
            try:
                info = await self._schema.describe(name, call)
                if info is None:
                    raise NotFoundError("There is no such collection.", param="collection", code="collection_not_found")
            except HartonomousError as error:
                fail(group, error)
                continue
            for item in group:
                item.info = info

    async def _search(self, items: Sequence[Question], call: Call) -> None:
        groups = by_collection([item for item in items if item.error is None])
        await asyncio.gather(*(self._search_collection(name, group, call) for name, group in groups.items()))

    async def _search_collection(self, name: str, items: Sequence[Question], call: Call) -> None:
        started = time.perf_counter()
        plans = [self._searches(item) for item in items]
        flat = [search for plan in plans for search in plan]
        try:
            rankings = await self._vectors.search(name, flat, call)
        except AnswerTooLargeError as error:
            if len(items) == 1:
                fail(items, error)
                return
            middle = len(items) // 2
            await self._search_collection(name, items[:middle], call)
            await self._search_collection(name, items[middle:], call)
            return
        except HartonomousError as error:
            if isinstance(error, (BackendRefusedError, ValidationFailedError)):
                await self._search_apart(name, items, call, error)
            else:
                fail(items, error)
            return
        start = 0
        for item, plan in zip(items, plans, strict=True):
            found = dict(zip((search.using for search in plan), rankings[start : start + len(plan)], strict=True))
            item.rankings = found
            item.hits = fuse(item, self._config)
            start += len(plan)
        self._account.took(items, "search", started)

    async def _search_apart(self, name: str, items: Sequence[Question], call: Call, error: HartonomousError) -> None:
        """The store called something in the batch wrong: find whose it was; it is the filter that a caller gave."""
        if len(items) > 1:
            await asyncio.gather(*(self._search_collection(name, [item], call) for item in items))
        elif items[0].request.filter is not None:
            items[0].error = ValidationFailedError("The vector store refused the filter.", param="filter")
        else:
            items[0].error = error

    def _searches(self, item: Question) -> list[Search]:
        request, limit = item.request, max(self._config.candidates, item.request.top_k)
        searches = []
        if item.vector is not None:
            searches.append(Search("dense", item.vector, limit, request.filter))
        if request.mode != "dense":
            assert item.info is not None
            words = Bm25Encoder.for_language(item.info.language).query(request.query)
            searches.append(Search("sparse", words, limit, request.filter))
        return searches

    async def _feedback(self, item: Question, call: Call) -> None:
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
        item.hits = fuse(item, self._config)
        self._account.took([item], "search", started)

    @staticmethod
    def _result(item: Question) -> SearchResult:
        threshold = item.request.score_threshold
        hits = [hit for hit in item.hits if threshold is None or hit.score >= threshold]
        return SearchResult(hits[: item.request.top_k], item.degraded, item.timings)
