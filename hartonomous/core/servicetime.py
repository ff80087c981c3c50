"""How long a backend takes for a call, and what follows from it: how long a line in front of it is. Pure.

With n calls ahead, s slots and a mean service time t, a slot becomes free every t / s seconds, so the call that comes
now waits (n + 1) * t / s seconds (Little's law: L = lambda * W, with the line's departures at s / t a second).
"""

from __future__ import annotations

_WEIGHT = 0.1
"""Of the newest call in the means: the last twenty calls or so count."""

_BLAMED_FROM_S = 0.1
_PATIENCE = 2.0
_SPLIT_PATIENCE = 4.0
_SPLIT_FROM_S = 1.0


class ServiceTime:
    """The service time of one backend: exponentially weighted means over its calls, in seconds."""

    __slots__ = ("_mean", "_square")

    def __init__(self) -> None:
        self._mean = self._square = 0.0

    @property
    def mean(self) -> float:
        """What a call takes on average; 0.0 before the first one."""
        return self._mean

    @property
    def typical(self) -> float:
        """What the service is busy with at a moment: the mean weighted by time, E[t**2] / E[t].

        A service that answers look-ups in milliseconds between generations of seconds is typically busy for seconds.
        """
        return self._square / self._mean if self._mean else 0.0

    def observe(self, seconds: float) -> None:
        """Count a call that was answered."""
        weight = _WEIGHT if self._mean else 1.0
        self._mean += weight * (seconds - self._mean)
        self._square += weight * (seconds * seconds - self._square)

    def wait(self, ahead: int, slots: int) -> float:
        """Return the seconds until a call's turn comes, all slots being taken and so many calls ahead of it."""
        return (ahead + 1) * self._mean / max(1, slots)

    def is_useful(self, wait_s: float, remaining_s: float) -> bool:
        """Whether a call whose turn comes after `wait_s` seconds has time enough left then for its answer.

        Enough is twice of what one takes: at the end of a full line all calls have just what is asked for here, and
        those that the service works on in vain are at the cost of others.
        """
        return wait_s + _PATIENCE * self._mean <= remaining_s

    def is_blamed(self, given_s: float) -> bool:
        """Whether a call that got no answer in so many seconds says something about the service.

        One that was given less time than such calls take says something about its caller.
        """
        return given_s >= max(_BLAMED_FROM_S, _PATIENCE * self.typical)

    def first_byte_limit(self, limit_s: float, remaining_s: float) -> float:
        """Return how long to wait for the answer of a call that may be repeated, when `remaining_s` are left to it.

        Half of them, where the service is known to answer in far less: so that there is time to ask once more.
        """
        half = remaining_s / 2
        if half >= _SPLIT_FROM_S and 0.0 < _SPLIT_PATIENCE * self._square <= half * self._mean:  # `typical`, undivided
            remaining_s = half
        return limit_s if limit_s < remaining_s else remaining_s  # noqa: FURB136 - calling min costs as much as the rest
