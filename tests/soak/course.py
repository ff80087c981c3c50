"""What a process holds over time, and whether it grows: a straight line through what was seen after the warm-up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import linear_regression, mean, pstdev
from typing import Any

WARM_UP = 1 / 3
"""The first part of the time, in which caches and pools fill."""

# What the line may rise over the rest: what is in use for a moment scatters, and memory comes in pieces.
_BOUNDS = {"memory": 8.0, "tasks": 6.0, "sockets": 6.0, "files": 6.0, "threads": 1.0}
_UNITS = {"memory": " MB"}
# So long a run must be, and so often looked at, to say anything.
_MEMORY_AFTER_S = 600.0
_FEWEST = 8


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one thing went: its mean at the beginning and at the end of what is judged, and how much its line rises."""

    name: str
    first: float
    last: float
    most: float
    rises: float
    bound: float
    is_judged: bool = True

    @property
    def holds(self) -> bool:
        """Whether it does not grow."""
        return not self.is_judged or self.rises <= self.bound

    def line(self) -> str:
        """Return its row of the table."""
        unit = _UNITS.get(self.name, "")
        told = f"{self.first:8.1f} {self.last:8.1f} {self.most:8.1f} {self.rises:+8.1f} {self.bound:8.1f}{unit}"
        return f"{self.name:<8} {told}  {'yes' if self.holds else 'NO'}{'' if self.is_judged else ' (too short a run)'}"


HEADING = f"{'':<8} {'first':>8} {'last':>8} {'most':>8} {'rises':>8} {'at most':>8}  holds"


def judge(times: Sequence[float], course: Mapping[str, Sequence[float]], seconds: float) -> list[Verdict]:
    """Return a verdict for each thing; `times` are those at which all were looked at, of a load of so many seconds.

    Raises ValueError when there are too few of them.
    """
    begins = times[-1] * WARM_UP if times else 0.0
    start = next((place for place, at in enumerate(times) if at >= begins), 0)
    if len(times) - start < _FEWEST:
        raise ValueError(f"{len(times) - start} looks after the warm-up are too few")
    return [_verdict(name, times[start:], values[start:], seconds) for name, values in course.items()]


def as_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return the verdicts for a file."""
    return [
        {
            "name": one.name,
            "first": one.first,
            "last": one.last,
            "most": one.most,
            "rises": one.rises,
            "bound": one.bound,
            "judged": one.is_judged,
            "holds": one.holds,
        }
        for one in verdicts
    ]


def _verdict(name: str, times: Sequence[float], values: Sequence[float], seconds: float) -> Verdict:
    slope, start = linear_regression(times, values)
    # Three times what the line of values that only scatter so rises or falls by chance.
    scatter = pstdev(value - start - slope * at for at, value in zip(times, values, strict=True))
    bound = _BOUNDS[name] + 3 * scatter * math.sqrt(12 / len(values))
    quarter = max(1, len(values) // 4)
    judged = name != "memory" or seconds >= _MEMORY_AFTER_S
    rises = slope * (times[-1] - times[0])
    return Verdict(name, mean(values[:quarter]), mean(values[-quarter:]), max(values), rises, bound, judged)
