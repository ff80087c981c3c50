"""Lets many come at once, and counts in which rounds of the event loop they begin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def rounds(take: Callable[[], asyncio.Future[None] | None], count: int, leaving: slice = slice(0)) -> list[int]:
    """Let so many come in one round, of whom those in `leaving` go in the next; return how many begin in each round.

    They begin in their order.
    """
    begun: list[int] = []

    async def come(number: int) -> None:
        if (turn := take()) is not None:
            await turn
        begun.append(number)

    tasks = [asyncio.create_task(come(number)) for number in range(count)]
    counts: list[int] = []
    while not all(task.done() for task in tasks):
        before = len(begun)
        await asyncio.sleep(0)
        if not counts:
            for task in tasks[leaving]:
                task.cancel()
        counts.append(len(begun) - before)
    assert begun == sorted(begun)
    return counts
