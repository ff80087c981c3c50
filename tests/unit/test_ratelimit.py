"""Token buckets: never more than burst and rate allow, and exactly that much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.ratelimit import TOLERANCE, Bucket, Rate

RATES = st.builds(Rate, per_s=st.floats(0.001, 1e6), burst=st.integers(1, 10_000).map(float))
STEPS = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 50)), max_size=100)


@given(RATES, STEPS)
def test_never_more_than_the_burst_and_what_the_time_gives(rate: Rate, steps: list[tuple[float, int]]) -> None:
    bucket, began, now, used = Bucket(), 1_000.0, 1_000.0, 0
    for seconds, cost in steps:
        now += seconds
        used += cost if bucket.take(rate, cost, now) else 0
        most = rate.burst + rate.per_s * (now - began)
        assert used <= most * (1 + 1e-9) + TOLERANCE


@given(RATES)
def test_the_burst_is_there_at_once_and_not_one_more(rate: Rate) -> None:
    bucket = Bucket()
    taken = [bucket.take(rate, 1, 5.0) for _ in range(int(rate.burst) + 3)]
    assert taken == [True] * int(rate.burst) + [False] * 3
    assert rate.remaining(bucket.look(rate, 5.0)) == 0


@given(RATES, st.integers(1, 20))
def test_who_waits_as_long_as_is_said_is_let_in(rate: Rate, times: int) -> None:
    bucket, now = Bucket(), 5.0
    while bucket.take(rate, 1, now):
        pass
    for _ in range(times):
        now += rate.wait(bucket.look(rate, now), 1)
        assert bucket.take(rate, 1, now)


@given(RATES, st.integers(1, 1_000_000))
def test_a_debt_is_paid_before_anything_is_admitted(rate: Rate, cost: int) -> None:
    bucket = Bucket()
    assert bucket.take(rate, 0, 5.0)
    bucket.debit(rate, rate.burst + cost, 5.0)
    assert not bucket.take(rate, 0, 5.0)
    wait = rate.wait(bucket.look(rate, 5.0), 0)
    assert abs(wait - cost / rate.per_s) <= 1e-6 * wait
    assert bucket.take(rate, 0, 5.0 + wait * 1.001 + 1e-6)


@given(RATES)
def test_a_bucket_that_is_left_alone_is_full_again_when_it_is_said(rate: Rate) -> None:
    bucket = Bucket()
    bucket.take(rate, rate.burst, 5.0)
    assert rate.remaining(bucket.look(rate, 5.0 + rate.reset(rate.burst) * (1 + 1e-9) + 1e-9)) == int(rate.burst)


def test_what_is_given_back_can_be_used_again_and_no_more() -> None:
    rate, bucket = Rate(0.001, 10.0), Bucket()
    assert bucket.take(rate, 10, 5.0)
    bucket.debit(rate, -4, 5.0)
    assert [bucket.take(rate, 4, 5.0), bucket.take(rate, 1, 5.0)] == [True, False]
    bucket.debit(rate, -100, 5.0)
    assert not bucket.take(rate, 11, 5.0)


def test_a_clock_that_goes_back_gives_nothing_and_takes_nothing() -> None:
    rate, bucket = Rate(1.0, 2.0), Bucket()
    assert bucket.take(rate, 2, 3_600.0)
    assert not bucket.take(rate, 1, 0.0)
    assert bucket.take(rate, 1, 1.0)


@given(RATES, st.integers(1, 64))
def test_the_shares_of_all_processes_are_no_more_than_the_whole(rate: Rate, processes: int) -> None:
    share = rate.share(processes)
    assert share.burst >= 1
    assert share.burst * processes <= max(rate.burst, processes)
    assert share.per_s * processes <= rate.per_s * (1 + 1e-9)
