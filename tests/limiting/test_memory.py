"""Limits counted in memory: bounded names, and nothing gained by inventing names."""

from __future__ import annotations

from hartonomous.core.ratelimit import Rate
from hartonomous.limiting.memory import MemoryStore
from hartonomous.limiting.policy import Asked, Entry, Kind, Refusal

SLOW = Rate(0.001, 3.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def requests(rate: Rate = SLOW, concurrent: int | None = None) -> Asked:
    return Asked(concurrent, ((Kind.REQUESTS, rate, 1.0),))


async def entered(store: MemoryStore, name: str, asked: Asked, times: int) -> list[bool]:
    return [isinstance(await store.enter(name, asked), Entry) for _ in range(times)]


async def test_each_name_has_its_own_burst() -> None:
    store = MemoryStore()
    assert await entered(store, "a", requests(), 4) == [True] * 3 + [False]
    assert await entered(store, "b", requests(), 4) == [True] * 3 + [False]


async def test_a_refused_request_uses_nothing_of_any_limit() -> None:
    store = MemoryStore()
    full, plenty = (Kind.TOKENS, SLOW, 0.0), (Kind.REQUESTS, Rate(0.001, 9.0), 1.0)
    store.settle("a", None, ((Kind.TOKENS, SLOW, 10.0),))
    for _ in range(20):
        refused = await store.enter("a", Asked(1, (plenty, full)))
        assert isinstance(refused, Refusal)
        assert refused.kind is Kind.TOKENS
    assert await entered(store, "a", Asked(None, (plenty,)), 10) == [True] * 9 + [False]
    assert await entered(store, "a", Asked(1, ()), 1) == [True]


async def test_a_place_is_there_again_when_it_is_given_back() -> None:
    store = MemoryStore()
    first = await store.enter("a", Asked(1, ()))
    assert isinstance(first, Entry)
    assert await entered(store, "a", Asked(1, ()), 2) == [False] * 2
    store.settle("a", first.place)
    assert await entered(store, "a", Asked(1, ()), 2) == [True, False]


async def test_invented_names_do_not_bring_back_what_somebody_has_used_up() -> None:
    store = MemoryStore(max_names=50, clock=Clock())
    assert await entered(store, "attacker", requests(), 4) == [True] * 3 + [False]
    quick = requests(Rate(1_000.0, 3.0))
    for number in range(2_000):
        await store.enter(f"invented {number}", quick)
        assert await entered(store, "attacker", requests(), 1) == [False]
        assert len(store) <= 50


async def test_names_whose_buckets_are_full_again_go_first() -> None:
    clock = Clock()
    store = MemoryStore(max_names=10, clock=clock)
    assert await entered(store, "slow", requests(), 4) == [True] * 3 + [False]
    for number in range(9):
        await store.enter(f"quick {number}", requests(Rate(1.0, 3.0)))
    clock.now += 5.0
    for number in range(9):
        await store.enter(f"new {number}", requests(Rate(1.0, 3.0)))
    assert await entered(store, "slow", requests(), 1) == [False]


async def test_names_are_bounded_however_many_have_requests_under_way() -> None:
    store = MemoryStore(max_names=50, clock=Clock())
    for number in range(40):
        assert await entered(store, f"slow {number}", Asked(1, ()), 1) == [True]
    for number in range(1_000):
        await store.enter(f"other {number}", requests())
        assert len(store) <= 50
    assert [store.under_way(f"slow {number}") for number in range(40)] == [1] * 40
    for number in range(40):
        store.settle(f"slow {number}", "here")
    for number in range(1_000):
        await store.enter(f"other {number}", requests())
    assert len(store) == 50
    assert not any(store.under_way(f"slow {number}") for number in range(40))


async def test_whoever_has_requests_under_way_stays() -> None:
    store = MemoryStore(max_names=5, clock=Clock())
    entry = await store.enter("a", Asked(1, ()))
    assert isinstance(entry, Entry)
    for number in range(100):
        await store.enter(f"other {number}", requests())
    assert await entered(store, "a", Asked(1, ()), 1) == [False]
    store.settle("a", entry.place)
    assert await entered(store, "a", Asked(1, ()), 1) == [True]
