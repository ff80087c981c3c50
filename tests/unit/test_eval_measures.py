from __future__ import annotations

import math
import sys

import pytest

from hartonomous.evaluation.measures import MissingExtraError, measure, percentile, require


def test_measures_are_the_means_over_the_judged_questions() -> None:
    found = measure({"1": {"a": 2, "b": 1}, "2": {"c": 1}}, {"1": ["x", "a", "b"], "2": ["c"]})
    dcg, best = 2 / math.log2(3) + 1 / math.log2(4), 2 + 1 / math.log2(3)
    assert found == {
        "nDCG@10": pytest.approx((dcg / best + 1) / 2),
        "recall@5": 1.0,
        "recall@20": 1.0,
        "recall@100": 1.0,
        "MRR": 0.75,
    }


def test_the_order_of_a_ranking_counts_and_not_the_names_in_it() -> None:
    ranking = [f"d{number}" for number in range(100)]
    for place in (0, 8, 9, 10, 99):
        found = measure({"1": {ranking[place]: 1}}, {"1": ranking})
        assert found["MRR"] == pytest.approx(1 / (place + 1))
        assert found["nDCG@10"] == pytest.approx(1 / math.log2(place + 2) if place < 10 else 0)
        assert (found["recall@5"], found["recall@20"], found["recall@100"]) == (place < 5, place < 20, 1)


def test_a_question_without_a_ranking_counts_nothing() -> None:
    assert measure({"1": {"a": 1}, "2": {"a": 1}}, {"1": ["a"], "2": []})["nDCG@10"] == 0.5
    assert measure({"1": {"a": 1}, "2": {"a": 1}}, {"1": ["a"]})["nDCG@10"] == 0.5


def test_grades_of_nothing_and_below_are_not_relevant() -> None:
    assert measure({"1": {"a": -1, "b": 0, "c": 1}}, {"1": ["a", "b", "c"]})["nDCG@10"] == 0.5


def test_a_percentile_is_a_value_that_was_seen() -> None:
    values = [float(number) for number in range(20, 0, -1)]
    assert [percentile(values, share) for share in (0.5, 0.95, 1.0)] == [10.0, 19.0, 20.0]
    assert percentile([3.0], 0.5) == 3.0
    assert percentile([], 0.5) == 0.0


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    with pytest.raises(MissingExtraError, match=r"needs the package ir-measures: pip install 'hartonomous\[eval\]'"):
        require()


def test_an_installed_package_is_no_error() -> None:
    require()
