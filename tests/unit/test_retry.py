"""Waits, the Retry-After header, the retry budget."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.retry import RetryBudget, backoff, parse_retry_after

NOW = 1_790_000_000.0


class Clock:
    """A monotonic clock that a test turns by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(st.integers(0, 5_000), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_never_beyond_the_cap_or_the_exponential(attempt: int, chance: float) -> None:
    wait = backoff(attempt, random=lambda: chance)
    assert 0 <= wait <= 2.0
    assert wait <= 0.1 * 2 ** min(attempt, 10)


def test_the_jitter_is_full() -> None:
    assert backoff(3, random=lambda: 0.0) == 0.0
    assert backoff(3, random=lambda: 0.5) == pytest.approx(0.4)
    assert backoff(0, base=1, cap=8, random=lambda: 0.999) == pytest.approx(0.999)
    assert backoff(9, base=1, cap=8, random=lambda: 0.5) == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0.5", 0.5),
        ("31", 30.0),
        (formatdate(NOW + 12, usegmt=True), 12.0),
        (formatdate(NOW + 600, usegmt=True), 30.0),
    ],
)
def test_seconds_and_dates_are_read_and_capped(value: str, seconds: float) -> None:
    assert parse_retry_after(value, now=NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "-1",
        "soon",
        "1e3",
        "nan",
        "inf",
        "9999999999999",
        "100000",
        "\u0663",
        "1_0",
        "5, 6",
        "Mon, 99 Foo 2026 99:99:99 GMT",
        "x" * 10_000,
        formatdate(NOW - 5, usegmt=True),
        formatdate(NOW + 10 * 86_400, usegmt=True),
    ],
)
def test_what_is_negative_absurd_or_no_wait_at_all_is_ignored(value: str | None) -> None:
    assert parse_retry_after(value, now=NOW) is None


@given(st.text(max_size=80))
def test_no_header_makes_it_raise(value: str) -> None:
    seconds = parse_retry_after(value, now=NOW)
    assert seconds is None or 0 <= seconds <= 30


def test_without_calls_the_budget_is_the_floor_of_its_window() -> None:
    budget = RetryBudget(clock=Clock())
    assert [budget.try_withdraw() for _ in range(12)] == [True] * 10 + [False] * 2
    assert "balance=0.0" in repr(budget)


def test_ten_calls_earn_one_retry() -> None:
    budget = RetryBudget(floor=0, clock=Clock())
    for _ in range(9):
        budget.deposit()
    assert not budget.try_withdraw()
    budget.deposit()
    assert budget.try_withdraw()
    assert not budget.try_withdraw()


def test_what_is_older_than_the_window_counts_no_more() -> None:
    clock = Clock()
    budget = RetryBudget(floor=0, clock=clock)
    for _ in range(100):
        budget.deposit()
    assert budget.balance == pytest.approx(10)
    clock.now += 9.5
    assert budget.balance == pytest.approx(10)
    clock.now += 1
    assert budget.balance == 0
    clock.now += 1_000
    budget.deposit()
    assert budget.balance == pytest.approx(0.1)


def test_a_backend_that_always_fails_sees_a_tenth_more_and_the_floor() -> None:
    clock = Clock()
    budget = RetryBudget(clock=clock)
    retries = 0
    for _ in range(6_000):  # 100 calls a second for a minute
        clock.now += 0.01
        budget.deposit()
        retries += budget.try_withdraw() + budget.try_withdraw()
    assert 600 <= retries <= 600 + 60 + 10 + 11


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3)), max_size=200))
def test_no_window_ever_sees_more_retries_than_its_calls_allow(steps: list[tuple[bool, float]]) -> None:
    clock = Clock()
    budget = RetryBudget(clock=clock)
    calls, retries = 0, 0
    for call, pause in steps:
        clock.now += pause
        if call:
            budget.deposit()
            calls += 1
        else:
            retries += budget.try_withdraw()
    assert retries <= 10 + (clock.now - 100 + 1) + 0.1 * calls


@pytest.mark.parametrize(("ratio", "floor", "window"), [(-0.1, 1.0, 10), (0.1, -1.0, 10), (0.1, 1.0, 0)])
def test_an_impossible_budget_is_refused(ratio: float, floor: float, window: int) -> None:
    with pytest.raises(ValueError, match="not a retry budget"):
        RetryBudget(ratio=ratio, floor=floor, window=window)
