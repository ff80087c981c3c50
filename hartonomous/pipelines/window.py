"""A bound on what is in flight over all requests, in the order of coming."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Window:
    """Room for so much of something; who finds none waits in line. What is larger than all of it goes alone.

    `size` is asked whenever somebody comes or leaves: it may change, but is never below 1.
    """

    def __init__(self, size: Callable[[], int]) -> None:
        self._size = size
        self._used = 0
        self._line: deque[tuple[int, asyncio.Future[int]]] = deque()

    @property
    def used(self) -> int:
        """How much is in flight."""
        return self._used

    @asynccontextmanager
    async def place(self, wanted: int) -> AsyncIterator[None]:
        """Hold a place of this size."""
        taken = await self.take(wanted)
        try:
            yield
        finally:
            self.give(taken)

    async def take(self, wanted: int) -> int:
        """Wait for a place; return its size, which `give` gives back."""
        if not self._line and self._fits(wanted):
            return self._took(wanted)
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._line.append((wanted, turn))
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._wake()  # whoever stands behind may fit now
            else:
                self.give(turn.result())
            raise

    def give(self, taken: int) -> None:
        """Give a place back."""
        self._used -= taken
        self._wake()

    def _fits(self, wanted: int) -> bool:
        size = self._size()
        return self._used + min(wanted, size) <= size

    def _took(self, wanted: int) -> int:
        taken = min(wanted, self._size())
        self._used += taken
        return taken

    def _wake(self) -> None:
        while self._line:
            wanted, turn = self._line[0]
            if turn.done():  # cancelled
                self._line.popleft()
                continue
            if not self._fits(wanted):
                return
            self._line.popleft()
            turn.set_result(self._took(wanted))

    def __repr__(self) -> str:
        return f"<Window used={self._used} size={self._size()} waiting={len(self._line)}>"
