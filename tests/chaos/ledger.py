"""What readers may see of each document: the versions that were acknowledged, or whose outcome nobody knows.

A document is a register that many write at the same time. Of an attempt it is known when it began and when it was over;
its effect came in between. It may still be seen until a later attempt, begun after it was over, is acknowledged. An
attempt whose answer says that it failed, or never came, may have had its effect, or have it a little later.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass, field

from tests.chaos.texts import Name, Version

# How long after its answer a failed attempt may still have its effect: what a proxy was slow to pass on.
GRACE_S = 2.0
# The same for one whose answer never came: the server may not have noticed that its client has left.
LOST_GRACE_S = 6.0
# How long a version that was replaced is remembered: no read takes so long.
_MEMORY_S = 90.0
_SHOWN = 8

Value = Version | None
"""A version, or None where there is no such document."""


@dataclass(slots=True, eq=False)
class Attempt:
    """A write or a deletion. Times are monotonic seconds."""

    value: Value
    begun: float
    over: float = math.inf
    acknowledged: float = math.inf
    outcome: str = "under way"

    def replaced(self, by: Attempt, at: float) -> bool:
        """Whether nobody who began to read at this time may see it, because of a later one."""
        return self.over < by.begun and by.acknowledged < at


@dataclass(slots=True)
class Ledger:
    """All documents. Nothing is there before the first attempt."""

    acknowledged: int = 0
    unknown: int = 0
    _attempts: dict[Name, list[Attempt]] = field(default_factory=lambda: defaultdict(_never_written))
    _hashes: dict[tuple[Name, Version], str] = field(default_factory=dict)
    _numbers: int = 0

    @property
    def names(self) -> list[Name]:
        """Every document that was ever written, or tried to."""
        return list(self._attempts)

    def number(self) -> int:
        """Return a number for a text or title that no version has yet."""
        self._numbers += 1
        return self._numbers

    def begin(self, name: Name, value: Value, now: float) -> Attempt:
        """Note that an attempt is being made."""
        attempts = self._attempts[name]
        attempts[:] = [one for one in attempts if not any(one.replaced(by, now - _MEMORY_S) for by in attempts)]
        attempts.append(attempt := Attempt(value, now))
        return attempt

    def succeeded(self, attempt: Attempt, now: float, outcome: str) -> None:
        """Note that an attempt was acknowledged; `outcome` tells people how."""
        self.acknowledged += 1
        attempt.outcome = outcome
        attempt.over = attempt.acknowledged = now

    def failed(self, attempt: Attempt, now: float, outcome: str, grace_s: float = GRACE_S) -> None:
        """Note that an attempt ended with an error, or without an answer."""
        self.unknown += 1
        attempt.outcome = outcome
        attempt.over = now + grace_s

    def told(self, name: Name, version: Version, told: str) -> bool:
        """Remember by what hash a version is known; whether it is the one that was told before."""
        return self._hashes.setdefault((name, version), told) == told

    def allowed(self, name: Name, since: float, until: float) -> set[Value]:
        """Return what a read that began and ended at these times may have seen."""
        attempts = self._attempts[name]
        begun = (one for one in attempts if one.begun <= until)
        return {one.value for one in begun if not any(one.replaced(by, since) for by in attempts)}

    def last(self, name: Name) -> Value:
        """Return what was acknowledged last."""
        return max(self._attempts[name], key=_acknowledged_at).value

    def history(self, name: Name, seen: Value) -> str:
        """Return what was acknowledged of a document, and what was sent of the version that was seen, for people.

        Times are seconds before now.
        """
        now = time.monotonic()
        told = [one for one in self._attempts[name] if one.value == seen or math.isfinite(one.acknowledged)]
        return "".join(
            f"\n    {one.value or 'deletion'} {now - one.begun:.2f}..{now - one.over:.2f} {one.outcome}"
            for one in told[-_SHOWN:]
            if math.isfinite(one.begun)
        )

    def settled(self, name: Name) -> bool:
        """Whether the document can be in one state alone by what was acknowledged, whatever became of the rest."""
        return len(self.allowed(name, math.inf, math.inf)) == 1


def _acknowledged_at(attempt: Attempt) -> float:
    return attempt.acknowledged if math.isfinite(attempt.acknowledged) else -math.inf


def _never_written() -> list[Attempt]:
    return [Attempt(None, -math.inf, -math.inf, -math.inf)]
