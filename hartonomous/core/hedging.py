"""When a call may be sent a second time to another replica, and how often; pure.

"Hedged requests": J. Dean and L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013: the second call goes out once the
first has taken longer than the service's own 95th percentile, which shortens the tail for a few percent more load.
"""

from __future__ import annotations

import math

_BURST = 10.0
"""The most hedges that may be saved up for later."""

_SHARE = 16
"""A quantile is read off values that are at most a sixteenth of the window behind."""


class LatencyWindow:
    """The last `size` latencies of a service, in seconds, and their quantiles.

    There is no quantile before `least` observations: of a few, the highest says nothing about the tail.
    """

    __slots__ = ("_every", "_latencies", "_least", "_next", "_size", "_sorted", "_unseen")

    def __init__(self, size: int = 256, least: int = 20) -> None:
        if not 1 <= least <= size:
            raise ValueError(f"not a window: size={size!r}, least={least!r}")
        self._size, self._least = size, least
        self._every = max(1, size // _SHARE)
        self._latencies: list[float] = []
        self._sorted: list[float] = []
        self._next = 0  # the oldest, once the window is full
        self._unseen = 0  # observations since the latencies were sorted

    def observe(self, seconds: float) -> None:
        """Add one latency; the oldest leaves a full window."""
        self._unseen += 1
        if len(self._latencies) < self._size:
            self._latencies.append(seconds)
            return
        self._latencies[self._next] = seconds
        self._next = (self._next + 1) % self._size

    def quantile(self, q: float) -> float | None:
        """Return the latency that a share `q` (0 to 1) of the calls did not exceed (nearest rank); None: too few yet.

        Sorting is put off until a sixteenth of the window is new.
        """
        if len(self._latencies) < self._least:
            return None
        if not self._sorted or self._unseen >= self._every:
            self._sorted = sorted(self._latencies)
            self._unseen = 0
        return self._sorted[max(0, math.ceil(q * len(self._sorted)) - 1)]


class HedgeBudget:
    """Keeps hedges to a share `ratio` of the calls that were offered: over any time, but for 10 that were saved up."""

    __slots__ = ("_balance", "_ratio")

    def __init__(self, ratio: float = 0.05) -> None:
        if not 0 <= ratio <= 1:
            raise ValueError(f"not a share of the calls: {ratio!r}")
        self._ratio = ratio
        self._balance = 0.0

    def offered(self) -> None:
        """Count one call that a caller made (not a hedge, not a retry)."""
        self._balance = min(_BURST, self._balance + self._ratio)

    def try_spend(self) -> bool:
        """Take one hedge out of the budget; return whether there was one."""
        # A twentieth is not exact in binary: twenty calls must earn one hedge all the same.
        if self._balance + 1e-9 < 1.0:
            return False
        self._balance -= 1.0
        return True
