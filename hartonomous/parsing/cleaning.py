"""The last step of every format: text without control characters, with line ends and blank lines in order."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hartonomous.parsing.refusal import RefusedError

# C0 but for tab and newline, DEL and C1, lone surrogates, and what is no character at all.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_LINE_ENDS = re.compile("[\x0b\x0c\x85\u2028\u2029]")
_BLANK_LINES = re.compile(r"\n{4,}")
# The byte order mark within a text, and the marks where a word may be broken: they part words that are one.
_INVISIBLE = re.compile("[\ufeff\u200b\u2060\u00ad]")
_TITLE_LENGTH = 500


def clean(text: str) -> str:
    r"""Return `text` with \n as the only line end, no control characters, and at most two blank lines in a row."""
    text = _LINE_ENDS.sub("\n", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = "\n".join(line.rstrip() for line in without_controls(text).split("\n")).strip()
    return _BLANK_LINES.sub("\n\n\n", text) if "\n\n\n\n" in text else text


def without_controls(text: str) -> str:
    """Return `text` without control characters but tab and newline, lone surrogates and what is no character."""
    return _CONTROL.sub("", text)


def clean_title(title: object) -> str | None:
    """Return a title on one line of at most 500 code points, or None when nothing is left of it."""
    if not isinstance(title, str):
        return None
    return " ".join(without_invisible(clean(title)).split())[:_TITLE_LENGTH].strip() or None


def without_invisible(text: str) -> str:
    """Return `text` without the marks that show nothing and part words."""
    return _INVISIBLE.sub("", text)


def join_pages(pages: Iterable[str], max_bytes: int) -> tuple[str, tuple[int, ...]]:
    """Clean pages and join them with a blank line; return the text and the code points where pages 2, 3, … begin.

    A page without text begins where the next one with text does. Raises RefusedError when the text, in UTF-8, has
    more than `max_bytes`.
    """
    parts: list[str] = []
    starts: list[int] = []
    length = size = 0
    for page in pages:
        text = clean(page)
        begin = length + 2 if length else 0
        starts.append(begin)
        if text:
            parts.append(text)
            length = begin + len(text)
            size += len(text.encode()) + (2 if begin else 0)
        if size > max_bytes:
            raise RefusedError("text_too_large")
    return "\n\n".join(parts), tuple(min(start, length) for start in starts[1:])
