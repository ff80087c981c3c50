"""Whether others get their turn on the event loop while something works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


@asynccontextmanager
async def counted_turns(pause_s: float = 0.0) -> AsyncIterator[Callable[[], int]]:
    """Yield what tells how many turns a task has had meanwhile that sleeps so long after each."""
    turns = 0

    async def take() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(pause_s)

    taking = asyncio.create_task(take())
    try:
        yield lambda: turns
    finally:
        taking.cancel()
        await asyncio.wait({taking})
