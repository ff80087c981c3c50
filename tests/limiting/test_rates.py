"""What is counted in memory: never more than burst and rate allow, and exactly that much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.ratelimit import TOLERANCE, Rate
from hartonomous.limiting.memory import MemoryStore
from hartonomous.limiting.policy import Asked, Entry, Kind, Refusal

RATES = st.builds(Rate, per_s=st.floats(0.001, 1e6), burst=st.integers(1, 10_000).map(float))
STEPS = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 50)), max_size=100)


class Counted:
    """One limit of one name, at times that are given."""

    def __init__(self) -> None:
        self._now = 0.0
        self._store = MemoryStore(clock=lambda: self._now)

    def take(self, rate: Rate, cost: float, now: float) -> bool:
        """Use so much if that is admitted, and return whether it is."""
        return isinstance(self._entered(rate, cost, now), Entry)

    def debit(self, rate: Rate, cost: float, now: float) -> None:
        """Use so much, admitted or not."""
        self._now = now
        self._store.settle("a", None, ((Kind.REQUESTS, rate, cost),))

    def refusal(self, rate: Rate, cost: float, now: float) -> Refusal:
        """Return why so much is refused."""
        found = self._entered(rate, cost, now)
        assert isinstance(found, Refusal)
        return found

    def _entered(self, rate: Rate, cost: float, now: float) -> Entry | Refusal:
        self._now = now
        entering = self._store.enter("a", Asked(None, ((Kind.REQUESTS, rate, cost),)))
        try:
            entering.send(None)
        except StopIteration as done:
            found: Entry | Refusal = done.value
            return found
        raise AssertionError("it waits")


@given(RATES, STEPS)
def test_never_more_than_the_burst_and_what_the_time_gives(rate: Rate, steps: list[tuple[float, int]]) -> None:
    bucket, began, now, used = Counted(), 1_000.0, 1_000.0, 0
    for seconds, cost in steps:
        now += seconds
        used += cost if bucket.take(rate, cost, now) else 0
        most = rate.burst + rate.per_s * (now - began)
        assert used <= most * (1 + 1e-9) + TOLERANCE


@given(RATES)
def test_the_burst_is_there_at_once_and_not_one_more(rate: Rate) -> None:
    bucket = Counted()
    taken = [bucket.take(rate, 1, 5.0) for _ in range(int(rate.burst) + 3)]
    assert taken == [True] * int(rate.burst) + [False] * 3
    assert bucket.refusal(rate, 1, 5.0).quota.remaining == 0


@given(RATES, st.integers(1, 20))
def test_who_waits_as_long_as_is_said_is_let_in(rate: Rate, times: int) -> None:
    bucket, now = Counted(), 5.0
    while bucket.take(rate, 1, now):
        pass
    for _ in range(times):
        now += bucket.refusal(rate, 1, now).wait_s
        assert bucket.take(rate, 1, now)


@given(RATES, st.integers(1, 1_000_000))
def test_a_debt_is_paid_before_anything_is_admitted(rate: Rate, cost: int) -> None:
    bucket = Counted()
    assert bucket.take(rate, 0, 5.0)
    bucket.debit(rate, rate.burst + cost, 5.0)
    assert not bucket.take(rate, 0, 5.0)
    wait = bucket.refusal(rate, 0, 5.0).wait_s
    assert abs(wait - cost / rate.per_s) <= 1e-6 * wait
    assert bucket.take(rate, 0, 5.0 + wait * 1.001 + 1e-6)


@given(RATES)
def test_a_bucket_that_is_left_alone_is_full_again_when_it_is_said(rate: Rate) -> None:
    bucket = Counted()
    bucket.take(rate, rate.burst, 5.0)
    assert bucket.take(rate, rate.burst, 5.0 + rate.reset(rate.burst) * (1 + 1e-9) + 1e-9)


def test_what_is_given_back_can_be_used_again_and_no_more() -> None:
    rate, bucket = Rate(0.001, 10.0), Counted()
    assert bucket.take(rate, 10, 5.0)
    bucket.debit(rate, -4, 5.0)
    assert [bucket.take(rate, 4, 5.0), bucket.take(rate, 1, 5.0)] == [True, False]
    bucket.debit(rate, -100, 5.0)
    assert not bucket.take(rate, 11, 5.0)


def test_a_clock_that_goes_back_gives_nothing_and_takes_nothing() -> None:
    rate, bucket = Rate(1.0, 2.0), Counted()
    assert bucket.take(rate, 2, 3_600.0)
    assert not bucket.take(rate, 1, 0.0)
    assert bucket.take(rate, 1, 1.0)
