"""The rows of the table: what was measured, what must hold, what is aimed at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_HEADINGS = ("", "measured", "must", "holds", "aim", "holds")


@dataclass(frozen=True, slots=True)
class Target:
    """What a row is held against; more is better, or less where `at_most`."""

    key: str
    title: str
    must: float
    aim: float
    unit: str = ""
    at_most: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured for a target, with the lines that tell how it came about.

    `fails` says why it does not hold whatever its value is. `beside` are rows that are shown with it, by which nothing
    is judged.
    """

    target: Target
    value: float
    notes: Sequence[str] = ()
    figures: dict[str, Any] = field(default_factory=dict)
    fails: str = ""
    beside: Sequence[Row] = ()

    @property
    def holds(self) -> bool:
        """Whether what must hold does."""
        return not self.fails and _reaches(self.value, self.target.must, at_most=self.target.at_most)

    @property
    def reaches(self) -> bool:
        """Whether what is aimed at is there."""
        return not self.fails and _reaches(self.value, self.target.aim, at_most=self.target.at_most)

    def as_json(self) -> dict[str, Any]:
        """Return it for a file."""
        target = self.target
        return {
            "key": target.key,
            "title": target.title,
            "unit": target.unit,
            "measured": self.value,
            "must": target.must,
            "holds": self.holds,
            "aim": target.aim,
            "reaches": self.reaches,
            "fails": self.fails,
            "figures": self.figures,
            "beside": [row.as_json() for row in self.beside],
        }


TARGETS = {
    target.key: target
    for target in (
        Target("gateway", "gateway against the bare aiohttp pass-through", 0.75, 1.0),
        Target(
            "stream", "streamed chat, 200 streams of 100 tokens at 5 ms: added per token, p99", 2.0, 0.5, "ms", True
        ),
        Target("rag", "RAG query against four bare calls", 0.75, 1.0),
        Target("added", "RAG query at one connection: added to the backends' own time", 1.0, 0.5, "ms", True),
        Target("rss", "RSS of an API process after a million requests, flat", 140.0, 90.0, "MB", True),
        Target("ready", "start to /ready with backends up", 2.0, 1.0, "s", True),
        Target("batch", "batch of 64 questions against 64 queries one by one", 3.0, 6.0, "times"),
        Target("ingest", "ingest: the embedding service's busy time against a bare loop", 0.95, 0.99),
        Target("overload", "offered five times the capacity: goodput against the peak", 0.9, 1.0),
    )
}


def lines(rows: Sequence[Row]) -> list[str]:
    """Return the table, and below it what is to be known of each row."""
    cells = [_HEADINGS, *(_cells(shown) for row in rows for shown in (row, *row.beside))]
    widths = [max(len(row[column]) for row in cells) for column in range(len(_HEADINGS))]
    table = [_line(row, widths) for row in cells]
    table.insert(1, "-" * len(table[0]))
    notes = [line for row in rows for line in (f"{row.target.key}:", *(f"  {note}" for note in _notes(row)))]
    return [*table, "", *notes]


def number(value: float) -> str:
    """Return a number with as many digits as mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _notes(row: Row) -> list[str]:
    return [*row.notes, *([f"FAILS: {row.fails}"] if row.fails else [])]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join((first, *others))


def _cells(row: Row) -> tuple[str, ...]:
    target = row.target
    holds, reaches = ("yes" if good else "NO" for good in (row.holds, row.reaches))
    must, aim = number(target.must), number(target.aim)
    return target.title, f"{number(row.value)} {target.unit}".strip(), must, holds, aim, reaches


def _reaches(value: float, wanted: float, *, at_most: bool) -> bool:
    return value <= wanted if at_most else value >= wanted
