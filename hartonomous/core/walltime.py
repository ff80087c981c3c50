"""Unix time for what is compared with times that others have written, when the wall clock may jump.

Timers take the monotonic clock. Sequences and signs of life are Unix times, for they are compared over processes and
restarts; between the start of this process and now, though, the monotonic clock knows better how long it has been. The
two differ when the wall clock was set, or the machine slept. Who asks says which way to err.
"""

from __future__ import annotations

import time


class WallTime:
    """The wall clock, and the same as the monotonic clock has carried it on since this was made."""

    def __init__(self) -> None:
        self._anchor = time.time() - time.monotonic()

    def earliest(self) -> float:
        """Return the earlier of the two, in seconds: nothing that is newer than an age is older than it by this.

        After a jump forward, what is under way does not look abandoned.
        """
        return min(time.time(), self._steady())

    def latest(self) -> float:
        """Return the later of the two, in seconds: no earlier after a jump back than it was before."""
        return max(time.time(), self._steady())

    def jumped(self) -> float:
        """Return by how many seconds the wall clock is ahead of the other; negative after a jump back."""
        return time.time() - self._steady()

    def _steady(self) -> float:
        return self._anchor + time.monotonic()


_WALL_TIME = WallTime()
earliest = _WALL_TIME.earliest
latest = _WALL_TIME.latest
jumped = _WALL_TIME.jumped
