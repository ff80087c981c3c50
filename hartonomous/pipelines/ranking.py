"""The last stages of a search: rankings fused into one, its best hits reranked.

How `score` in 0..1 is made: `dense` is the cosine similarity, `sparse` BM25's s / (s + 8), `hybrid` the fused
reciprocal rank as a share of the best possible one; where a reranker answered, its calibrated score takes over. When
the reranker is down the order of the search stays.
"""

from __future__ import annotations

import time
from dataclasses import replace

from hartonomous.clients.reranking import RerankingClient
from hartonomous.config import Retrieval
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.core.fusion import reciprocal_rank, unit_bm25, unit_cosine
from hartonomous.errors import HartonomousError
from hartonomous.pipelines.questions import Account, Question, ScoredHit


def fuse(item: Question, config: Retrieval) -> list[ScoredHit]:
    """Return the chunks that the searches of a question found, best first, each with its scores."""
    found = item.rankings
    chunks = {hit.chunk.id: hit.chunk for hits in found.values() for hit in hits}
    scores: dict[str, dict[str, float]] = {chunk_id: {} for chunk_id in chunks}
    for using, hits in found.items():
        for hit in hits:
            scores[hit.chunk.id][using] = hit.score
    if item.request.mode == "hybrid":
        rankings = [[hit.chunk.id for hit in hits] for hits in found.values()]
        ranked = reciprocal_rank(rankings, k=config.fusion.k)
    else:
        unit = unit_cosine if item.request.mode == "dense" else unit_bm25
        ranked = [(hit.chunk.id, unit(hit.score)) for hits in found.values() for hit in hits]
    return [ScoredHit(chunks[chunk_id], score, scores[chunk_id]) for chunk_id, score in ranked]


class Reranker:
    """Asks the reranking service, if there is one."""

    def __init__(self, reranking: RerankingClient | None, config: Retrieval, account: Account) -> None:
        self._reranking = reranking
        self._config = config
        self._account = account

    async def rerank(self, item: Question, call: Call) -> None:
        """Sort the best hits of a question by the reranker's scores; without it their order stays."""
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
                self._account.degrade(item, "reranking")
            return
        for hit, score in zip(candidates, scores, strict=True):
            hit.score = hit.scores["rerank"] = score
        # A stable sort: equal scores keep the order of the search.
        item.hits = sorted(candidates, key=lambda hit: -hit.score)
        self._account.took([item], "rerank", started)
