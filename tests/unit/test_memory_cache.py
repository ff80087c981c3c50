"""The bounded cache: its bounds, who goes first, whose time is over, and that only its own clock counts."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hartonomous.cache.memory import ENTRY_BYTES, MemoryCache
from hartonomous.config import EmbeddingCache
from hartonomous.metrics import Metrics

CAN_HOLD = 3


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Rig:
    """A small cache, its clock and its metrics."""

    def __init__(self, **limits: Any) -> None:
        self.clock, self.metrics = Clock(), Metrics()
        limits = {"max_entries": CAN_HOLD, "max_bytes": 1_000_000, "ttl_s": 10.0} | limits
        self.cache = MemoryCache(EmbeddingCache(**limits), self.metrics.cache("embeddings"), self.clock)

    def sample(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(f"hartonomous_cache_{name}", {"cache": "embeddings"}) or 0.0


async def test_what_was_set_is_there_and_its_metrics_say_so() -> None:
    rig = Rig()
    await rig.cache.set("a", b"one")
    await rig.cache.multi_set([("b", b"two"), ("a", b"three")])
    assert await rig.cache.multi_get(["a", "b", "c"]) == [b"three", b"two", None]
    assert (rig.sample("entries"), rig.sample("bytes")) == (2, len(b"athreebtwo") + 2 * ENTRY_BYTES)
    await rig.cache.delete("a")
    await rig.cache.clear()
    assert (len(rig.cache), rig.cache.size) == (0, 0)


async def test_the_least_recently_used_goes_first() -> None:
    rig = Rig()
    for key in "abc":
        await rig.cache.set(key, b"")
    await rig.cache.get("a")
    await rig.cache.set("d", b"")
    assert [await rig.cache.exists(key) for key in "abcd"] == [True, False, True, True]
    assert rig.sample("evictions_total") == 1


async def test_a_large_value_makes_as_much_room_as_it_needs_and_too_large_a_one_is_not_kept() -> None:
    rig = Rig(max_bytes=2_000)
    for key in "abc":
        await rig.cache.set(key, b"")
    await rig.cache.set("d", bytes(1_000))
    assert [await rig.cache.exists(key) for key in "abcd"] == [False, False, True, True]
    assert not await rig.cache.set("d", bytes(2_000))
    assert [await rig.cache.exists(key) for key in "abcd"] == [False, False, True, False]


async def test_an_entry_is_past_its_time_whatever_the_wall_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    await rig.cache.set("a", b"x")
    monkeypatch.setattr("time.time", lambda: 1e12)
    rig.clock.now += 9.9
    assert await rig.cache.get("a") == b"x"
    assert rig.cache.age("a") == pytest.approx(9.9)
    rig.clock.now += 0.1
    assert await rig.cache.get("a") is None
    assert rig.cache.age("a") is None


async def test_reading_does_not_prolong_and_writing_anew_does() -> None:
    rig = Rig()
    await rig.cache.set("a", b"x")
    rig.clock.now += 6
    await rig.cache.get("a")
    await rig.cache.set("b", b"x")
    rig.clock.now += 6
    assert [await rig.cache.exists(key) for key in "ab"] == [False, True]


async def test_what_is_past_its_time_is_freed_at_the_next_write() -> None:
    rig = Rig()
    await rig.cache.set("a", b"x")
    await rig.cache.set("b", b"x")
    rig.clock.now += 10
    await rig.cache.set("c", b"x")
    assert len(rig.cache) == 1
    assert rig.sample("evictions_total") == 0


async def test_nothing_but_bytes_is_kept() -> None:
    with pytest.raises(TypeError):
        await Rig().cache.set("a", [1.0])


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from("abcdef"), st.integers(0, 900)),
        st.tuples(st.just("get"), st.sampled_from("abcdef"), st.just(0)),
        st.tuples(st.just("delete"), st.sampled_from("abcdef"), st.just(0)),
        st.tuples(st.just("wait"), st.just(""), st.integers(1, 12)),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(OPERATIONS)
async def test_it_does_what_a_plain_model_of_it_does(operations: list[tuple[str, str, int]]) -> None:
    rig = Rig(max_bytes=2_500)
    model: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
    for name, key, number in operations:
        now = rig.clock.now
        alive = {key: value for key, (value, ends) in model.items() if ends > now}
        if name == "wait":
            rig.clock.now += number
        elif name == "get":
            assert await rig.cache.get(key) == alive.get(key)
            if key in alive:
                model.move_to_end(key)
        elif name == "delete":
            await rig.cache.delete(key)
            model.pop(key, None)
        else:
            await rig.cache.set(key, bytes(number))
            for gone in model.keys() - alive.keys() | {key}:
                model.pop(gone, None)
            model[key] = (bytes(number), now + 10)
            while len(model) > CAN_HOLD or sum(1 + len(value) + ENTRY_BYTES for value, _ in model.values()) > 2_500:
                model.popitem(last=False)
        assert len(rig.cache) <= CAN_HOLD
        assert rig.cache.size <= 2_500

    for key in "abcdef":
        value = await rig.cache.get(key)
        assert value == (model[key][0] if key in model and model[key][1] > rig.clock.now else None)
