"""The time limits of the exchanges under way, behind one timer.

A timer for each costs 3 µs to set, to sort in and to cancel, and nearly none ever goes off. Here one goes off when the
first of all limits may be reached, and looks at every exchange then: as many as the service has slots, every few
seconds. A limit that moves away costs nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hartonomous.clients.exchange import Exchange

# Where many end one after the other, they are looked at together.
_APART_S = 0.005


class Watch:
    """The exchanges of one service. For one event loop."""

    __slots__ = ("_at", "_exchanges", "_timer", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._exchanges: set[Exchange] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf

    def add(self, exchange: Exchange, by: float) -> None:
        """Watch an exchange until it is discarded; its first limit is at `by`, in the loop's time."""
        self._exchanges.add(exchange)
        if by < self._at:
            self._arm(by)

    def discard(self, exchange: Exchange) -> None:
        """Watch an exchange no longer."""
        self._exchanges.discard(exchange)

    def look_by(self, at: float) -> None:
        """Look at them at this time, or before."""
        if at < self._at:
            self._arm(at)

    def __iter__(self) -> Iterator[Exchange]:
        return iter(tuple(self._exchanges))

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, at: float) -> None:
        self.close()
        self._at = at
        self._timer = self.loop.call_at(at, self._look)

    def _look(self) -> None:
        now = self.loop.time()
        self._at = math.inf
        at = min([exchange.look(now) for exchange in self], default=math.inf)
        if at < self._at:
            self._arm(max(at, now + _APART_S))
