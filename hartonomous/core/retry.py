"""When a backend wants to be asked again: the `Retry-After` header."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime

RETRY_AFTER_CAP = 30.0
"""The longest wait, in seconds, that a `Retry-After` can ask for."""

_ABSURD = 86_400.0
"""A `Retry-After` beyond a day is a broken clock or a joke, not advice."""

_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", re.ASCII)


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
