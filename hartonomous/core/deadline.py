"""A request's deadline on the monotonic clock, carried down to every backend call."""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """A point in monotonic time by which a request must be answered."""

    __slots__ = ("_clock", "_ends")

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends = clock() + seconds

    @property
    def remaining(self) -> float:
        """Seconds that are left; never negative."""
        left = self._ends - self._clock()
        return left if left > 0.0 else 0.0  # noqa: FURB136 - calling max costs as much as the rest

    @property
    def expired(self) -> bool:
        """Whether no time is left."""
        return self._clock() >= self._ends

    def bound(self, seconds: float) -> float:
        """Return `seconds`, or what is left if that is less."""
        return min(seconds, self.remaining)

    def __repr__(self) -> str:
        return f"<Deadline remaining={self.remaining:.3f}s>"
