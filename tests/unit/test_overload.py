"""When a process has too many requests under way, by the rounds of its event loop."""

from __future__ import annotations

import pytest

from hartonomous.core.overload import LONG_S, ROUNDS_OF_WORK, Crowd

SHORT_S = LONG_S / 2


def crowded(under_way: int, took_s: float = 2 * LONG_S) -> Crowd:
    """Return what has just found that so many are too many."""
    crowd = Crowd()
    while not crowd.is_crowded:
        crowd.came_round(took_s, under_way)
    return crowd


def let_in(crowd: Crowd, most: int = 10_000) -> int:
    """Return how many may begin until the next round."""
    return next((count for count in range(most) if not crowd.enter()), most)


def test_without_long_rounds_any_number_may_begin() -> None:
    crowd = Crowd()
    for _ in range(100):
        crowd.came_round(SHORT_S, 5_000)
    assert (crowd.is_crowded, let_in(crowd), crowd.is_beyond(100_000)) == (False, 10_000, False)


def test_long_rounds_now_and_then_turn_nobody_away() -> None:
    crowd = Crowd()
    for _ in range(100):
        crowd.came_round(2 * LONG_S, 5_000)
        crowd.came_round(SHORT_S, 5_000)
    assert not crowd.is_crowded


def test_few_are_no_crowd_whatever_keeps_the_loop_busy() -> None:
    crowd = Crowd()
    for _ in range(100):
        crowd.came_round(10 * LONG_S, 64)
    assert not crowd.is_crowded


def test_long_rounds_in_a_row_let_in_as_many_as_make_them_short() -> None:
    crowd = crowded(1_000)
    assert (let_in(crowd), crowd.is_beyond(1_000)) == (0, True)
    crowd.came_round(SHORT_S, 400)
    assert let_in(crowd) == pytest.approx(100, abs=20)


def test_who_was_let_in_counts_before_it_is_seen_under_way() -> None:
    crowd = crowded(1_000)
    crowd.came_round(SHORT_S, 400)
    begun = let_in(crowd)
    crowd.came_round(SHORT_S / 1_000, 400)
    assert begun > 50
    assert let_in(crowd) == 0
    crowd.came_round(SHORT_S / 1_000, 400 + begun)
    assert let_in(crowd) <= 1


def test_a_block_of_seconds_is_one_step_and_not_the_end() -> None:
    crowd = crowded(1_000, took_s=100 * LONG_S)
    crowd.came_round(SHORT_S, 0)
    assert let_in(crowd) >= 250


def test_more_and_more_may_begin_while_rounds_are_short() -> None:
    crowd = crowded(1_000)
    crowd.came_round(SHORT_S, 0)
    first = let_in(crowd)
    for _ in range(20):
        crowd.came_round(SHORT_S, 0)
        crowd.enter()
    assert let_in(crowd) > 1.2 * first


def test_the_bound_is_forgotten_when_nobody_is_turned_away_any_more() -> None:
    crowd = crowded(1_000)
    for _ in range(100):
        crowd.came_round(SHORT_S, 10)
    assert not crowd.is_crowded
    assert let_in(crowd) == 10_000


def test_the_bound_stays_while_somebody_is_turned_away() -> None:
    crowd = crowded(1_000)
    for _ in range(100):
        crowd.came_round(2 * LONG_S, 1_000)
        assert not crowd.enter()
    assert crowd.is_crowded


def test_who_has_been_under_way_for_long_only_waits_and_does_not_count() -> None:
    crowd = Crowd()
    streams = [crowd.begin() for _ in range(200)]
    for _ in range(ROUNDS_OF_WORK - 1):
        crowd.came_round(SHORT_S, crowd.at_work)
        assert crowd.at_work == 200
    crowd.came_round(SHORT_S, crowd.at_work)
    new = crowd.begin()
    assert crowd.at_work == 1
    for _ in range(100):
        crowd.came_round(2 * LONG_S, crowd.at_work)
    assert not crowd.is_crowded
    for beginners in (*streams, new):
        crowd.end(beginners)
    assert crowd.at_work == 0


def test_streams_of_before_take_no_room_from_others_while_there_is_a_bound() -> None:
    crowd = Crowd()
    streams = [crowd.begin() for _ in range(1_000)]
    while not crowd.is_crowded:
        crowd.came_round(2 * LONG_S, crowd.at_work)
    assert not crowd.enter()
    for _ in range(ROUNDS_OF_WORK):
        crowd.came_round(2 * LONG_S, crowd.at_work)
    assert let_in(crowd) >= 64
    assert sum(beginners.count for beginners in set(streams)) == 1_000
