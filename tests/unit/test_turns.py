"""Who begins in which round of the event loop."""

from __future__ import annotations

import asyncio

import pytest

from hartonomous import turns
from hartonomous.turns import AT_ONCE, FEW, Turns


async def _rounds(order: Turns, count: int, *, leaves: int = 0, under_way: int = 0) -> list[int]:
    """Let so many come in one round, of whom the first to wait `leaves`; return how many begin in each round."""
    begun: list[int] = []

    async def come(number: int) -> None:
        if (turn := order.take(under_way)) is not None:
            await turn
        begun.append(number)

    tasks = [asyncio.create_task(come(number)) for number in range(count)]
    counts: list[int] = []
    while not all(task.done() for task in tasks):
        before = len(begun)
        await asyncio.sleep(0)
        if not counts:
            for task in tasks[len(begun) : len(begun) + leaves]:
                task.cancel()
        counts.append(len(begun) - before)
    assert begun == sorted(begun)
    return counts


async def test_where_few_are_under_way_and_none_streams_all_begin_at_once() -> None:
    assert await _rounds(Turns(), 50, under_way=FEW - 1) == [50]


async def test_where_some_are_under_way_one_begins_and_the_next_ones_gather_and_begin_together() -> None:
    order = Turns()
    counts = await _rounds(order, 50, under_way=FEW)
    assert [count for count in counts if count] == [1, 49]
    assert len(counts) > AT_ONCE  # it takes some rounds, in which what is under way goes on
    assert (await _rounds(order, 1, under_way=FEW))[0] == 0  # they have just begun: who comes next gathers again
    for _ in counts:
        await asyncio.sleep(0)
    assert await _rounds(order, 1, under_way=FEW) == [1]  # nobody has come for a while


async def test_who_leaves_while_others_gather_is_not_waited_for() -> None:
    counts = await _rounds(Turns(), 10, leaves=4, under_way=FEW)
    assert [count for count in counts if count] == [1, 5]


async def test_nobody_gathers_for_long_where_rounds_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "GATHERED_S", 0.0)
    assert await _rounds(Turns(), 50, under_way=FEW) == [1, 0, 49]


async def test_those_who_have_gathered_begin_a_few_at_a_time_when_a_stream_has_begun_meanwhile() -> None:
    order = Turns()
    coming = asyncio.create_task(_rounds(order, 50, under_way=FEW))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    order.streams = 1
    assert max(await coming) == AT_ONCE


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
