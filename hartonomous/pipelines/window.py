"""A bound on what is in flight over all requests, in the order of coming."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Window:
    """Room for so much of something; who finds none waits in line. What is larger than all of it goes alone."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a window needs room, got {size!r}")
        self._size = size
        self._used = 0
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        """How much is in flight."""
        return self._used

    @asynccontextmanager
    async def place(self, wanted: int) -> AsyncIterator[None]:
        """Hold a place of this size."""
        amount = min(wanted, self._size)
        await self.take(amount)
        try:
            yield
        finally:
            self.give(amount)

    async def take(self, wanted: int) -> None:
        """Wait for a place, which `give` gives back."""
        amount = min(wanted, self._size)
        if not self._line and self._used + amount <= self._size:
            self._used += amount
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._wake()  # whoever stands behind may fit now
            else:
                self.give(amount)
            raise

    def give(self, wanted: int) -> None:
        """Give a place back."""
        self._used -= min(wanted, self._size)
        self._wake()

    def _wake(self) -> None:
        while self._line:
            amount, turn = self._line[0]
            if turn.done():  # cancelled
                self._line.popleft()
                continue
            if self._used + amount > self._size:
                return
            self._line.popleft()
            self._used += amount
            turn.set_result(None)

    def __repr__(self) -> str:
        return f"<Window used={self._used} size={self._size} waiting={len(self._line)}>"
