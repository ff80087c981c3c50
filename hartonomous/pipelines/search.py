"""The search pipeline: questions to ranked hits, for one question or for many at once.

Many questions cost one embedding call for each full batch (`pipelines.vectorizing`), one call to the vector store for
each collection (`pipelines.lookup`), and a reranking for each of them, side by side (`pipelines.ranking`). Whoever goes
on with each by itself (`find`, `finish`) need not wait for the rerankings of the others. One question is the same with
a list of one. What fails for one question stays its own: `search_many` returns an error in its place. A stage that is
left out because its backend is down is named in `degraded`.

Feedback costs one more call to the vector store for each collection. The vectors of the best five hits come with the
first one: the store fuses both rankings itself, by reciprocal rank, and answers the vectors of its best ten. (Where
another rule or other weights are configured, those of our best five count that are among them. Qdrant's own `recommend`
would leave the five out of what it finds.) When the second call fails the question is answered by the first alone, with
`feedback` in `degraded`. Without a vector, for BM25 alone, there is nothing to move.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hartonomous.cache.vectors import QuestionVectors
from hartonomous.clients.embedding import EmbeddingClient
from hartonomous.clients.points import Hit, newest_only
from hartonomous.clients.reranking import RerankingClient
from hartonomous.clients.schema import Schema
from hartonomous.clients.sparse import Bm25Encoder
from hartonomous.clients.vectors import BestVectors, Search, VectorClient
from hartonomous.config import Retrieval
from hartonomous.core.call import Call
from hartonomous.core.fusion import rocchio
from hartonomous.errors import HartonomousError, NotFoundError
from hartonomous.metrics import Metrics
from hartonomous.pipelines.lookup import Lookup, Plan
from hartonomous.pipelines.questions import Account, Question, SearchRequest, SearchResult, all_of, by_collection, fail
from hartonomous.pipelines.ranking import Reranker, fuse
from hartonomous.pipelines.traffic import Traffic
from hartonomous.pipelines.vectorizing import Vectorizer

# Pseudo-relevance feedback looks at so many of the best hits.
_FEEDBACK_HITS = 5
# The vectors that are asked for to have theirs: the store breaks ties in its own way, and knows no other rule.
_FEEDBACK_VECTORS = 2 * _FEEDBACK_HITS


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
        questions: QuestionVectors,
    ) -> None:
        self._traffic = traffic
        self._schema = schema
        self._config = config
        self._account = Account(metrics)
        self._lookup = Lookup(vectors, self._account)
        self._vectorizer = Vectorizer(embedding, schema, self._account, questions)
        self._reranker = Reranker(reranking, config, self._account, traffic)

    async def search(self, request: SearchRequest, call: Call) -> SearchResult:
        """Answer one question. Raises any of our errors."""
        (item,) = await self.find([request], call)
        # What is not needed any more is let go of while the next service is asked: to free some hundred strings takes
        # 40 µs, and their memory is still in the processor's cache for the next question.
        loop = asyncio.get_running_loop()
        loop.call_soon(item.forget_rankings)
        result = await self.finish(item, call)
        loop.call_soon(item.hits.clear)
        return result

    async def search_many(self, requests: Sequence[SearchRequest], call: Call) -> list[SearchResult | HartonomousError]:
        """Answer each question with its result or its error, in order."""
        items = await self.find(requests, call)
        await all_of([self._reranker.rerank(item, call) for item in items])
        return [item.error or self._result(item) for item in items]

    async def find(self, requests: Sequence[SearchRequest], call: Call) -> list[Question]:
        """Take questions through the stages that they have in common, each to be `finish`ed by itself, in order."""
        items = list(map(Question, requests))
        with self._traffic.query():
            await self._describe(items, call)
            await self._vectorizer.embed([item for item in items if item.wants_embedding], call)
            await self._search(items, call)
            moving = [item for item in items if item.best_vectors]
            if moving:
                await self._feedback(moving, call)
        return items

    async def finish(self, item: Question, call: Call) -> SearchResult:
        """Take a question that was found for through the last stage. Raises any of our errors."""
        await self._reranker.rerank(item, call)
        if item.error is not None:
            raise item.error
        return self._result(item)

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
        plans = [self._plan(item) for item in items if item.error is None]
        await self._lookup.run(plans, call)
        for plan in plans:
            item = plan.item
            item.error = plan.error
            item.rankings = {search.using: found for search, found in zip(plan.searches, plan.rankings, strict=False)}
            item.hits = fuse(item, self._config)
            if plan.vectors:
                best = (plan.vectors.get(hit.chunk.id) for hit in item.hits[:_FEEDBACK_HITS])
                item.best_vectors = [vector for vector in best if vector is not None]

    def _plan(self, item: Question) -> Plan:
        request, limit = item.request, self._depth(item.request)
        searches = []
        if item.vector is not None:
            searches.append(Search("dense", item.vector, limit, request.filter))
        if request.mode != "dense":
            assert item.info is not None
            words = Bm25Encoder.for_language(item.info.language).query(request.query)
            searches.append(Search("sparse", words, limit, request.filter))
        best = BestVectors(searches, _FEEDBACK_VECTORS, self._config.fusion.k) if item.wants_feedback else None
        return Plan(item, searches, best)

    def _depth(self, request: SearchRequest) -> int:
        return max(self._config.candidates, request.top_k)

    async def _feedback(self, items: Sequence[Question], call: Call) -> None:
        """Search once more with each question moved towards its best hits (pseudo-relevance feedback after Rocchio)."""
        plans = []
        for item in items:
            assert item.vector is not None
            moved = rocchio(item.vector, item.best_vectors)
            plans.append(Plan(item, [Search("dense", moved, self._depth(item.request), item.request.filter)]))
        await self._lookup.run(plans, call)
        for plan in plans:
            if plan.error is None:
                self._take(plan.item, plan.rankings[0])
            elif call.deadline.expired:
                plan.item.error = plan.error
            else:
                self._account.degrade(plan.item, "feedback")

    def _take(self, item: Question, moved: list[Hit]) -> None:
        """Put the ranking of the moved question in the place of the dense one, and fuse again."""
        item.asked = item.rankings["dense"]
        # A document may have been replaced between the two searches: of one document only one version may stay.
        others = [kind for kind in item.rankings if kind != "dense"]
        rankings = newest_only([moved, *(item.rankings[kind] for kind in others)])
        item.rankings = dict(zip(("dense", *others), rankings, strict=True))
        item.hits = fuse(item, self._config)

    @staticmethod
    def _result(item: Question) -> SearchResult:
        hits, threshold = item.hits, item.request.score_threshold
        if threshold is not None:
            hits = [hit for hit in hits if hit.score >= threshold]
        return SearchResult(hits[: item.request.top_k], item.degraded, item.timings)
