"""Token buckets: how much of something may be used at once, and how fast it becomes usable again.

This is the generic cell rate algorithm as a continuous-state leaky bucket (ITU-T I.371, annex A; ATM Forum TM 4.0):
what is kept is how much has been used and has not leaked out yet, and when that was. So a change of the limit changes
nothing of what was used, and a debt, for what is known only afterwards, is a level above the burst.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

TOLERANCE = 1e-6
"""Of a unit: what adding up floats may be wrong by."""


@dataclass(slots=True, frozen=True)
class Rate:
    """A limit: `burst` units at once, and `per_s` of them become usable again each second."""

    per_s: float
    burst: float
    # What the level may be with a cost, and the units that are told, both asked for with each request.
    most: float = field(init=False, compare=False, repr=False)
    units: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "most", self.burst + TOLERANCE)
        object.__setattr__(self, "units", math.floor(self.burst))

    def leaked(self, level: float, seconds: float) -> float:
        """Return the level after so many seconds; a clock that went back leaks nothing."""
        if seconds > 0.0:
            level -= seconds * self.per_s
        return max(0.0, level)

    def remaining(self, level: float) -> int:
        """Return how many whole units may be used at once."""
        left = self.most - level
        return int(left) if left > 0.0 else 0

    def wait(self, level: float, cost: float) -> float:
        """Return the seconds until `cost` is admitted, or, where it is more than the burst, until all of that is."""
        return max(0.0, level + min(cost, self.burst) - self.burst) / self.per_s

    def reset(self, level: float) -> float:
        """Return the seconds until nothing is used any more."""
        return level / self.per_s

    def share(self, processes: int) -> Rate:
        """Return the limit of one of so many processes that count alone: together they admit no more than this one.

        One unit at least, or there would be none at all.
        """
        return Rate(self.per_s / processes, max(1.0, math.floor(self.burst / processes)))


class Bucket:
    """What somebody has used of one limit, which was `rate` then. Times are seconds of a clock that goes on.

    `before` is the level without what was used last, for whoever takes that back.
    """

    __slots__ = ("at", "before", "level", "rate")

    def __init__(self, rate: Rate) -> None:
        self.level = self.before = 0.0
        self.at = 0.0
        self.rate = rate

    @property
    def full_at(self) -> float:
        """When nothing is used any more."""
        return self.at + self.rate.reset(self.level)

    def debit(self, rate: Rate, cost: float, now: float) -> None:
        """Use `cost`, admitted or not; a negative one gives back what was not used after all."""
        self.level = max(0.0, rate.leaked(self.level, now - self.at) + cost)
        self.at, self.rate = now, rate
