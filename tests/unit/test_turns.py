"""Who begins in which round of the event loop."""

from __future__ import annotations

import pytest

from hartonomous import turns
from hartonomous.turns import AT_ONCE, Turns
from tests.unit.beginning import rounds


async def test_without_streams_all_begin_at_once() -> None:
    assert await rounds(Turns().take, 50) == [50]


async def test_while_there_are_streams_few_begin_in_a_round_in_their_order() -> None:
    order = Turns()
    order.streams = 1
    counts = await rounds(order.take, 50)
    assert (sum(counts), max(counts)) == (50, AT_ONCE)
    assert len(counts) < 50
    assert max(await rounds(order.take, AT_ONCE)) == AT_ONCE  # nobody waits when the others have begun


async def test_who_leaves_while_waiting_takes_no_turn() -> None:
    order = Turns()
    order.streams = 1
    counts = await rounds(order.take, 3 * AT_ONCE, slice(AT_ONCE, 2 * AT_ONCE))
    assert (sum(counts), max(counts)) == (2 * AT_ONCE, AT_ONCE)


async def test_who_has_waited_long_begins_whoever_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MOST_S", 0.0)
    order = Turns()
    order.streams = 1
    assert max(await rounds(order.take, 50)) == 50 - AT_ONCE
