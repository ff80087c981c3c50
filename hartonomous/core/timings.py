"""How long stages took, as answers say it."""

from __future__ import annotations


def milliseconds(seconds: float) -> float:
    """Return a time, which is not negative, in milliseconds with two digits.

    `round` goes by way of decimal text, which takes 1.5 µs where it is not called in a row; a question has five.
    """
    return int(seconds * 100_000 + 0.5) / 100
