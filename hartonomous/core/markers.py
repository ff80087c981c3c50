"""Citation markers as models write them: `[1]`, `[1, 2]`, `[1-3]`, `[^1]`, `[[1]]`, `[Source 1, p. 3]`, `【1†source】`.

A number with a link behind it, `[1](https://…)`, is a marker too, and the link goes: a model's own address for a source
is worth nothing. Numbers from 1500 to 2199 are years. `a[0]` is an element of something: a zero in brackets directly
behind a letter or an identifier.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import Final, Literal

LONGEST = 40
"""The longest marker, in characters with its brackets; text is held back no longer for one."""

OPENERS = "[【［"  # noqa: RUF001
_CLOSER = {"[": "]", "【": "】", "［": "］"}  # noqa: RUF001

_LONGEST_LINK = 500
_MOST = 1_000  # numbers of one range
_WORD = (
    r"(?:sources?|quellen?|documents?|dokumente?|docs?|refs?|references?"
    r"|cite|citations?|notes?|no|nr|passages?|chunks?|s)"
)
_NUMBER = rf"(?:{_WORD}[\s._:]*)?[#^]?[0-9]{{1,9}}"
_PAGE = r"(?:\s*,?\s*(?:pp?|s|pages?|seiten?)\.?\s*[0-9]+(?:\s*[-\u2013]\s*[0-9]+)?)?"
_MARKER = re.compile(
    rf"\s*\^?(?:{_WORD}[\s._:]*)?-?{_NUMBER}{_PAGE}"
    rf"(?:(?:\s*(?:,|;|&|and|und|et|-|\u2013)\s*|\s+){_NUMBER}{_PAGE})*\s*\.?\s*(?:\u2020[^\]】］]*)?",  # noqa: RUF001
    re.IGNORECASE,
)
_MAYBE_MARKER = re.compile(r"[0-9A-Za-z\s,;&^#.:_\u2013-]*(?:\u2020[^\]】］]*)?")  # noqa: RUF001
_PAGES = re.compile(r",?\s*\b(?:pp?|s|pages?|seiten?)\.?\s*[0-9]+(?:\s*[-\u2013]\s*[0-9]+)?|\u2020.*", re.IGNORECASE)
_RANGE = re.compile(r"([0-9]+)(?:\s*[-\u2013]\s*([0-9]+))?")
_YEAR = re.compile(r"\s*(?:1[5-9]|2[01])[0-9]{2}(?:\s*[-\u2013,;]\s*(?:1[5-9]|2[01])[0-9]{2})*\s*")
_ELEMENT = re.compile(r"(?:(?<!\w)[^\W\d]|_\w*|\w\.\w+)\Z")
_ZERO = re.compile(r"-?[0-9]")
_LINK = re.compile(r"\([^\s()]*\)")
_OPEN_LINK = re.compile(r"\([^\s()]*\Z")


class Undecided(Enum):
    """The answer of `read_marker` when it needs to see more."""

    UNDECIDED = "undecided"


UNDECIDED: Final = Undecided.UNDECIDED

Marker = tuple[list[int], int] | Literal[Undecided.UNDECIDED] | None


def read_marker(text: str, at: int, *, final: bool, before: str = "") -> Marker:
    """Read the marker whose bracket opens at `at`: its numbers, and where it ends.

    None for a bracket that is no marker; `UNDECIDED` when the text, which may go on unless it is `final`, does not show
    it yet. `before` is what stands in front of the bracket.
    """
    double = text.startswith("[[", at)
    begin, closer = (at + 2, "]]") if double else (at + 1, _CLOSER[text[at]])
    end = text.find(closer, begin, at + LONGEST)
    inner = text[begin : end if end > 0 else at + LONGEST]
    maybe = inner[:-1] if double and end < 0 and inner.endswith("]") else inner
    if "\n" in inner or not _MAYBE_MARKER.fullmatch(maybe):
        return None
    if end < 0:
        return None if final or len(text) >= at + LONGEST else UNDECIDED
    if not _MARKER.fullmatch(inner) or _YEAR.fullmatch(inner) or _is_element(inner, before):
        return None
    return _with_link(text, end + len(closer), _numbers(inner), final=final)


def _is_element(inner: str, before: str) -> bool:
    """Tell whether brackets hold the place of an element: `a[0]`, `a_list[-1]`."""
    zero = _ZERO.match(inner) is not None and (inner == "0" or inner.startswith("-"))
    return zero and _ELEMENT.search(before[-40:]) is not None


def _with_link(text: str, end: int, numbers: list[int], *, final: bool) -> Marker:
    """Return the marker together with the address in parentheses behind it."""
    if end == len(text) and not final:
        return UNDECIDED
    link = _LINK.match(text, end, end + _LONGEST_LINK)
    if link:
        return numbers, link.end()
    if not final and len(text) < end + _LONGEST_LINK and _OPEN_LINK.match(text, end):
        return UNDECIDED
    return numbers, end


def show_markers(markers: Iterable[int]) -> str:
    """Write markers the one way an answer has them: `[1][2]`."""
    return "".join(f"[{marker}]" for marker in markers)


def _numbers(inner: str) -> list[int]:
    """Return the numbers in a marker's brackets, ranges written out, pages left out."""
    if inner.lstrip().startswith("-"):
        return []
    found: list[int] = []
    for first, last in _RANGE.findall(_PAGES.sub("", inner)):
        found += range(int(first), min(int(last or first), int(first) + _MOST) + 1)
    return found
