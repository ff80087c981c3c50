"""Who begins in which round of the event loop."""

from __future__ import annotations

import asyncio

import pytest

from hartonomous import turns
from hartonomous.turns import AT_ONCE, Turns


async def _rounds(order: Turns, count: int, *, leaves: int = 0) -> list[int]:
    """Let so many come in one round, of whom the first to wait `leaves`; return how many begin in each round."""
    begun: list[int] = []

    async def come(number: int) -> None:
        if (turn := order.take()) is not None:
            await turn
        begun.append(number)

    tasks = [asyncio.create_task(come(number)) for number in range(count)]
    counts: list[int] = []
    while not all(task.done() for task in tasks):
        before = len(begun)
        await asyncio.sleep(0)
        if not counts:
            for task in tasks[AT_ONCE : AT_ONCE + leaves]:
                task.cancel()
        counts.append(len(begun) - before)
    assert begun == sorted(begun)
    return counts


async def test_without_streams_all_begin_at_once() -> None:
    assert await _rounds(Turns(), 50) == [50]


async def test_while_there_are_streams_few_begin_in_a_round_in_their_order() -> None:
    order = Turns()
    order.streams = 1
    counts = await _rounds(order, 50)
    assert (sum(counts), max(counts)) == (50, AT_ONCE)
    assert len(counts) < 50
    assert max(await _rounds(order, AT_ONCE)) == AT_ONCE  # nobody waits when the others have begun


async def test_who_leaves_while_waiting_takes_no_turn() -> None:
    order = Turns()
    order.streams = 1
    counts = await _rounds(order, 3 * AT_ONCE, leaves=AT_ONCE)
    assert (sum(counts), max(counts)) == (2 * AT_ONCE, AT_ONCE)


async def test_who_has_waited_long_begins_whoever_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MOST_S", 0.0)
    order = Turns()
    order.streams = 1
    assert max(await _rounds(order, 50)) == 50 - AT_ONCE
