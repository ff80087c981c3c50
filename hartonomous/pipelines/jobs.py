"""Work that must be finished once begun, even when the request that began it is cancelled.

A bare `asyncio.shield` leaves the work behind unseen; here it stays in a set that a shutdown waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Jobs:
    """The set of shielded tasks."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def active_count(self) -> int:
        """How many jobs are under way."""
        return len(self._tasks)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end; a cancellation of the caller reaches the caller alone."""
        return await asyncio.shield(self.start(work))

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` to its end with nobody waiting for it but a shutdown."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def drain(self) -> None:
        """Wait until every job is done."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Read, so that a failure nobody waits for any more is not reported as never retrieved.
            task.exception()

    def __repr__(self) -> str:
        return f"<Jobs active={self.active_count}>"
