"""How long a line is, and who is to blame for a call that got no answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.servicetime import ServiceTime

SECONDS = st.floats(0.0001, 1_000)


def observed(*seconds: float) -> ServiceTime:
    time = ServiceTime()
    for value in seconds:
        time.observe(value)
    return time


def test_before_the_first_call_nobody_waits_and_a_tenth_of_a_second_is_enough_to_be_blamed() -> None:
    time = ServiceTime()
    assert (time.mean, time.typical, time.wait(100, 4)) == (0.0, 0.0, 0.0)
    assert time.is_blamed(0.1)
    assert not time.is_blamed(0.099)
    assert time.first_byte_limit(30.0, 10.0) == 10.0
    assert time.first_byte_limit(30.0, 100.0) == 30.0


def test_the_wait_is_littles_law() -> None:
    time = observed(2.0)
    # With 4 slots of 2 s a slot becomes free every half second; the one that comes now is the sixth in line.
    assert time.wait(5, 4) == pytest.approx(3.0)
    assert time.wait(0, 4) == pytest.approx(0.5)
    assert time.wait(0, 0) == pytest.approx(2.0)


def test_the_mean_follows_the_last_twenty_calls_or_so() -> None:
    time = observed(*[1.0] * 50, *[3.0] * 20)
    assert 2.7 < time.mean < 2.8
    assert observed(*[1.0] * 50, 3.0).mean == pytest.approx(1.2)


def test_typical_is_what_the_service_is_busy_with_and_not_what_it_is_asked_most_often() -> None:
    time = observed(*[0.01, 0.01, 0.01, 4.0] * 30)
    assert time.mean < 1.5
    assert time.typical > 3.5
    assert not time.is_blamed(5.0)
    assert time.is_blamed(8.5)


def test_a_turn_is_of_use_while_there_is_time_for_twice_of_what_a_call_takes() -> None:
    time = observed(2.0)
    assert time.is_useful(3.0, 7.0)
    assert not time.is_useful(3.0, 6.9)
    assert ServiceTime().is_useful(0.0, 0.001)


@pytest.mark.parametrize(
    ("typical", "limit_s", "remaining_s", "expected"),
    [
        (0.1, 30.0, 10.0, 5.0),  # half of what is left
        (0.1, 3.0, 10.0, 3.0),
        (0.1, 30.0, 1.9, 1.9),  # too little for two
        (2.0, 30.0, 10.0, 10.0),  # half of it is not time enough for such calls
        (2.0, 30.0, 16.0, 8.0),
    ],
)
def test_what_may_be_repeated_waits_half_of_its_time_where_that_is_ample(
    typical: float, limit_s: float, remaining_s: float, expected: float
) -> None:
    assert observed(typical).first_byte_limit(limit_s, remaining_s) == expected


@given(st.lists(SECONDS, min_size=1, max_size=60))
def test_means_stay_within_what_was_seen(seconds: list[float]) -> None:
    time = observed(*seconds)
    least, most = min(seconds), max(seconds)
    assert least * (1 - 1e-9) <= time.mean <= most * (1 + 1e-9)
    assert time.mean * (1 - 1e-9) <= time.typical <= most * (1 + 1e-6)


@given(st.lists(SECONDS, max_size=20), st.integers(0, 1_000), st.integers(1, 100))
def test_the_wait_grows_with_the_line_and_shrinks_with_slots(seconds: list[float], ahead: int, slots: int) -> None:
    time = observed(*seconds)
    assert 0 <= time.wait(ahead, slots) <= time.wait(ahead + 1, slots)
    assert time.wait(ahead, slots + 1) <= time.wait(ahead, slots)


@given(st.lists(SECONDS, max_size=20), st.floats(0.001, 300), st.floats(0, 300))
def test_the_first_byte_has_no_more_time_than_there_is_and_enough_to_be_blamed_when_it_has_less(
    seconds: list[float], limit_s: float, remaining_s: float
) -> None:
    time = observed(*seconds)
    found = time.first_byte_limit(limit_s, remaining_s)
    assert 0 <= found <= min(limit_s, remaining_s)
    if found < min(limit_s, remaining_s):
        assert time.is_blamed(found)
        assert found <= remaining_s / 2
