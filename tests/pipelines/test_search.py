"""The search pipeline by itself: fusion, what is left out when a service is down, failures of single questions."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from hartonomous.clients.failures import AnswerTooLargeError, BackendRefusedError
from hartonomous.clients.points import Hit
from hartonomous.config import Retrieval
from hartonomous.core.fusion import rocchio
from hartonomous.errors import (
    BackendUnavailableError,
    ConflictError,
    DeadlineExceededError,
    HartonomousError,
    NotFoundError,
    ValidationFailedError,
)
from hartonomous.metrics import Metrics
from hartonomous.pipelines.questions import SearchRequest, SearchResult
from hartonomous.pipelines.search import Searcher
from hartonomous.pipelines.traffic import Traffic
from tests.pipelines.fakes import Embedding, Reranking, Schema, Vectors, call, chunk, hits, questions

LATE = (BackendUnavailableError, DeadlineExceededError)
DOWN = BackendUnavailableError("down", retry_after=1)


def ask(query: str = "words", collection: str = "docs", **options: Any) -> SearchRequest:
    return SearchRequest(query=query, collection=collection, **{"top_k": 5, **options})


class Parts:
    """A searcher and its collaborators."""

    def __init__(self, vectors: Vectors, reranking: Reranking | None = None, **config: Any) -> None:
        self.embedding, self.reranking, self.vectors, self.schema = Embedding(), reranking, vectors, Schema()
        fakes = (self.embedding, self.reranking, self.vectors, self.schema)
        embedding, reranker, store, schema = (cast("Any", fake) for fake in fakes)
        self.searcher = Searcher(
            embedding, reranker, store, schema, Retrieval(**config), Metrics(), Traffic(), questions()
        )

    async def names(self, request: SearchRequest) -> list[str]:
        return [hit.chunk.id for hit in (await self.searcher.search(request, call())).hits]


def both() -> Vectors:
    return Vectors(dense=hits(a=0.9, b=0.8, c=0.1), sparse=hits(c=9.0, b=8.0, d=1.0))


async def test_hybrid_fuses_by_rank_and_keeps_both_scores() -> None:
    result = await Parts(both()).searcher.search(ask(), call())
    # c is third and first: 1/63 + 1/61 is a little more than b's 2/62.
    assert [hit.chunk.id for hit in result.hits] == ["c", "b", "a", "d"]
    assert result.hits[0].scores == {"dense": 0.1, "sparse": 9.0}
    assert result.hits[2].scores == {"dense": 0.9}
    assert result.hits[0].score == pytest.approx((1 / 63 + 1 / 61) / (2 / 61))


@pytest.mark.parametrize("reranking", [None, Reranking({"Text of d.": 0.9})])
async def test_hits_stay_with_the_caller_when_the_question_is_let_go_of(reranking: Reranking | None) -> None:
    result = await Parts(both(), reranking).searcher.search(ask(top_k=50), call())
    found = list(result.hits)
    for _ in range(3):
        await asyncio.sleep(0)
    assert result.hits == found
    assert len(found) == 4


async def test_dense_and_sparse_take_their_own_scores() -> None:
    parts = Parts(Vectors(dense=hits(a=0.9, b=-0.2), sparse=hits(c=8.0)))
    dense = await parts.searcher.search(ask(mode="dense"), call())
    assert [(hit.chunk.id, hit.score) for hit in dense.hits] == [("a", 0.9), ("b", 0.0)]
    sparse = await parts.searcher.search(ask(mode="sparse"), call())
    assert [(hit.chunk.id, hit.score) for hit in sparse.hits] == [("c", 0.5)]
    assert parts.embedding.batches == [["words"]]


async def test_a_reranker_orders_and_equal_scores_keep_the_order_of_the_search() -> None:
    parts = Parts(both(), Reranking({"Text of d.": 0.9, "Text of a.": 0.9}))
    assert await parts.names(ask()) == ["a", "d", "c", "b"]


async def test_only_the_best_candidates_are_reranked_but_never_fewer_than_asked_for() -> None:
    parts = Parts(both(), Reranking({"Text of d.": 0.9}), rerank_candidates=2)
    assert await parts.names(ask(top_k=1)) == ["c"]
    assert await parts.names(ask(top_k=4)) == ["d", "c", "b", "a"]


async def test_without_reranker_or_wish_for_it_nothing_is_reranked() -> None:
    reranking = Reranking()
    reranking.error = DOWN
    parts = Parts(both(), reranking)
    result = await parts.searcher.search(ask(rerank=False), call())
    assert result.degraded == []


async def test_a_failing_reranker_is_left_out() -> None:
    reranking = Reranking()
    reranking.error = DOWN
    result = await Parts(both(), reranking).searcher.search(ask(), call())
    assert result.degraded == ["reranking"]
    assert [hit.chunk.id for hit in result.hits] == ["c", "b", "a", "d"]


async def test_a_failing_embedder_leaves_bm25() -> None:
    parts = Parts(both())
    parts.embedding.error = DOWN
    result = await parts.searcher.search(ask(), call())
    assert (result.degraded, [hit.chunk.id for hit in result.hits]) == (["embedding"], ["c", "b", "d"])
    with pytest.raises(BackendUnavailableError):
        await parts.searcher.search(ask(mode="dense"), call())
    assert (await parts.searcher.search(ask(mode="sparse"), call())).degraded == []


async def test_when_the_deadline_has_passed_nothing_is_called_degraded() -> None:
    parts = Parts(both(), Reranking())
    assert parts.reranking is not None
    parts.reranking.error = DOWN
    with pytest.raises(BackendUnavailableError):
        await parts.searcher.search(ask(mode="sparse"), call(0))
    parts.embedding.error = DOWN
    with pytest.raises(LATE):
        await parts.searcher.search(ask(), call(0))


async def test_the_threshold_cuts_before_top_k() -> None:
    parts = Parts(Vectors(dense=hits(a=0.9, b=0.5, c=0.4)))
    result = await parts.searcher.search(ask(mode="dense", score_threshold=0.5, top_k=5), call())
    assert [hit.chunk.id for hit in result.hits] == ["a", "b"]


async def test_many_questions_share_calls_and_keep_their_own_failures() -> None:
    parts = Parts(both())
    requests = [
        ask("one"),
        ask("two", "nowhere"),
        ask("three", "foreign"),
        ask("four", "other"),
        ask("long" * 9),
        ask("five", "foreign", mode="sparse"),
        ask("six"),
    ]
    found = await parts.searcher.search_many(requests, call())
    kinds = [getattr(outcome, "error_code", "found") for outcome in found]
    assert kinds == [
        "found",
        "collection_not_found",
        "embedding_model_mismatch",
        "found",
        "input_too_long",
        "found",
        "found",
    ]
    params = [outcome.param for outcome in found if isinstance(outcome, HartonomousError)]
    assert params == ["collection", "collection", "query"]
    assert sorted(name for name, _ in parts.vectors.searches) == ["docs", "foreign", "other"]
    (docs,) = [searches for name, searches in parts.vectors.searches if name == "docs"]
    assert [search.using for search in docs] == ["dense", "sparse"] * 2
    assert isinstance(found[1], NotFoundError)
    assert isinstance(found[2], ConflictError)


async def test_one_collection_is_described_once_for_all_its_questions() -> None:
    parts = Parts(both())
    await parts.searcher.search_many([ask(str(number), mode="sparse") for number in range(9)], call())
    assert parts.schema.asked == ["docs"]


async def test_questions_are_embedded_in_full_batches_and_a_long_one_is_found_by_halving() -> None:
    parts = Parts(both())
    texts = ["a", "b", "c", "long" * 9, "d"]
    found = await parts.searcher.search_many([ask(text) for text in texts], call())
    assert [isinstance(outcome, SearchResult) for outcome in found] == [True, True, True, False, True]
    assert sorted(map(len, parts.embedding.batches)) == [1] * 3 + [1] * 4 + [2, 2, 4]  # four times shortened


async def test_as_much_of_a_long_question_is_embedded_as_the_model_takes() -> None:
    parts = Parts(both())
    found = await parts.searcher.search(ask("a long one"), call())
    assert found.degraded == []
    assert parts.embedding.batches[0] == ["a long one"]
    assert "a long one".startswith(parts.embedding.batches[-1][0])
    assert "long" not in parts.embedding.batches[-1][0]


async def test_a_filter_that_the_store_refuses_is_its_questions_fault() -> None:
    bad = {"must": [{"key": "metadata.x", "match": {"value": 1}}]}
    parts = Parts(both())
    parts.vectors.error, parts.vectors.refuses = BackendRefusedError("refused", answered=400), bad
    good, refused = await parts.searcher.search_many([ask(), ask(filter=bad)], call())
    assert isinstance(good, SearchResult)
    assert isinstance(refused, ValidationFailedError)
    assert refused.param == "filter"


async def test_a_store_that_is_down_fails_every_question_without_a_second_try() -> None:
    parts = Parts(both())
    parts.vectors.error = DOWN
    found = await parts.searcher.search_many([ask("one"), ask("two")], call())
    assert found == [DOWN, DOWN]
    assert len(parts.vectors.searches) == 1


def moving(**scores: float) -> Vectors:
    """Return a store whose dense ranking is this one from the second call on."""

    class Moving(Vectors):
        async def search_with_vectors(self, *arguments: Any) -> Any:
            found = await super().search_with_vectors(*arguments)
            self.rankings["dense"] = hits(**scores)
            return found

    return Moving(dense=hits(a=0.9, b=0.8, c=0.1), sparse=hits(c=9.0, b=8.0, d=1.0))


async def test_feedback_is_one_more_search_with_a_moved_question() -> None:
    vectors = moving(c=0.95, e=0.9, a=0.7)
    result = await Parts(vectors).searcher.search(ask("words", feedback=True), call())
    assert [hit.chunk.id for hit in result.hits] == ["c", "e", "b", "a", "d"]
    (best,) = vectors.best
    assert ([search.using for search in best.searches], best.limit, best.k) == (["dense", "sparse"], 10, 60)
    first, second = (searches for _, searches in vectors.searches)
    assert [float(value) for value in cast("Any", first[0].vector)] == [1.0, 5.0]
    (moved,) = second
    assert (moved.using, moved.limit) == ("dense", first[0].limit)
    assert moved.vector == pytest.approx(rocchio([1.0, 5.0], [[0.0, 1.0]]))


async def test_feedback_goes_by_our_own_best_five_of_the_vectors_that_the_store_gives() -> None:
    vectors = Vectors(dense=hits(a=0.9, b=0.8, c=0.7, d=0.6, e=0.5, f=0.4))
    vectors.stored = {"f": [-1.0, 0.0], "e": [0.0, 1.0], "b": [1.0, 0.0]}
    await Parts(vectors).searcher.search(ask("words", mode="dense", feedback=True), call())
    (moved,) = vectors.searches[1][1]
    assert moved.vector == pytest.approx(rocchio([1.0, 5.0], [[1.0, 0.0], [0.0, 1.0]]))
    vectors.stored = {"f": [-1.0, 0.0]}
    assert await Parts(vectors).names(ask(mode="dense", feedback=True)) == ["a", "b", "c", "d", "e"]
    assert len(vectors.searches) == 3


async def test_after_feedback_the_similarities_are_still_those_to_the_question_as_asked() -> None:
    result = await Parts(moving(c=0.95, e=0.9, a=0.7)).searcher.search(ask(feedback=True), call())
    similarities = {hit.chunk.id: hit.scores.get("dense") for hit in result.hits}
    assert similarities == {"c": 0.1, "b": 0.8, "e": 0.1, "a": 0.9, "d": None}
    dense = await Parts(moving(c=0.95, a=0.7)).searcher.search(ask(feedback=True, mode="dense"), call())
    assert [(hit.chunk.id, hit.score, hit.scores["dense"]) for hit in dense.hits] == [("c", 0.95, 0.1), ("a", 0.7, 0.9)]


async def test_feedback_that_fails_is_left_out() -> None:
    class Failing(Vectors):
        async def search_with_vectors(self, *arguments: Any) -> Any:
            found = await super().search_with_vectors(*arguments)
            self.error = DOWN
            return found

    plain = await Parts(both()).searcher.search(ask(), call())
    result = await Parts(Failing(hits(a=0.9, b=0.8, c=0.1), hits(c=9.0, b=8.0, d=1.0))).searcher.search(
        ask(feedback=True), call()
    )
    assert (result.hits, result.degraded) == (plain.hits, ["feedback"])
    with pytest.raises(LATE):
        await Parts(Failing(hits(a=0.9))).searcher.search(ask(feedback=True), call(0))


async def test_feedback_of_many_questions_is_one_call_more() -> None:
    parts = Parts(both())
    found = await parts.searcher.search_many(
        [ask(str(number), feedback=number % 2 == 0) for number in range(9)], call()
    )
    assert all(isinstance(outcome, SearchResult) for outcome in found)
    assert [len(searches) for _, searches in parts.vectors.searches] == [18, 5]


async def test_without_vectors_or_wish_for_it_there_is_no_feedback() -> None:
    parts = Parts(both())
    await parts.searcher.search(ask(mode="sparse", feedback=True), call())
    parts.embedding.error = DOWN
    assert (await parts.searcher.search(ask(feedback=True), call())).degraded == ["embedding"]
    assert len(parts.vectors.searches) == 2


async def test_feedback_never_mixes_versions() -> None:
    old = Hit(chunk("old", document="d", content="1", sequence=1), 5.0)
    new = Hit(chunk("new", document="d", content="2", sequence=2), 0.9)

    class Replaced(Vectors):
        async def search_with_vectors(self, *arguments: Any) -> Any:
            found = await super().search_with_vectors(*arguments)
            self.rankings["dense"] = [new]
            return found

    vectors = Replaced(dense=[Hit(old.chunk, 0.8)], sparse=[old])
    vectors.stored = {"old": [0.0, 1.0]}
    parts = Parts(vectors)
    assert await parts.names(ask(feedback=True)) == ["new"]


async def test_the_rule_the_constant_and_the_weights_are_configured() -> None:
    fusion: dict[str, Any] = {"k": 1, "dense_weight": 3.0}
    result = await Parts(both(), fusion=fusion).searcher.search(ask(), call())
    assert [hit.chunk.id for hit in result.hits] == ["a", "b", "c", "d"]
    fused = [("a", 0.75), ("b", 0.875 * 0.75 + 0.875 * 0.25), ("c", 0.25), ("d", 0.0)]
    result = await Parts(both(), fusion={"rule": "relative", "dense_weight": 3.0}).searcher.search(ask(), call())
    assert {hit.chunk.id: hit.score for hit in result.hits} == pytest.approx(dict(fused))
    assert [hit.chunk.id for hit in result.hits] == ["b", "a", "c", "d"]
    sparse = {"rule": "dbsf", "dense_weight": 0.0}
    assert (await Parts(both(), fusion=sparse).names(ask()))[:2] == ["c", "b"]


async def test_a_hybrid_search_that_words_alone_answered_has_their_scores() -> None:
    for weight in (1.0, 0.0):
        parts = Parts(both(), fusion={"sparse_weight": weight})
        parts.embedding.error = DOWN
        hybrid = await parts.searcher.search(ask(), call())
        sparse = await parts.searcher.search(ask(mode="sparse"), call())
        assert hybrid.hits == sparse.hits


async def test_the_weight_of_the_reranker_blends_its_score_with_the_searchs_own() -> None:
    reranking = Reranking({"Text of a.": 0.2, "Text of b.": 0.1})
    parts = Parts(Vectors(dense=hits(a=0.5, b=0.8)), reranking, rerank_weight=0.25)
    result = await parts.searcher.search(ask(mode="dense"), call())
    assert [hit.chunk.id for hit in result.hits] == ["b", "a"]
    assert [hit.score for hit in result.hits] == pytest.approx([0.25 * 0.1 + 0.75 * 0.8, 0.25 * 0.2 + 0.75 * 0.5])
    assert [hit.scores["rerank"] for hit in result.hits] == [0.1, 0.2]


async def test_too_large_an_answer_is_asked_for_in_halves() -> None:
    class Small(Vectors):
        async def search_with_vectors(self, *arguments: Any) -> Any:
            found = await super().search_with_vectors(*arguments)
            if len(arguments[1]) > 4:
                raise AnswerTooLargeError("too large")
            return found

    parts = Parts(Small(dense=hits(a=0.9), sparse=hits(a=1.0)))
    found = await parts.searcher.search_many([ask(str(number), feedback=True) for number in range(5)], call())
    assert all(isinstance(outcome, SearchResult) and outcome.degraded == [] for outcome in found)
    assert [len(searches) for _, searches in parts.vectors.searches] == [10, 4, 6, 2, 4, 5, 2, 3]
