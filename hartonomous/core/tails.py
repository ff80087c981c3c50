"""What stands between two words of an answer: marks, blanks and markers; and how a sentence's end is written."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from hartonomous.core.markers import EMPHASIS, OPENERS, UNDECIDED, read_marker, show_markers
from hartonomous.core.sentences import CLOSERS

_MOST_PARTS = 32  # of what stands between two words: small models repeat a marker for ever

_MARKS = re.escape(CLOSERS)
# Simple markers and one mark, before a word or at the end: in one step instead of one for each part, which takes a
# third of the time.
SIMPLE = r"( (?=\[))?((?:\[[1-9][0-9]{0,2}\](?=[^(])){0,20})([.!?])( (?=[A-Za-z0-9])|\Z)"
"""What nearly every sentence ends with: a blank, markers, a mark and the blank before a word."""

_SIMPLE = re.compile(SIMPLE)
# Marks, with a blank before some of them, or blanks. Emphasis for itself, since it may belong to a marker; all in small
# parts, since small models repeat marks for ever.
_MARKS_OR_GAP = re.compile(
    rf"[ \u00a0\u202f][!?»](?:(?![{EMPHASIS}])[{_MARKS}]){{0,40}}"
    rf"|(?:(?![{EMPHASIS}])[{_MARKS}]){{1,40}}|[{EMPHASIS}]{{1,5}}|(?P<gap>\s+)"
)
_CELL_END = re.compile(r"[ \t]*\|")
_MARKER_STARTS = frozenset(OPENERS + EMPHASIS)
_DENSE = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff]")


class Tail(msgspec.Struct, gc=False):
    """What stands between two words: `parts`, marks and blanks (text) and groups of markers, in order.

    `closing` are the marks without the blanks around markers, `markers` all of these, `gap` the blanks before the next
    word, which begins at `end` with `following`.
    """

    end: int
    parts: list[str | list[int]] = []
    closing: str = ""
    markers: list[int] = []
    gap: str = ""
    following: str = ""

    def add(self, part: str, end: int, gap: str = "") -> None:
        """Add text that ends at `end`; `gap` is the same where it is all blanks."""
        self.parts.append(part)
        if not gap:
            self.closing += part
        self.end = end
        self.gap = gap

    def add_markers(self, markers: list[int], end: int) -> None:
        """Add markers that end at `end`."""
        self.parts.append(markers)
        self.markers += markers
        self.end = end
        self.gap = ""


def read_tail(text: str, at: int, plain: str, *, final: bool) -> Tail | None:
    """Collect what stands from `at` on behind the sentence `plain`; None when what comes next could belong to it."""
    simple = _SIMPLE.match(text, at)
    tail = _read_simple(simple) if simple else _read_parts(text, at, plain, final=final)
    if tail is None or (tail.end == len(text) and not final):
        return None
    tail.following = text[tail.end : tail.end + 1]
    return tail


def _read_simple(found: re.Match[str]) -> Tail:
    blank, markers, tail = found[1], found[2], Tail(found.end())
    if blank:
        tail.parts.append(blank)
    if markers:
        tail.markers = numbers_of(markers)
        for marker in tail.markers:
            tail.parts.append([marker])
    tail.closing, tail.gap = found[3], found[4]
    tail.parts += (found[3], found[4]) if found[4] else (found[3],)
    return tail


def numbers_of(markers: str) -> list[int]:
    """Return the numbers of simple markers: `[1][2]`."""
    return list(map(int, markers[1:-1].split("]["))) if markers else []


def _read_parts(text: str, at: int, plain: str, *, final: bool) -> Tail | None:
    tail = Tail(at)
    size, cells = len(text), plain.startswith("|")
    # What begins a line belongs to the next sentence, a marker too.
    while tail.end < size and "\n" not in tail.gap and len(tail.parts) < _MOST_PARTS:
        if text[tail.end] in _MARKER_STARTS:
            marker = read_marker(text, tail.end, final=final, before="" if tail.parts else plain)
            if marker is UNDECIDED:
                return None
            if marker is not None:
                tail.add_markers(*marker)
                continue
        if not (cells and _take_cell(text, tail)) and not _take_text(text, tail):
            break
    return tail


def _take_cell(text: str, tail: Tail) -> bool:
    """Take the bar that ends a table's cell, with the blanks before it; return whether there was one."""
    cell = _CELL_END.match(text, tail.end)
    if cell is None:
        return False
    before = tail.gap
    if before:
        tail.parts.pop()
    tail.add(before + cell[0], cell.end())
    return True


def _take_text(text: str, tail: Tail) -> bool:
    """Take marks or blanks, not twice blanks; return whether there were any."""
    found = None if tail.gap else _MARKS_OR_GAP.match(text, tail.end)
    if found is None:
        return False
    tail.add(found[0], found.end(), found["gap"] or "")
    return True


def shown_tail(plain: str, closing: str, markers: Sequence[int]) -> str:
    """Return the marks that end a sentence with its markers before them."""
    if not markers:
        return closing
    blank = " " if plain.strip() and not _DENSE.match(plain[-1]) else ""
    if not closing.startswith(")"):
        return f"{blank}{show_markers(markers)}{closing}"
    # A parenthesis that the sentence has opened is closed before its markers, an address among them.
    inner = closing[: len(closing) - len(closing.lstrip(")"))][: max(0, _still_open(plain))]
    return f"{inner}{blank}{show_markers(markers)}{closing[len(inner) :]}"


def _still_open(text: str) -> int:
    """Return how many parentheses a text has opened and not closed."""
    return text.count("(") - text.count(")")
