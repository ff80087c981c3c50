"""Citation markers as models write them: `[1]`, `[1, 2]`, `[1-3]`, `[^1]`, `[Source 1]`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import Final, Literal

LONGEST = 40
"""The longest marker, in characters with its brackets; text is held back no longer for one."""

_NUMBER = r"(?:sources?\s*)?\^?[0-9]{1,3}"
_MARKER = re.compile(
    rf"\s*\^?(?:(?:sources?|quellen?|documents?|docs?|refs?)[\s.:#]*)?{_NUMBER}"
    rf"(?:\s*(?:,|;|&|and|und|-|\u2013)\s*{_NUMBER})*\s*",
    re.IGNORECASE,
)
_MAYBE_MARKER = re.compile(r"[0-9A-Za-z\s,;&^#.:\u2013-]*")
_RANGE = re.compile(r"([0-9]+)(?:\s*[-\u2013]\s*([0-9]+))?")


class Undecided(Enum):
    """The answer of `read_marker` when it needs to see more."""

    UNDECIDED = "undecided"


UNDECIDED: Final = Undecided.UNDECIDED


def read_marker(text: str, at: int, *, final: bool) -> tuple[list[int], int] | Literal[Undecided.UNDECIDED] | None:
    """Read the marker whose `[` stands at `at`: its numbers, and where it ends.

    None for a bracket that is no marker (a link `[1](x)` is none); `UNDECIDED` when the text, which may go on unless
    it is `final`, does not show it yet.
    """
    end = text.find("]", at, at + LONGEST)
    inner = text[at + 1 : end if end > 0 else at + LONGEST]
    if "\n" in inner or not _MAYBE_MARKER.fullmatch(inner):
        return None
    if end < 0:
        return None if final or len(text) >= at + LONGEST else UNDECIDED
    if not _MARKER.fullmatch(inner):
        return None
    if end + 1 == len(text) and not final:
        return UNDECIDED  # a parenthesis would make it a link
    return None if text[end + 1 : end + 2] == "(" else (_numbers(inner), end + 1)


def show_markers(markers: Iterable[int]) -> str:
    """Write markers the one way an answer has them: `[1][2]`."""
    return "".join(f"[{marker}]" for marker in markers)


def _numbers(inner: str) -> list[int]:
    """Return the numbers in a marker's brackets, ranges written out."""
    found: list[int] = []
    for first, last in _RANGE.findall(inner):
        found += range(int(first), int(last or first) + 1)
    return found
