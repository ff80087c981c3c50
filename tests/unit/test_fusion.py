"""Rank fusion and the maps to 0..1."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.fusion import reciprocal_rank, sigmoid, unit_bm25, unit_cosine

RANKINGS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=8), max_size=4)


def test_the_scores_are_those_of_the_paper_scaled() -> None:
    fused = dict(reciprocal_rank([["a", "b"], ["b", "c"]]))
    best = 2 / 61
    assert fused["b"] == pytest.approx((1 / 62 + 1 / 61) / best)
    assert fused["a"] == pytest.approx((1 / 61) / best)
    assert fused["c"] == pytest.approx((1 / 62) / best)


def test_the_first_of_every_ranking_scores_1() -> None:
    assert reciprocal_rank([["a", "b"], ["a"], ["a", "c"]])[0] == ("a", 1.0)


def test_weights_count() -> None:
    assert [name for name, _ in reciprocal_rank([["a"], ["b"]], weights=[1, 2])] == ["b", "a"]
    assert reciprocal_rank([["a"], ["b"]], weights=[1, 0])[0] == ("a", 1.0)


def test_a_smaller_k_favours_the_top() -> None:
    rankings = [["a", "x", "b"], ["y", "z", "b"]]
    assert reciprocal_rank(rankings, k=60)[0][0] == "b"
    assert reciprocal_rank(rankings, k=0)[0][0] == "a"


def test_ties_go_to_the_better_rank_then_the_first_ranking_then_the_id() -> None:
    assert [name for name, _ in reciprocal_rank([["z"], ["a"]])] == ["z", "a"]
    assert [name for name, _ in reciprocal_rank([["b", "a"], ["a", "b"]])] == ["b", "a"]


def test_an_id_twice_in_a_ranking_counts_once() -> None:
    assert reciprocal_rank([["a", "a", "b"]]) == reciprocal_rank([["a", "b"]])


@given(RANKINGS)
def test_every_id_comes_once_best_first_in_0_to_1(rankings: list[list[str]]) -> None:
    fused = reciprocal_rank(rankings)
    assert sorted(name for name, _ in fused) == sorted({name for ranking in rankings for name in ranking})
    scores = [score for _, score in fused]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)


@given(RANKINGS, st.randoms(use_true_random=False))
def test_scores_do_not_hang_on_the_order_of_the_rankings(rankings: list[list[str]], random: object) -> None:
    turned = list(reversed(rankings))
    assert dict(reciprocal_rank(rankings)) == dict(reciprocal_rank(turned))


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, math.inf], [1.0, math.nan]])
def test_weights_that_do_not_fit_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        reciprocal_rank([["a"], ["b"]], weights=weights)


def test_a_negative_k_is_refused() -> None:
    with pytest.raises(ValueError, match="k must"):
        reciprocal_rank([["a"]], k=-1)


def test_nothing_fuses_to_nothing() -> None:
    assert reciprocal_rank([]) == []
    assert reciprocal_rank([[], []]) == []


def test_a_cosine_is_cut_to_0_to_1() -> None:
    assert [unit_cosine(score) for score in (-1, -0.0, 0.5, 1.0000001, math.nan)] == [0, 0, 0.5, 1, 0]


def test_bm25_saturates() -> None:
    assert unit_bm25(8.0) == 0.5
    assert unit_bm25(3.0, half=3.0) == 0.5
    assert [unit_bm25(score) for score in (0, -3, math.nan)] == [0, 0, 0]
    assert unit_bm25(math.inf) == 1


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_bm25_keeps_the_order(one: float, other: float) -> None:
    assert 0 <= unit_bm25(one) <= 1
    assert (one <= other) <= (unit_bm25(one) <= unit_bm25(other))


@given(st.floats(allow_nan=False))
def test_a_sigmoid_is_in_0_to_1_for_any_logit(logit: float) -> None:
    assert 0 <= sigmoid(logit) <= 1
    assert sigmoid(logit) + sigmoid(-logit) == pytest.approx(1)


def test_a_sigmoid_is_half_at_0_and_rises() -> None:
    assert sigmoid(0) == 0.5
    assert sigmoid(2) == pytest.approx(0.8807970779778823)
