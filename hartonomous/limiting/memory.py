"""What was used of limits, counted by this process alone, by names of addresses and keys.

The names are bounded. Who would make room for new ones by inventing names gains nothing: those whose buckets are full
again go first, as nothing is lost with them, and otherwise, of a few that were not seen for longest, the one that is
full again soonest. Whoever has requests under way stays.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import islice

from hartonomous.core.ratelimit import Bucket, Rate
from hartonomous.limiting.policy import Asked, Cost, Entry, Kind, Refusal

MAX_NAMES = 65_536
_SAMPLE = 16
_PLACE = "here"


class _Usage:
    """What somebody has used: a bucket for each kind of limit, how many requests are under way."""

    __slots__ = ("buckets", "held")

    def __init__(self) -> None:
        self.buckets: dict[Kind, tuple[Bucket, Rate]] = {}
        self.held = 0

    def look(self, kind: Kind, rate: Rate, now: float) -> float:
        """Return how much is used of a limit now."""
        known = self.buckets.get(kind)
        if known is None or known[1] is not rate:
            known = self.buckets[kind] = (Bucket() if known is None else known[0], rate)
        return known[0].look(rate, now)

    @property
    def full_at(self) -> float:
        """When all buckets are full again."""
        return max((bucket.at + rate.reset(bucket.level) for bucket, rate in self.buckets.values()), default=0.0)


class MemoryStore:
    """Counts in this process. Nothing here waits."""

    def __init__(self, max_names: int = MAX_NAMES, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_names = max_names
        self._clock = clock
        self._usages: OrderedDict[str, _Usage] = OrderedDict()  # who was not seen for longest first

    def __len__(self) -> int:
        return len(self._usages)

    async def enter(self, name: str, asked: Asked) -> Entry | Refusal:
        """Let a request in, or say what it has reached; one that is refused uses nothing."""
        now, usage = self._clock(), self._usage(name)
        levels: list[float] = []
        for kind, rate, cost in asked.costs:
            level = usage.look(kind, rate, now)
            if not rate.admits(level, cost):
                return asked.refusal(len(levels), level)
            levels.append(level + cost)
        if asked.concurrent is not None and usage.held >= asked.concurrent:
            return asked.refusal(len(levels), 0.0)
        for (kind, _, _), level in zip(asked.costs, levels, strict=True):
            usage.buckets[kind][0].level = level
        if asked.concurrent is None:
            return Entry(asked, levels)
        usage.held += 1
        return Entry(asked, levels, usage.held, _PLACE)

    async def take(self, name: str, cost: Cost) -> Refusal | None:
        """Use something, or say what is reached."""
        refused = await self.enter(name, Asked(None, (cost,)))
        return refused if isinstance(refused, Refusal) else None

    def settle(self, name: str, place: str | None, costs: Sequence[Cost] = ()) -> None:
        """Give the place back, and use what is known only now: more than is left, or less than was taken before."""
        usage, now = self._usage(name), self._clock()
        if place is not None:
            usage.held -= 1
        for kind, rate, cost in costs:
            level = usage.look(kind, rate, now) + cost
            usage.buckets[kind][0].level = max(0.0, level)

    def hold(self, name: str) -> None:
        """Count a request as under way that was let in elsewhere."""
        self._usage(name).held += 1

    def _usage(self, name: str) -> _Usage:
        usage = self._usages.get(name)
        if usage is None:
            if len(self._usages) >= self._max_names:
                self._make_room()
            usage = self._usages[name] = _Usage()
        else:
            self._usages.move_to_end(name)
        return usage

    def _make_room(self) -> None:
        oldest = [name for name in islice(self._usages, _SAMPLE) if not self._usages[name].held]
        if oldest:
            del self._usages[min(oldest, key=lambda name: self._usages[name].full_at)]
