"""How many calls a backend takes at once, found out from its latency; pure.

Additive increase, multiplicative decrease, as TCP's congestion avoidance (D.-M. Chiu and R. Jain, "Analysis of the
Increase and Decrease Algorithms for Congestion Avoidance in Computer Networks", Computer Networks and ISDN Systems
17, 1989). The signal is the median latency of a round, as in the `Gradient` limits of Netflix's concurrency-limits
(E. Landau et al., "Performance Under Load", 2018), against a baseline that is measured anew now and then with half of
the calls, as BBR measures its round-trip time (N. Cardwell et al., CACM 60(2), 2017).

`Gradient2` itself compares with a long average of the latency. Under steady load that average follows the queue, and
the limit drifts: in simulation to 2 to 40 times the capacity. A baseline from a moment without a queue does not.
"""

from __future__ import annotations

import math
from statistics import median

_ROUND = 24
"""A round is as many calls as the limit allows at once, and never fewer than this: a median of few is noise."""

_TOLERANCE = 1.4
"""A round slower than the baseline by more than this factor says that calls wait for each other."""

_QUEUED = 0.75
"""Half the calls and less than this share of the latency: there was a queue."""

_DECREASE = 0.9
_PROBE_EVERY = 50
"""Rounds from one measurement of the baseline to the next; the two rounds of one cost half of their throughput."""


class AdaptiveLimit:
    """A limit on the calls under way at once, between `least` and `most`; begins at `start` (None: at `least`).

    It settles between one and two times what the backend works on at once, when callers ask for that much; it does not
    grow while they do not.
    """

    __slots__ = (
        "_baseline",
        "_has_failed",
        "_latencies",
        "_least",
        "_limit",
        "_most",
        "_peak",
        "_resume",
        "_rounds",
        "_skip",
    )

    def __init__(self, most: int, least: int = 1, start: int | None = None) -> None:
        if not 1 <= least <= most:
            raise ValueError(f"not a range of limits: least={least!r}, most={most!r}")
        self._least, self._most = least, most
        self._limit = 0.0
        self._set(least if start is None else start)
        self._baseline: float | None = None
        self._resume: float | None = None  # the limit to go back to after the measurement that is under way
        self._rounds = 0  # since the baseline was measured
        self._skip = self.limit  # calls that began under another load
        self._latencies: list[float] = []
        self._peak = 0
        self._has_failed = False

    @property
    def limit(self) -> int:
        """The calls that may be under way at once."""
        return int(self._limit)

    def observe(self, latency_s: float, in_flight: int, failed: bool = False) -> None:
        """Take note of one call that ended.

        `latency_s` is the time to its first byte, `in_flight` the number of calls that were under way beside it,
        itself included. `failed` means that the backend was overloaded: it refused the call for that, or timed out.
        """
        if self._skip > 0:
            self._skip -= 1
            return
        self._latencies.append(latency_s)
        self._peak = max(self._peak, in_flight)
        self._has_failed = self._has_failed or failed
        if len(self._latencies) >= max(_ROUND, self.limit):
            self._end_round()
            self._begin_round()

    def _begin_round(self) -> None:
        self._latencies = []
        self._peak = 0
        self._has_failed = False

    def _end_round(self) -> None:
        if self._has_failed:  # a refusal comes at once: such a latency says nothing
            self._resume = None
            self._set(self._limit * _DECREASE)
            return
        latency = median(self._latencies)
        if self._baseline is None:
            self._probe(latency)
        elif self._resume is not None:
            self._end_probe(latency, self._baseline, self._resume)
        else:
            self._adjust(latency, self._baseline)

    def _adjust(self, latency: float, baseline: float) -> None:
        """Grow while nothing waits and the limit is what holds callers back; shrink when calls wait for each other."""
        if latency > _TOLERANCE * baseline:
            # Few calls and slow: it is not their number that makes them so.
            if self._peak >= self.limit / 2:
                self._set(self._limit * max(0.5, min(_DECREASE, _TOLERANCE * baseline / latency)))
        elif self._peak >= 0.75 * self.limit:
            self._set(self._limit + max(1.0, math.sqrt(self._limit) / 2))
        self._rounds += 1
        if self._rounds >= _PROBE_EVERY:
            self._probe(baseline)

    def _probe(self, baseline: float) -> None:
        """Go down to half the limit, and measure once the calls have ended that began before."""
        self._baseline = baseline
        self._resume = self._limit
        self._skip = self.limit
        self._set(self._limit / 2)

    def _end_probe(self, latency: float, baseline: float, resume: float) -> None:
        # There was a queue before, and there may still be one: half again tells.
        if latency < _QUEUED * baseline:
            self._probe(latency)
            return
        self._baseline = (baseline + latency) / 2
        self._resume = None
        self._rounds = 0
        self._skip = self.limit
        self._set(resume)

    def _set(self, limit: float) -> None:
        self._limit = min(float(self._most), max(float(self._least), limit))
