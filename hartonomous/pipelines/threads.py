"""Computing in threads: few at a time, what came first before what came later.

Only one thread runs Python at a time. One that computes keeps the others waiting until it is asked to let go, which is
a switch interval (`sys.getswitchinterval()`) each time; the loop has to ask after each call into the system: when it
looked for what has come, read, sent. Behind N threads that takes it N intervals, so that with a thread for each of the
documents that a request brings, answers lay unread and services stood idle for tenths of a second. With few the work
takes no longer, and the first documents are ready when as much has been done as they need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any, ParamSpec, TypeVar

# One that has a very long text leaves another to the rest.
_AT_ONCE = 2

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Threads:
    """Places for work that computes. For one event loop."""

    def __init__(self) -> None:
        self._free = _AT_ONCE
        self._numbers = count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(not turn.done() for *_, turn in self._waiting)

    def number(self) -> int:
        """Return the number of somebody new, by which the work of those who came earlier goes first."""
        return next(self._numbers)

    async def run(self, number: int, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what `work` returns, from a thread. Raises what it raises.

        Cancelled while it waits, it never runs; cancelled later, it has its place until it is done.
        """
        await self._enter(number)
        try:
            job = asyncio.get_running_loop().run_in_executor(None, partial(work, *args, **kwargs))
        except BaseException:
            self._leave()  # the system starts no thread
            raise
        job.add_done_callback(self._done)
        return await asyncio.shield(job)

    def _done(self, job: asyncio.Future[Any]) -> None:
        if not job.cancelled():
            job.exception()  # asked for here, because whoever waited for it may have left
        self._leave()

    async def _enter(self, number: int) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (number, next(self._numbers), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._leave()  # the place came in the same moment
            raise

    def _leave(self) -> None:
        while self._waiting:
            *_, turn = heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
