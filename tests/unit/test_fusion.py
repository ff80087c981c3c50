"""Rank fusion and the maps to 0..1."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.fusion import (
    Rule,
    distribution_based,
    fuse,
    reciprocal_rank,
    relative_score,
    rocchio,
    sigmoids,
    unit_bm25,
    unit_cosine,
)

RANKINGS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=8), max_size=4)
SCORED = st.lists(
    st.dictionaries(st.sampled_from("abcdefgh"), st.floats(), max_size=8).map(
        lambda scores: sorted(scores.items(), key=lambda item: -item[1])
    ),
    max_size=3,
)
RULES: tuple[Rule, ...] = ("rrf", "relative", "dbsf")
VECTORS = st.lists(st.floats(-10, 10), min_size=3, max_size=3)


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


def test_relative_scores_are_stretched_over_each_ranking_and_weighted() -> None:
    dense, sparse = [("a", 0.9), ("b", 0.7), ("c", 0.5)], [("c", 12.0), ("a", 4.0)]
    assert relative_score([dense, sparse]) == [("a", 0.5), ("c", 0.5), ("b", pytest.approx(0.25))]
    assert relative_score([dense, sparse], [3, 1])[0] == ("a", 0.75)
    assert relative_score([dense, sparse], [0, 1]) == [("c", 1.0), ("a", 0.0), ("b", 0.0)]


def test_distribution_based_scores_are_seen_against_mean_and_deviation() -> None:
    # Mean 2, sample deviation 1: from -1 to 5.
    fused = dict(distribution_based([[("a", 3.0), ("b", 2.0), ("c", 1.0)]]))
    assert fused == pytest.approx({"a": 4 / 6, "b": 3 / 6, "c": 2 / 6})
    outlier = [("a", 100.0), *((f"x{number}", 0.0) for number in range(40))]
    assert distribution_based([outlier])[0] == ("a", 1.0)
    outlier = [*((f"x{number}", 0.0) for number in range(40)), ("a", -100.0)]
    assert distribution_based([outlier])[-1] == ("a", 0.0)


def test_where_all_scores_are_equal_the_middle_or_the_top_is_theirs() -> None:
    for ranking in ([("a", 0.1)], [("a", 0.1), ("b", 0.1), ("c", 0.1)]):
        assert {score for _, score in relative_score([ranking])} == {1.0}
        assert {score for _, score in distribution_based([ranking])} == {0.5}
        assert [name for name, _ in relative_score([ranking])] == [name for name, _ in ranking]


def test_scores_whose_sum_is_no_number_count_half_each() -> None:
    ranking = [("a", 1.7e308), ("b", 1.6e308), ("c", 0.0)]
    assert distribution_based([ranking]) == [("a", 0.5), ("b", 0.5), ("c", 0.5)]


def test_a_score_that_is_not_finite_counts_nothing() -> None:
    ranking = [("a", math.inf), ("b", 2.0), ("c", 1.0), ("d", math.nan)]
    assert relative_score([ranking]) == [("b", 1.0), ("a", 0.0), ("c", 0.0), ("d", 0.0)]
    assert dict(distribution_based([ranking]))["d"] == 0.0


@given(SCORED, st.sampled_from(RULES))
def test_every_rule_returns_every_id_once_best_first_in_0_to_1(
    rankings: list[list[tuple[str, float]]], rule: Rule
) -> None:
    fused = fuse(rankings, rule=rule)
    assert sorted(name for name, _ in fused) == sorted({name for ranking in rankings for name, _ in ranking})
    scores = [score for _, score in fused]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 99)), unique_by=lambda item: item[0]))
def test_no_rule_changes_the_order_of_a_single_ranking(ranking: list[tuple[str, float]]) -> None:
    ranking = sorted(ranking, key=lambda item: -item[1])
    for rule in RULES:
        assert [name for name, _ in fuse([ranking], rule=rule)] == [name for name, _ in ranking]


def test_rules_are_chosen_by_name() -> None:
    rankings = [[("a", 0.9), ("b", 0.8)], [("b", 2.0)]]
    assert fuse(rankings, k=7, weights=[2, 1]) == reciprocal_rank([["a", "b"], ["b"]], k=7, weights=[2, 1])
    assert fuse(rankings, rule="relative", weights=[2, 1]) == relative_score(rankings, [2, 1])
    assert fuse(rankings, rule="dbsf") == distribution_based(rankings)
    for rule in RULES:
        with pytest.raises(ValueError, match="weight"):
            fuse(rankings, rule=rule, weights=[1])


def test_feedback_moves_a_question_to_the_mean_of_the_directions() -> None:
    moved = rocchio([2.0, 0.0], [[0.0, 5.0], [0.0, 1.0]])
    length = math.hypot(1, 0.75)
    assert moved == pytest.approx([2 / length, 1.5 / length])
    assert rocchio([2.0, 0.0], []) == rocchio([2.0, 0.0], [[0.0, 0.0]]) == [2.0, 0.0]
    assert rocchio([3.0, 0.0], [[-1.0, 0.0]], beta=1.0) == [3.0, 0.0]


@given(VECTORS, st.lists(VECTORS, max_size=5))
def test_a_moved_question_keeps_its_length(query: list[float], relevant: list[list[float]]) -> None:
    assert math.hypot(*rocchio(query, relevant)) == pytest.approx(math.hypot(*query), abs=1e-9)


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
    one, other = sigmoids([logit, -logit])
    assert 0 <= one <= 1
    assert one + other == pytest.approx(1)


def test_a_sigmoid_is_half_at_0_and_rises() -> None:
    assert sigmoids([0, 2]) == [0.5, pytest.approx(0.8807970779778823)]
    assert sigmoids([-700.1]) < sigmoids([-699.9]) < sigmoids([-40])
