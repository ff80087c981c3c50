"""When to try again: full-jitter waits, the `Retry-After` header, and the budget that keeps retries from storms.

Full jitter: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. The budget is Finagle's
`RetryBudget`: what may be retried depends on what was asked, not on what failed, so a backend that fails all the
time sees a bounded multiple of the offered load.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from random import random as _random

RETRY_AFTER_CAP = 30.0
"""The longest wait, in seconds, that a `Retry-After` can ask for."""

_ABSURD = 86_400.0
"""A `Retry-After` beyond a day is a broken clock or a joke, not advice."""

_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", re.ASCII)


def backoff(attempt: int, *, base: float = 0.1, cap: float = 2.0, random: Callable[[], float] = _random) -> float:
    """Return the seconds to wait after try number `attempt` (from 0): uniform(0, min(cap, base * 2**attempt)).

    `random` gives uniform numbers in [0, 1).
    """
    return random() * min(cap, math.ldexp(base, min(attempt, 62)))


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Read a `Retry-After` header (RFC 9110, 10.2.3) as seconds to wait, at most 30; None where it says nothing.

    `value` is a number of seconds or an HTTP date, `now` the Unix time against which a date counts. What is
    negative, already past, beyond a day, or no such value at all is ignored.
    """
    if value is None or len(value) > 64:
        return None
    text = value.strip()
    seconds = float(text) if _SECONDS.fullmatch(text) else _seconds_until(text, now)
    if seconds is None or not 0 <= seconds <= _ABSURD:
        return None
    return min(seconds, RETRY_AFTER_CAP)


def _seconds_until(date: str, now: float) -> float | None:
    try:
        moment = parsedate_to_datetime(date)
        # An HTTP date is always GMT; the parser leaves "-0000" and a missing zone naive.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return None


class RetryBudget:
    """How many retries a backend's callers may make together: `ratio` of the calls plus `floor` a second.

    A token bucket whose deposits last for `window` seconds: in any window there are at most
    `floor * window + ratio * calls` retries. Call `deposit` for every first try and `try_withdraw` before each retry.
    """

    __slots__ = ("_clock", "_deposits", "_epoch", "_floor", "_ratio", "_slots", "_withdrawals")

    def __init__(
        self,
        *,
        ratio: float = 0.1,
        floor: float = 1.0,
        window: int = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if ratio < 0 or floor < 0 or window < 1:
            raise ValueError(f"not a retry budget: ratio={ratio!r}, floor={floor!r}, window={window!r}")
        self._ratio = ratio
        self._floor = floor
        self._slots = window
        self._clock = clock
        self._epoch = math.floor(clock())
        self._deposits = [0] * window  # one slot a second, reused in turn
        self._withdrawals = [0] * window

    @property
    def balance(self) -> float:
        """The retries that may be made now (a fraction is the way to the next one); never negative."""
        self._expire()
        earned = self._floor * self._slots + self._ratio * sum(self._deposits)
        return max(0.0, earned - sum(self._withdrawals))

    def deposit(self) -> None:
        """Count one call that is offered to the backend (a first try, not a retry)."""
        if int(self._clock()) != self._epoch:
            self._expire()
        self._deposits[self._epoch % self._slots] += 1

    def try_withdraw(self) -> bool:
        """Take one retry out of the budget; return whether there was one."""
        # A tenth is not exact in binary: ten calls must earn one retry all the same.
        if self.balance + 1e-9 < 1.0:
            return False
        self._withdrawals[self._epoch % self._slots] += 1
        return True

    def _expire(self) -> None:
        now = math.floor(self._clock())
        for second in range(max(self._epoch, now - self._slots) + 1, now + 1):
            self._deposits[second % self._slots] = 0
            self._withdrawals[second % self._slots] = 0
        self._epoch = max(self._epoch, now)

    def __repr__(self) -> str:
        return f"<RetryBudget balance={self.balance:.1f}>"
