"""How many requests a process works on at once: as many as let its event loop come round in time.

A request that has something to do makes each round of the loop longer by its next step; one that waits for a backend
does not, however long it does. So it is the rounds that tell how many have something to do, and by how much they are
too many, whatever requests cost on this machine and however many streams are open. Nothing is bounded as long as the
rounds are short. When they have been long for a while (not once: a block, a crowd that comes at once), as many requests
may be under way as the rounds allow in proportion, and somewhat more again and again, to find out (as TCP does). The
others are best told at once: those that wait in line would be late, all of them, and have cost as much.

Who has been under way for more rounds than a request has work for only waits for a backend, as a long stream does, and
does not count: to turn others away for it would make no round shorter.

Idea of the interval: K. Nichols, V. Jacobson, Controlling Queue Delay, ACM Queue 10 (2012).
"""

from __future__ import annotations

import math
from collections import deque

LONG_S = 0.1
"""A round of the loop that takes so long is too long. A request takes some 5 to 20 rounds."""

ROUNDS_OF_WORK = 32
"""For so many rounds, or looks at them where they are short, a request counts."""

_INTERVAL_S = 0.5
# Fewer are never bounded: they are no crowd, whatever keeps the loop busy.
_FEWEST = 64
# By how much more may be under way after a second of short rounds.
_GROWTH_PER_S = 0.5
# Rounds may be at most so much too long for one step down: one that was blocked for seconds tells nothing of the rest.
_STEEPEST = 4.0
# When nobody has been turned away in short rounds for so long, there is no bound any more.
_FORGOTTEN_S = 2.0
# What is let in is under way two rounds later.
_ROUNDS_TO_BEGIN = 2


class Beginners:
    """The requests that began in one round: how many are under way, as long as they count."""

    __slots__ = ("count", "has_counted")

    def __init__(self) -> None:
        self.count = 0
        self.has_counted = False


class Crowd:
    """How many may begin. Told of the loop's rounds by `came_round`, asked by `enter`.

    It is told of each request that begins and ends as well, so that it knows how many may be `at_work`.
    """

    __slots__ = (
        "_beginners",
        "_bound",
        "_entered",
        "_long_s",
        "_room",
        "_rounds",
        "_unasked_s",
        "at_work",
        "is_crowded",
    )

    def __init__(self) -> None:
        self.at_work = 0
        """How many are under way that have begun in the newest rounds."""
        self._beginners = Beginners()
        self._rounds = deque((self._beginners,))
        self.is_crowded = False
        """Whether there is a bound at all."""
        self._bound = self._room = math.inf
        self._entered = [0] * _ROUNDS_TO_BEGIN
        self._long_s = self._unasked_s = 0.0

    def begin(self) -> Beginners:
        """Count a request as at work; return what `end` takes."""
        beginners = self._beginners
        beginners.count += 1
        self.at_work += 1
        return beginners

    def end(self, beginners: Beginners) -> None:
        """Count a request no longer that has ended."""
        beginners.count -= 1
        if not beginners.has_counted:
            self.at_work -= 1

    def enter(self) -> bool:
        """Whether one more may begin now, which counts as having begun."""
        if self._room < 1:
            self._unasked_s = 0.0
            return False
        self._room -= 1
        self._entered[-1] += 1
        return True

    def is_beyond(self, under_way: int) -> bool:
        """Whether so many are too many, also with those in mind that have just begun."""
        if not self.is_crowded or under_way <= self._bound * 1.25:
            return False
        self._unasked_s = 0.0
        return True

    def came_round(self, took_s: float, under_way: int) -> None:
        """Note that the loop took so long for a round, or rounds, at the end of which so many are under way."""
        if took_s >= LONG_S:
            self._long_s += took_s
            if not self.is_crowded and self._long_s >= _INTERVAL_S and under_way > _FEWEST:
                self.is_crowded, self._unasked_s = True, 0.0
            if self.is_crowded:
                kept = under_way / min(took_s / LONG_S, _STEEPEST)
                self._bound = max(_FEWEST, min(self._bound, kept))
        else:
            self._long_s = 0.0
            self._bound *= 1 + _GROWTH_PER_S * took_s
            self._unasked_s += took_s
        if self.is_crowded and self._unasked_s >= _FORGOTTEN_S:
            self.is_crowded, self._bound = False, math.inf
        self._room = self._bound - under_way - sum(self._entered)
        self._entered = [*self._entered[1:], 0]
        self._begin_round()

    def _begin_round(self) -> None:
        """Count those no longer that began too many rounds ago."""
        self._beginners = Beginners()
        self._rounds.append(self._beginners)
        while len(self._rounds) > ROUNDS_OF_WORK:
            oldest = self._rounds.popleft()
            oldest.has_counted = True
            self.at_work -= oldest.count
