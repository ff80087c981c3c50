"""The headings of a Markdown text with their places, and the blocks that should not be cut: fenced code and tables.

Headings are ATX and setext, as CommonMark has them; lines inside fenced code and a YAML front matter are none. One
pass over the lines that matter, found by one regular expression.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter

_LINES = re.compile(
    r"^(?P<prefix>[ \t]*(?:(?:>|[-*+]|\d{1,9}[.)])[ \t]+)*)(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)$"
    r"|^ {0,3}(?P<hashes>\#{1,6})(?:[ \t]+(?P<title>[^\n]*))?[ \t\r]*$"
    r"|^ {0,3}(?P<underline>=+|-+)[ \t\r]*$",
    re.MULTILINE | re.ASCII,
)
# A row with a bar, a row of dashes with a bar, more rows with bars.
_TABLE = re.compile(
    r"^(?=[^\n]*\|)[^\n]*\n(?=[^\n]*\|)(?=[^\n]*-)[ \t|:\-]+\r?$(?:\n(?=[^\n]*\|)[^\n]*)*", re.MULTILINE
)
_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n[\w-]+[ \t]*:.*?\n(?:---|\.\.\.)[ \t]*\r?(?:\n|\Z)", re.DOTALL)
_CLOSING_HASHES = re.compile(r"(?:^|[ \t])#+[ \t]*$")
# What begins a line that is no paragraph, so that a line of dashes under it makes no heading.
_NO_PARAGRAPH = re.compile(r"\s*$|[ \t]{4}|\t| {0,3}(?:[>|<]|[-*+][ \t]|\d{1,9}[.)][ \t]|#{1,6}(?:[ \t]|$)|```|~~~)")
_PARAGRAPH_LINES = 5


@dataclass(slots=True, frozen=True)
class Heading:
    """A heading: its level (1 to 6), its text, and the code points from its line's start to its line's end."""

    level: int
    title: str
    start: int
    end: int


class Outline:
    """The headings of one text, which of them stand over a place in it, and its blocks (start and end, in order)."""

    __slots__ = ("_paths", "_starts", "blocks", "headings")

    def __init__(self, headings: Sequence[Heading] = (), blocks: Sequence[tuple[int, int]] = ()) -> None:
        self.headings = headings
        self.blocks = blocks
        self._starts = [heading.start for heading in headings]
        self._paths: list[tuple[str, ...]] = []
        open_ones: list[Heading] = []
        for heading in headings:
            while open_ones and open_ones[-1].level >= heading.level:
                open_ones.pop()
            open_ones.append(heading)
            self._paths.append(tuple(one.title for one in open_ones if one.title))

    def above(self, start: int) -> tuple[str, ...]:
        """Return the titles over the text that begins at `start`, outermost first.

        Headings with which that text begins count: they stand over what follows them.
        """
        index = bisect_right(self._starts, start)
        return self._paths[index - 1] if index else ()

    def at(self, start: int, end: int) -> list[Heading]:
        """Return the headings that begin in `start` to `end`, in order."""
        return list(self.headings[bisect_right(self._starts, start - 1) : bisect_right(self._starts, end - 1)])

    def before(self, end: int) -> Iterator[Heading]:
        """Yield the headings that begin before `end`, the last one first."""
        for index in range(bisect_right(self._starts, end - 1) - 1, -1, -1):
            yield self.headings[index]

    def blocks_in(self, start: int, end: int) -> Sequence[tuple[int, int]]:
        """Return the blocks that begin in `start` to `end`, in order."""
        first = bisect_left(self.blocks, start, key=itemgetter(0))
        return self.blocks[first : bisect_left(self.blocks, end, first, key=itemgetter(0))]


def outline(text: str) -> Outline:
    """Find the headings and blocks of a Markdown text."""
    front = _FRONT_MATTER.match(text)
    begin = front.end() if front else 0
    fence: re.Match[str] | None = None
    found: list[Heading] = []
    fenced: list[tuple[int, int]] = []
    for line in _LINES.finditer(text, begin):
        if line["fence"]:
            opened, fence = fence, _after_fence(fence, line)
            if opened is not None and fence is None:
                fenced.append((opened.start(), line.end()))
        elif fence is None or (fence["prefix"] and line["hashes"] and text[line.start()] == "#"):
            # A fence inside a list or quote ends with that: a heading at the margin shows that it has ended.
            fence = None
            heading = _atx(line) if line["hashes"] else _setext(text, line, found[-1].end if found else begin)
            if heading is not None:
                found.append(heading)
    return Outline(found, _with_tables(text, fenced))


def _with_tables(text: str, fenced: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the fenced blocks, and between them the tables."""
    starts = [start for start, _ in fenced]
    blocks = list(fenced)
    for table in _TABLE.finditer(text):
        index = bisect_right(starts, table.end() - 1)
        if not index or fenced[index - 1][1] <= table.start():
            blocks.append(table.span())
    return sorted(blocks)


def _after_fence(fence: re.Match[str] | None, line: re.Match[str]) -> re.Match[str] | None:
    """Return the fence that is open after a line that looks like one."""
    mark, info = line["fence"], line["info"].strip()
    if fence is None:
        # Backticks in the info string make it inline code.
        return None if mark[0] == "`" and "`" in info else line
    closes = not info and mark[0] == fence["fence"][0] and len(mark) >= len(fence["fence"])
    return None if closes else fence


def _atx(line: re.Match[str]) -> Heading:
    title = _CLOSING_HASHES.sub("", (line["title"] or "").strip())
    return Heading(len(line["hashes"]), title.strip(), line.start(), line.end())


def _setext(text: str, line: re.Match[str], begin: int) -> Heading | None:
    """Return the heading whose underline is `line`, if it stands under a paragraph that begins after `begin`."""
    start = line.start()
    for _ in range(_PARAGRAPH_LINES):
        if start <= begin:
            break
        before = max(text.rfind("\n", 0, start - 1) + 1, begin)
        if not text[before : start - 1].strip():
            break
        start = before
    if start == line.start() or _NO_PARAGRAPH.match(text, start):
        return None
    title = " ".join(text[start : line.start()].split())
    return Heading(1 if line["underline"][0] == "=" else 2, title, start, line.end())
