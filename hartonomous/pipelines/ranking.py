"""The last stages of a search: rankings fused into one, its best hits reranked.

How `score` in 0..1 is made, comparable within one answer:

- `dense`: the cosine similarity, below 0 cut to 0. With feedback it is that to the moved question.
- `sparse`: BM25's s, which has no upper end, as s / (s + 8).
- `hybrid`: by `rag.retrieval.fusion.rule` a share of the best possible: a hit that leads both rankings has 1, one that
  a single search found has that search's share at most (0.5 with equal weights). `rrf` adds 1 / (k + rank), `relative`
  and `dbsf` add the scores, scaled by their ranking's range or by its mean and deviation (`core.fusion`). A search that
  found nothing is a ranking like others. One that did not run, for want of an embedding, is none: then `score` is that
  of `sparse`.
- where a reranker answered: w * rerank + (1 - w) * the score above, w being `rag.retrieval.rerank_weight`. Its own
  score is in 0..1 already (`clients.reranking`). Without it, or when its answer tells nothing, order and score stay.

`scores` keeps what the score is made of: the cosine similarity to the question as it was asked, the BM25 sum, the
reranker's score in 0..1. A chunk that only one search had among its `candidates` lacks the other's score; it is not 0,
only unknown and no higher than those that are known. A chunk that only the moved question of feedback found has for its
similarity the lowest that the first search found, or less: it can have no more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from operator import attrgetter

from hartonomous import tracing
from hartonomous.clients.points import Hit
from hartonomous.clients.reranking import RerankingClient
from hartonomous.config import Fusion, Retrieval
from hartonomous.core.call import Call
from hartonomous.core.fusion import fuse as fuse_rankings
from hartonomous.core.fusion import unit_bm25, unit_cosine
from hartonomous.errors import HartonomousError
from hartonomous.pipelines.questions import Account, Kind, Question, ScoredHit
from hartonomous.pipelines.traffic import Traffic

_score = attrgetter("score")


def fuse(item: Question, config: Retrieval) -> list[ScoredHit]:
    """Return the chunks that the searches of a question found, best first, each with its scores."""
    found: dict[Kind, dict[str, Hit]] = {}
    for kind, ranking in item.rankings.items():
        found[kind] = {hit.chunk.id: hit for hit in ranking}
    by_meaning, by_words = found.get("dense", {}), found.get("sparse", {})
    best = []
    for chunk_id, share in _fused(item.rankings, config.fusion):
        dense = by_meaning.get(chunk_id)
        if dense is None:
            sparse = by_words[chunk_id]
            best.append(ScoredHit(sparse.chunk, share, None, sparse.score))
        else:
            also = by_words.get(chunk_id)
            best.append(ScoredHit(dense.chunk, share, dense.score, None if also is None else also.score))
    if item.asked is not None:
        _unmove(best, item.asked)
    return best


def _fused(found: Mapping[Kind, Sequence[Hit]], config: Fusion) -> list[tuple[str, float]]:
    rankings = [[(hit.chunk.id, hit.score) for hit in ranking] for ranking in found.values()]
    if len(rankings) == 1:
        unit = {"dense": unit_cosine, "sparse": unit_bm25}[next(iter(found))]
        return list({chunk_id: unit(score) for chunk_id, score in rankings[0]}.items())
    weights = {"dense": config.dense_weight, "sparse": config.sparse_weight}
    return fuse_rankings(rankings, rule=config.rule, k=config.k, weights=[weights[kind] for kind in found])


def _unmove(hits: Sequence[ScoredHit], asked: Sequence[Hit]) -> None:
    """Put the similarities to the question as it was asked in the place of those to the moved one."""
    known = {hit.chunk.id: hit.score for hit in asked}
    lowest = min(known.values(), default=0.0)
    for hit in hits:
        if hit.chunk.id in known:
            hit.dense = known[hit.chunk.id]
        elif hit.dense is not None:
            hit.dense = min(hit.dense, lowest)


class Reranker:
    """Asks the reranking service, if there is one."""

    def __init__(
        self, reranking: RerankingClient | None, config: Retrieval, account: Account, traffic: Traffic
    ) -> None:
        self._reranking = reranking
        self._config = config
        self._account = account
        self._traffic = traffic

    async def rerank(self, item: Question, call: Call) -> None:
        """Sort the best hits of a question by their scores with the reranker's; without it their order stays.

        They are `rerank_candidates`, or as many as are asked for if those are more: one order needs one kind of score.
        """
        candidates = item.hits[: max(self._config.rerank_candidates, item.request.top_k)]
        if self._reranking is None or not item.request.rerank or not candidates or item.error is not None:
            return
        started = time.perf_counter()
        texts = [hit.chunk.text for hit in candidates]
        # A reranker that hangs must leave time for an answer without it.
        try:
            with self._traffic.query(), tracing.span(call, "rerank", {"hartonomous.candidates": len(texts)}) as asked:
                scores = await self._reranking.rerank(item.request.query, texts, asked.share(0.5))
        except HartonomousError as error:
            if call.deadline.expired:
                item.error = error
            else:
                self._account.degrade(item, "reranking")
            return
        weight = self._config.rerank_weight
        rest = 1 - weight
        for hit, score in zip(candidates, scores, strict=True):
            hit.rerank = score
            hit.score = weight * score + rest * hit.score
        # A stable sort: equal scores keep the order of the search.
        candidates.sort(key=_score, reverse=True)
        item.hits = candidates
        self._account.took([item], "rerank", started, call)
