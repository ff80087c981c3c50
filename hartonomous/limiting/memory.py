"""What was used of limits, counted by this process alone, by names of addresses and keys.

The names are bounded. Who would make room for new ones by inventing names gains nothing: those whose buckets are full
again go first, as nothing is lost with them, and otherwise, of a few that were not seen for longest, the one that is
full again soonest. Whoever has requests under way stays, and is no more than there are connections.
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
        self.buckets: dict[Kind, Bucket] = {}
        self.held = 0

    def begun(self, kind: Kind, rate: Rate) -> Bucket:
        """Return the bucket of a limit of which nothing has been used yet."""
        bucket = self.buckets[kind] = Bucket(rate)
        return bucket

    def refused(self, asked: Asked, place: int, level: float) -> Refusal:
        """Take back what was used up to the limit at this place, and return why the request is refused."""
        for kind, _, _ in asked.costs[: place + 1]:
            bucket = self.buckets[kind]
            bucket.level = bucket.before
        return asked.refusal(place, level)

    @property
    def full_at(self) -> float:
        """When all buckets are full again."""
        return max([bucket.full_at for bucket in self.buckets.values()], default=0.0)


class MemoryStore:
    """Counts in this process. Nothing here waits."""

    def __init__(self, max_names: int = MAX_NAMES, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_names = max_names
        self._clock = clock
        self._usages: OrderedDict[str, _Usage] = OrderedDict()  # who was not seen for longest first
        self._held: dict[str, _Usage] = {}  # who has requests under way, and is not among the others

    def __len__(self) -> int:
        return len(self._usages) + len(self._held)

    async def enter(self, name: str, asked: Asked) -> Entry | Refusal:
        """Let a request in, or say what it has reached; one that is refused uses nothing."""
        return self.admit(name, asked)

    def admit(self, name: str, asked: Asked) -> Entry | Refusal:
        """The same, for whoever knows that nothing waits."""
        now, usage = self._clock(), self._held.get(name) or self._usage(name)
        levels: list[float] = []
        used = usage.buckets
        for kind, rate, cost in asked.costs:
            bucket = used.get(kind) or usage.begun(kind, rate)
            level = bucket.level
            if level and now > bucket.at:  # `Rate.leaked`, without a call for each of a request's limits
                level -= (now - bucket.at) * rate.per_s
                if level < 0.0:
                    level = 0.0
            after = level + cost
            bucket.at, bucket.rate, bucket.before, bucket.level = now, rate, level, after
            # Without a cost something must be left, whatever it is.
            if after > rate.most if cost else level >= rate.burst:
                return usage.refused(asked, len(levels), level)
            levels.append(after)
        held, concurrent = usage.held, asked.concurrent
        if concurrent is not None and held >= concurrent:
            return usage.refused(asked, len(levels), 0.0)
        if concurrent is None:
            return Entry(asked, levels)
        if not held:
            self._held[name] = self._usages.pop(name)
        usage.held = held = held + 1
        return Entry(asked, levels, held, _PLACE)

    async def take(self, name: str, cost: Cost) -> Refusal | None:
        """Use something, or say what is reached."""
        refused = self.admit(name, Asked(None, (cost,)))
        return refused if isinstance(refused, Refusal) else None

    def settle(self, name: str, place: str | None, costs: Sequence[Cost] = ()) -> None:
        """Give the place back, and use what is known only now: more than is left, or less than was taken before."""
        usage = self._held.get(name) or self._usage(name)
        if costs:
            now = self._clock()
            for kind, rate, cost in costs:
                (usage.buckets.get(kind) or usage.begun(kind, rate)).debit(rate, cost, now)
        if place is not None:
            usage.held -= 1
            if not usage.held:
                self._usages[name] = self._held.pop(name)

    def hold(self, name: str) -> None:
        """Count a request as under way that was let in elsewhere."""
        usage = self._held.get(name) or self._usage(name)
        if not usage.held:
            self._held[name] = self._usages.pop(name)
        usage.held += 1

    def under_way(self, name: str) -> int:
        """Return how many requests are under way."""
        usage = self._held.get(name)
        return 0 if usage is None else usage.held

    def _usage(self, name: str) -> _Usage:
        """Return what somebody has used who has no requests under way."""
        usage = self._usages.get(name)
        if usage is None:
            if len(self) >= self._max_names:
                self._make_room()
            usage = self._usages[name] = _Usage()
        else:
            self._usages.move_to_end(name)
        return usage

    def _make_room(self) -> None:
        if self._usages:
            del self._usages[min(islice(self._usages, _SAMPLE), key=lambda name: self._usages[name].full_at)]
