"""The time limits of what is under way, behind one timer.

A timer for each costs 3 µs to set, to sort in and to cancel, and nearly none ever goes off. Here one goes off when the
first of all limits may be reached, and looks at everything then: at as many calls as a service has slots, every few
seconds. A limit that moves away costs nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

# Where many end one after the other, they are looked at together.
_APART_S = 0.005


class Timed(Protocol):
    """What has limits of time."""

    def look(self, now: float) -> float:
        """End what has no time left at `now`; return when the next limit is, infinity where there is none."""
        ...


T = TypeVar("T", bound=Timed)


class Watch(Generic[T]):
    """What is under way, as the exchanges of one service. For one event loop."""

    __slots__ = ("__weakref__", "_at", "_timed", "_timer", "discard", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._timed: set[T] = set()
        self.discard = self._timed.discard
        """Watches something no longer."""
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf

    def add(self, timed: T, by: float = math.inf) -> None:
        """Watch something until it is discarded; its first limit is at `by`, in the loop's time."""
        self._timed.add(timed)
        if by < self._at:
            self._arm(by)

    def look_by(self, at: float) -> None:
        """Look at everything at this time, or before."""
        if at < self._at:
            self._arm(at)

    def __len__(self) -> int:
        return len(self._timed)

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._timed))

    def close(self) -> None:
        """Look no more."""
        self._at = math.inf
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, at: float) -> None:
        self.close()
        self._at = at
        self._timer = self.loop.call_at(at, self._look)

    def _look(self) -> None:
        now = self.loop.time()
        self._at = math.inf
        at = min([timed.look(now) for timed in self], default=math.inf)
        if at < self._at:
            self._arm(max(at, now + _APART_S))
