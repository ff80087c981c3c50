"""Code in Markdown as models write it: a block between fences, a span between backticks, or backticks that are neither.

A fence may open in mid-line, "Like this: ```", if nothing closes it on that line; models do so, whatever the standard
says. A span is closed on its line, by as many backticks as opened it.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Literal

from hartonomous.core.markers import UNDECIDED, Undecided

MARKS = "`~"

_FENCE = 3  # marks; fewer open no block
_LONGEST_SPAN = 200  # characters; text is held back no longer for the end of one
_LONGEST_FENCED = 1_000  # of three marks or more: one line of code is longer than a name

_RUN = re.compile(r"`+|~+")


class Code(Enum):
    """What a run of marks is."""

    FENCE = "fence"
    SPAN = "span"
    TEXT = "text"


def read_code(text: str, at: int, *, final: bool) -> tuple[Code, int] | Literal[Undecided.UNDECIDED]:
    """Tell what the backticks or tildes at `at` are, and where they end: a span with its closing marks, else the run.

    `UNDECIDED` when the text, which may go on unless it is `final`, does not show it yet.
    """
    begin = _end_of_run(text, at)
    if begin == len(text) and not final:
        return UNDECIDED
    fenced = begin - at >= _FENCE
    if text[at] == "~" and not fenced:
        return Code.TEXT, begin
    limit = begin + (_LONGEST_FENCED if fenced else _LONGEST_SPAN)
    line_end = text.find("\n", begin, limit)
    ended = line_end >= 0 or (final and len(text) < limit)
    stop = line_end if line_end >= 0 else min(len(text), limit)
    closed = _closing(text, text[at:begin], (begin, stop), ended=ended)
    if closed:
        return Code.SPAN, closed
    if not ended and len(text) < limit:
        return UNDECIDED
    return (Code.FENCE if fenced else Code.TEXT), begin


def _end_of_run(text: str, at: int) -> int:
    run = _RUN.match(text, at)
    return run.end() if run else at


def _closing(text: str, marks: str, part: tuple[int, int], *, ended: bool) -> int:
    """Return where the run ends that is as long as `marks`, 0 without one; one at an open end could still grow."""
    for run in _RUN.finditer(text, *part):
        if run[0] == marks and (ended or run.end() < part[1]):
            return run.end()
    return 0
