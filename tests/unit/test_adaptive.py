"""The adaptive limit against simulated backends whose capacity is known."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.adaptive import AdaptiveLimit

ENDLESS = 10**9


class Backend:
    """It works on `capacity` calls at once, each for a second on average; `offered` callers come back without a pause.

    Beyond its capacity calls queue (`queues`), or share it: each takes longer by as much.
    """

    def __init__(self, limit: Callable[[], int], capacity: int, *, queues: bool = True, spread: float = 0.3) -> None:
        self.limit, self.capacity, self.queues, self.spread = limit, capacity, queues, spread
        self.offered, self.seconds = ENDLESS, 1.0
        self.now = 0.0
        self.limits: list[int] = []
        self._random = Random(5)
        self._waiting: deque[tuple[float, int]] = deque()
        self._working: list[tuple[float, float, int]] = []

    def serve(self, calls: int, observe: Callable[[float, int], None] | None = None) -> float:
        """Serve so many calls; return how many it served a second."""
        began = self.now
        for _ in range(calls):
            self._fill()
            self.now, started, in_flight = heapq.heappop(self._working)
            if observe is not None:
                observe(self.now - started, in_flight)
            self.limits.append(self.limit())
        return calls / (self.now - began)

    def _fill(self) -> None:
        while (under_way := len(self._working) + len(self._waiting)) < min(self.limit(), self.offered):
            self._waiting.append((self.now, under_way + 1))
        while self._waiting and (not self.queues or len(self._working) < self.capacity):
            started, in_flight = self._waiting.popleft()
            share = 1.0 if self.queues else max(1.0, in_flight / self.capacity)
            seconds = self.seconds * self._random.lognormvariate(0, self.spread) * share
            heapq.heappush(self._working, (self.now + seconds, started, in_flight))


def settled(backend: Backend) -> float:
    """The mean limit of the second half of all calls, in units of the capacity."""
    limits = backend.limits[len(backend.limits) // 2 :]
    return sum(limits) / len(limits) / backend.capacity


def adapting(capacity: int, start: int | None = None, **kind: float) -> tuple[AdaptiveLimit, Backend]:
    limit = AdaptiveLimit(256, start=start)
    queues, spread = bool(kind.get("queues", True)), kind.get("spread", 0.3)
    return limit, Backend(lambda: limit.limit, capacity, queues=queues, spread=spread)


@pytest.mark.parametrize("capacity", [1, 4, 24, 64])
@pytest.mark.parametrize("queues", [True, False], ids=["queue", "share"])
@pytest.mark.parametrize("start", [None, 200])
def test_it_settles_between_one_and_two_times_the_capacity(capacity: int, queues: bool, start: int | None) -> None:
    limit, backend = adapting(capacity, start, queues=queues)
    backend.serve(4_000, limit.observe)
    rate = backend.serve(4_000, limit.observe)
    assert 1 <= settled(backend) <= 2
    best = max(_rate_of(int(capacity * times), capacity, queues) for times in (1, 1.5, 2))
    assert rate >= 0.9 * best


def _rate_of(fixed: int, capacity: int, queues: bool) -> float:
    return Backend(lambda: fixed, capacity, queues=queues).serve(2_000)


@pytest.mark.parametrize("spread", [0.0, 0.6])
def test_neither_even_nor_uneven_calls_mislead_it(spread: float) -> None:
    limit, backend = adapting(16, spread=spread)
    backend.serve(12_000, limit.observe)
    assert 1 <= settled(backend) <= 2


@pytest.mark.parametrize("queues", [True, False], ids=["queue", "share"])
def test_it_stays_settled_under_a_load_that_never_ends(queues: bool) -> None:
    limit, backend = adapting(8, queues=queues)
    backend.serve(40_000, limit.observe)
    assert 1 <= settled(backend) <= 2
    assert max(backend.limits[20_000:]) <= 3 * 8


@pytest.mark.parametrize(("before", "after"), [(32, 4), (4, 32)])
def test_it_follows_a_capacity_that_changes(before: int, after: int) -> None:
    limit, backend = adapting(before)
    backend.serve(6_000, limit.observe)
    backend.limits.clear()
    backend.capacity = after
    backend.serve(10_000, limit.observe)
    assert 1 <= settled(backend) <= 2


def test_calls_that_become_slower_for_good_are_no_queue() -> None:
    limit, backend = adapting(16)
    backend.serve(6_000, limit.observe)
    backend.limits.clear()
    backend.seconds = 5.0
    backend.serve(4_000, limit.observe)
    assert 1 <= settled(backend) <= 2


def test_the_baseline_follows_calls_that_become_slower_bit_by_bit() -> None:
    limit = AdaptiveLimit(100, start=100)
    for latency in (1.0, 1.3, 1.6, 2.0, 2.4):
        for _ in range(100 * 110):
            limit.observe(latency, limit.limit)
            assert limit.limit in (50, 100)


def test_a_measurement_halves_the_limit_for_two_rounds_of_fifty() -> None:
    limit = AdaptiveLimit(100, start=100)
    limits = []
    for _ in range(100 * 120):
        limit.observe(1.0, limit.limit)
        limits.append(limit.limit)
    assert set(limits) == {50, 100}
    assert limits.count(100) >= 0.95 * len(limits)


def test_a_limit_that_was_cut_to_one_grows_again() -> None:
    limit = AdaptiveLimit(8, start=2)
    latency = 1.0
    for _ in range(24 * 20):
        limit.observe(latency, limit.limit)
        latency = 1.5 if limit.limit == 2 else 1.0
    limits = []
    for _ in range(24 * 20):
        limit.observe(1.0, limit.limit)
        limits.append(limit.limit)
    assert max(limits) > 4


def test_slow_calls_that_are_few_do_not_make_it_shrink() -> None:
    limit = AdaptiveLimit(64, start=64)
    for _ in range(64 * 10):
        limit.observe(1.0, limit.limit)
    for _ in range(64 * 20):
        limit.observe(9.0, 20)
    assert limit.limit == 64


def test_it_does_not_grow_while_few_calls_are_under_way() -> None:
    limit, backend = adapting(100)
    backend.offered = 6
    backend.serve(10_000, limit.observe)
    assert max(backend.limits) <= 10


def test_overload_makes_it_shrink_by_a_tenth_a_round() -> None:
    limit = AdaptiveLimit(100, start=100)
    for _ in range(100 + 99):
        limit.observe(1.0, 100)
    limit.observe(1.0, 100, failed=True)
    assert limit.limit == 90
    for _ in range(3_000):
        limit.observe(0.0, 90, failed=True)
    assert limit.limit == 1


def test_the_latency_of_a_call_that_failed_is_no_measure() -> None:
    """A refusal comes at once: taken for a baseline, it would make every true answer look slow."""
    limit, backend = adapting(16)
    for _ in range(200):
        limit.observe(0.0001, 1, failed=True)
    backend.serve(10_000, limit.observe)
    assert 1 <= settled(backend) <= 2


@given(
    st.integers(1, 20),
    st.integers(0, 100),
    st.none() | st.integers(0, 200),
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 200), st.booleans()), max_size=40),
)
def test_it_is_never_beyond_its_bounds(
    least: int, more: int, start: int | None, rounds: list[tuple[float, int, bool]]
) -> None:
    limit = AdaptiveLimit(least + more, least, start)
    for latency, in_flight, failed in rounds:
        for _ in range(30):
            limit.observe(latency, in_flight, failed)
            assert least <= limit.limit <= least + more


@pytest.mark.parametrize(("most", "least"), [(0, 0), (4, 0), (4, 5)])
def test_an_impossible_range_is_refused(most: int, least: int) -> None:
    with pytest.raises(ValueError, match="not a range"):
        AdaptiveLimit(most, least)
