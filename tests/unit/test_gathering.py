"""Which questions begin together."""

from __future__ import annotations

import asyncio

import pytest

from hartonomous import gathering
from hartonomous.gathering import FEW, Gathering
from tests.unit.beginning import rounds

pytestmark = pytest.mark.usefixtures("busy")


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no round count as one in which there was nothing to do."""
    monkeypatch.setattr(gathering, "IDLE_S", 0.0)


async def _begun(place: Gathering, count: int, under_way: int = FEW, leaving: slice = slice(0)) -> list[int]:
    return await rounds(lambda: place.take(under_way), count, leaving)


async def test_where_few_are_under_way_nobody_waits() -> None:
    assert await _begun(Gathering(), 50, FEW - 1) == [50]


async def test_where_some_are_under_way_one_begins_and_the_next_ones_begin_together_some_rounds_later() -> None:
    place = Gathering()
    counts = await _begun(place, 50)
    assert [count for count in counts if count] == [1, 49]
    assert len(counts) > 3
    assert (await _begun(place, 1))[0] == 0  # who comes behind them gathers again
    for _ in range(2 * len(counts)):
        await asyncio.sleep(0)
    assert await _begun(place, 1) == [1]  # nobody has come for a while


async def test_nobody_waits_for_who_has_left() -> None:
    assert [count for count in await _begun(Gathering(), 10, leaving=slice(6, 10)) if count] == [1, 5]


@pytest.mark.parametrize(("name", "value"), [("IDLE_S", 60.0), ("MOST_S", 0.0)])
async def test_a_gathering_ends_when_there_is_nothing_else_to_do_and_when_it_has_lasted_long_enough(
    name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, name, value)
    assert await _begun(Gathering(), 50) == [1, 0, 49]
