"""Citation markers as models write them: `[1]`, `[1, 2]`, `[1-3]`, `[^1]`, `[[1]]`, `[Source 1, p. 3]`, `【1†source】`.

A number with a link behind it, `[1](https://…)`, is a marker too, and the link goes: a model's own address for a source
is worth nothing. So is all else that a reader sees as `[1]`: with escapes, emphasis or blanks in or around its
brackets, invisible characters, other scripts' digits. Numbers from 1500 to 2199 are years. `a[0]` is an element of
something: a zero in brackets directly behind a letter or an identifier. `[p. 1]` names no source: it is text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from enum import Enum
from typing import Final, Literal

LONGEST = 40
"""The longest marker, in characters with its brackets; text is held back no longer for one."""

_CLOSER = {"[": "]", "【": "】", "［": "］", "〔": "〕", "〖": "〗", "⟦": "⟧"}  # noqa: RUF001

OPENERS = "\\" + "".join(_CLOSER)
"""What a marker begins with; emphasis may stand around it, in `EMPHASIS`."""

EMPHASIS = "*_"

_LONGEST_EMPHASIZED = 120
_LONGEST_LINK = 500
_MOST = 1_000  # numbers of one range
_WORD = (
    r"(?:sources?|quellen?|documents?|dokumente?|docs?|refs?|references?|ids?"
    r"|cite|citations?|notes?|no|nr|passages?|chunks?|s(?=[0-9#]))"
)
_SEE = r"(?:(?:see|also|cf|siehe|auch|vgl|per|via)\b\.?:?\s*)*"
_NUMBER = rf"{_SEE}(?:{_WORD}[\s._:=]*){{0,2}}[#^]?[0-9]+"
_PAGE_NUMBERS = r"(?:pp?|s|pages?|seiten?)\.?\s*[0-9]+(?:\s*[-\u2013]\s*[0-9]+)?"
_PAGE = rf"(?:\s*[,;:]?\s*{_PAGE_NUMBERS})?"
_MARKER = re.compile(
    rf"[\s,;]*\^?-?{_NUMBER}{_PAGE}"
    rf"(?:(?:\s*(?:,|;|&|\u3001|and|und|et|-|\u2013)\s*|\s+){_NUMBER}{_PAGE})*[\s.,;:]*(?:\u2020.*)?",
    re.IGNORECASE | re.DOTALL,
)
_MAYBE_MARKER = re.compile(r"[0-9A-Za-z\s,;&^#.:=_\u2013\u3001-]*(?:\u2020.*)?", re.DOTALL)
_PAGES = re.compile(rf"(?<=[0-9])\s*[,;:]?\s*\b(?!s[0-9]){_PAGE_NUMBERS}|\u2020.*", re.IGNORECASE | re.DOTALL)
_RANGE = re.compile(r"([0-9]+)(?:\s*[-\u2013]\s*([0-9]+))?")
# What nearly every marker is, and nothing else; no link follows.
_SIMPLE = re.compile(r"\[([1-9][0-9]{0,2})\](?=[^(])")
_OPENING = re.compile(rf"(\\?)([{re.escape(''.join(_CLOSER))}])(?:\\?\[)?")
_EMPHASIS = re.compile(r"[*_]{1,5}")
_BETWEEN = re.compile(r"[ \t,;]*")
_EMPTY_LINE = re.compile(r"\n\s*\n")
_YEAR = re.compile(r"\s*(?:1[5-9]|2[01])[0-9]{2}(?:\s*[-\u2013,;]\s*(?:1[5-9]|2[01])[0-9]{2})*\s*")
_ELEMENT = re.compile(r"(?:(?<!\w)[^\W\d]|_\w*|\w\.\w+)\Z")
_ZERO = re.compile(r"-?[0-9]")
_LINK = re.compile(r"\([^\s()]*\)")
_OPEN_LINK = re.compile(r"\([^\s()]*\Z")
_UNSEEN = str.maketrans("", "", "*\\")


class Undecided(Enum):
    """The answer of `read_marker` when it needs to see more."""

    UNDECIDED = "undecided"


UNDECIDED: Final = Undecided.UNDECIDED

Marker = tuple[list[int], int] | Literal[Undecided.UNDECIDED] | None


def read_marker(text: str, at: int, *, final: bool, before: str = "") -> Marker:
    """Read the marker whose bracket, or the emphasis around it, opens at `at`: its numbers, and where it ends.

    None for a bracket that is no marker; `UNDECIDED` when the text, which may go on unless it is `final`, does not show
    it yet. `before` is what stands in front of the bracket.
    """
    simple = _SIMPLE.match(text, at)
    if simple:
        return [int(simple[1])], simple.end()
    emphasis = _EMPHASIS.match(text, at)
    if emphasis:
        return _read_emphasized(text, emphasis, final=final)
    return _read_plain(text, at, final=final, before=before)


def _read_emphasized(text: str, emphasis: re.Match[str], *, final: bool) -> Marker:
    """Read `**[1][2]**`: markers alone between two marks of emphasis, which mean nothing without them."""
    numbers: list[int] = []
    at, closing = emphasis.end(), emphasis[0][::-1]
    while at < emphasis.end() + _LONGEST_EMPHASIZED:
        if text.startswith(closing, at) and at > emphasis.end():
            return numbers, at + len(closing)
        if not final and closing.startswith(text[at:]):
            return UNDECIDED
        marker = _read_plain(text, at, final=final, before="")
        if not isinstance(marker, tuple):
            return marker
        numbers += marker[0]
        between = _BETWEEN.match(text, marker[1])
        at = between.end() if between else marker[1]
    return None


def _read_plain(text: str, at: int, *, final: bool, before: str) -> Marker:
    """Read one marker in its brackets, and an address behind them."""
    opening = _OPENING.match(text, at)
    if opening is None:
        return None if final or text[at:] not in ("", "\\") else UNDECIDED
    double = opening[0].count("[") > 1
    begin = opening.end() if double else opening.end(2)
    closing = _closing(_CLOSER[opening[2]], double=double).search(text, begin, at + LONGEST)
    inner = text[begin : closing.start() if closing else at + LONGEST]
    shown = _as_shown(inner)
    maybe = shown.removesuffix("]") if double and not closing else shown
    if _EMPTY_LINE.search(inner) or not _MAYBE_MARKER.fullmatch(maybe):
        return None
    if closing is None:
        return None if final or len(text) >= at + LONGEST else UNDECIDED
    if not _MARKER.fullmatch(shown.strip("_")) or _YEAR.fullmatch(shown) or _is_element(shown, before):
        return None
    return _with_link(text, closing.end(), _numbers(shown), final=final)


def _closing(closer: str, *, double: bool) -> re.Pattern[str]:
    """Return the pattern of what closes a marker; the module `re` keeps the few that there are."""
    return re.compile(rf"\\?{re.escape(closer)}" * (1 + double))


def _as_shown(inner: str) -> str:
    """Return what a reader sees in the brackets: without escapes, emphasis and invisible characters, digits as 0-9."""
    if not inner.isascii():
        inner = "".join(_plain_character(char) for char in inner)
    return inner.translate(_UNSEEN)


def _plain_character(char: str) -> str:
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    return "" if unicodedata.category(char) == "Cf" else unicodedata.normalize("NFKC", char)


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
    return "".join(map("[{}]".format, markers))


def _numbers(inner: str) -> list[int]:
    """Return the numbers in a marker's brackets, ranges written out, pages left out."""
    if inner.lstrip().startswith("-"):
        return []
    found: list[int] = []
    for first, last in _RANGE.findall(_PAGES.sub("", inner)):
        found += range(int(first), min(int(last or first), int(first) + _MOST) + 1)
    return found
