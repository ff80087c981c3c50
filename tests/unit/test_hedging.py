"""When a hedge may go out: the quantiles of the last latencies, and the budget."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.hedging import HedgeBudget, LatencyWindow


def test_there_is_no_quantile_of_too_few_latencies() -> None:
    window = LatencyWindow(least=20)
    for _ in range(19):
        window.observe(0.1)
        assert window.quantile(0.95) is None
    window.observe(0.1)
    assert window.quantile(0.95) == 0.1


def test_a_quantile_is_the_nearest_rank() -> None:
    window = LatencyWindow(size=100)
    for latency in range(100, 0, -1):
        window.observe(float(latency))
    assert [window.quantile(q) for q in (0, 0.005, 0.5, 0.95, 0.951, 1)] == [1, 1, 50, 95, 96, 100]


def test_what_has_left_the_window_counts_no_more() -> None:
    window = LatencyWindow(size=64)
    for latency in [9.0] * 200 + [1.0] * 64:
        window.observe(latency)
    assert window.quantile(1) == 1.0


@given(st.lists(st.floats(0, 100), min_size=20, max_size=600), st.floats(0, 1), st.integers(1, 40))
def test_a_quantile_is_a_sixteenth_of_the_window_behind_at_most(latencies: list[float], q: float, step: int) -> None:
    window = LatencyWindow(size=64)
    for count, latency in enumerate(latencies, 1):
        window.observe(latency)
        if count >= 20 and count % step == 0:
            possible = {_rank(latencies[max(0, end - 64) : end], q) for end in range(max(1, count - 3), count + 1)}
            assert window.quantile(q) in possible


def _rank(latencies: list[float], q: float) -> float:
    return sorted(latencies)[max(0, math.ceil(q * len(latencies)) - 1)]


@pytest.mark.parametrize(("size", "least"), [(0, 0), (10, 0), (10, 11)])
def test_an_impossible_window_is_refused(size: int, least: int) -> None:
    with pytest.raises(ValueError, match="not a window"):
        LatencyWindow(size, least)


def test_twenty_calls_earn_one_hedge() -> None:
    budget = HedgeBudget()
    assert not budget.try_spend()
    for _ in range(5):
        for _ in range(19):
            budget.offered()
            assert not budget.try_spend()
        budget.offered()
        assert budget.try_spend()


def test_a_tenth_is_a_tenth_though_binary_has_none() -> None:
    budget = HedgeBudget(ratio=0.1)
    for _ in range(10):
        budget.offered()
    assert budget.try_spend()


def test_no_more_than_ten_hedges_are_saved_up() -> None:
    budget = HedgeBudget(ratio=0.5)
    for _ in range(1_000):
        budget.offered()
    assert sum(budget.try_spend() for _ in range(100)) == 10


@given(st.floats(0, 1), st.lists(st.booleans(), max_size=400))
def test_hedges_are_never_more_than_their_share_of_the_calls(ratio: float, calls: list[bool]) -> None:
    budget = HedgeBudget(ratio)
    offered = spent = 0
    for call in calls:
        if call:
            budget.offered()
            offered += 1
        else:
            spent += budget.try_spend()
        assert spent <= ratio * offered + 1e-6


@pytest.mark.parametrize("ratio", [-0.01, 1.01, math.nan])
def test_an_impossible_share_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="not a share"):
        HedgeBudget(ratio)
