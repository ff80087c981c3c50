"""Writes Markdown: headings, paragraphs, lists, quotes, fenced code and tables, a blank line between blocks.

HTML and DOCX both end here. Text is text: what would begin a heading or a fence in a paragraph is escaped, nothing
else, since the text is read by people and models and quoted to them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hartonomous.parsing.refusal import RefusedError

_SPACES = re.compile(r"[^\S\v]+")
_BREAK = re.compile(r" ?\v ?")
# What a line of a paragraph must not begin with, or be: a heading, a fence, the underline of a heading.
_STRUCTURE = re.compile(r"^(?=\#{1,6}(?:\s|$)|```|~~~|(?:=+|-+)$)", re.MULTILINE)
_FENCE = re.compile(r"`{3,}")
# Deeper lists are not indented further: an indent that grows with each level makes a square of them.
_MAX_INDENT = 8
# A row wider than that is not filled up: a table of merged cells may claim any width.
_MAX_COLUMNS = 256

BREAK = "\v"  # a forced line end within running text


def running(text: str) -> str:
    """Return running text with its white space collapsed, and BREAK as the only line end."""
    return _BREAK.sub("\n", _SPACES.sub(" ", text)).strip()


class MarkdownWriter:
    """Collects the blocks of one document; raises RefusedError once they have more than `max_bytes` characters."""

    def __init__(self, max_bytes: int) -> None:
        self._room = max_bytes
        self._parts: list[str] = []
        self._indents: list[str] = []
        self._marker: str | None = None
        self._in_list = False

    def heading(self, level: int, text: str) -> None:
        """Write a heading of level 1 to 6 on one line."""
        text = " ".join(running(text).split())
        if text:
            self._block(f"{'#' * level} {text}")

    def paragraph(self, text: str) -> None:
        """Write running text."""
        text = running(text)
        if text:
            self._block(_STRUCTURE.sub(r"\\", text))

    def code(self, text: str, language: str = "") -> None:
        """Write a block of code, its lines and their indents as they are."""
        text = text.replace("\v", "\n").expandtabs(4).strip("\n")
        if text.strip():
            fence = max(_FENCE.findall(text), key=len, default="``") + "`"
            self._block(f"{fence}{language}\n{text}\n{fence}")

    def table(self, rows: Iterable[Sequence[str]]) -> None:
        """Write a table whose first row is its head; rows without any text are left out."""
        kept = [cells for row in rows if any(cells := [_cell(cell) for cell in row])]
        if not kept:
            return
        width = min(max(map(len, kept)), _MAX_COLUMNS)
        lines = [_row([*cells, *[""] * (width - len(cells))]) for cells in kept]
        self._block("\n".join([lines[0], "|" + " --- |" * width, *lines[1:]]))

    def begin_list(self) -> None:
        """Begin a list; one within an item follows its text closely."""
        if not self._indents:
            self._in_list = False

    def begin_item(self, marker: str) -> None:
        """Begin a list item: its first block follows `marker`, the rest is indented as far."""
        self._marker = marker
        self._indents.append(" " * len(marker) if len(self._indents) < _MAX_INDENT else "")

    def begin_quote(self) -> None:
        """Begin a quotation."""
        self._indents.append("> " if len(self._indents) < _MAX_INDENT else "")

    def end(self) -> None:
        """End the list item or quotation that was begun last."""
        self._indents.pop()
        self._marker = None

    def text(self) -> str:
        """Return what was written so far."""
        return "".join(self._parts)

    def _block(self, text: str) -> None:
        indent = first = "".join(self._indents)
        close = False
        if self._marker is not None:
            first = "".join(self._indents[:-1]) + self._marker
            close = self._in_list
        self._in_list, self._marker = bool(self._indents), None
        block = first + text.replace("\n", "\n" + indent)
        if self._parts:
            self._parts.append("\n" if close else "\n\n")
        self._parts.append(block)
        self._room -= len(block)
        if self._room < 0:
            raise RefusedError("text_too_large")


def _cell(text: str) -> str:
    return " ".join(running(text).split()).replace("|", "\\|")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
