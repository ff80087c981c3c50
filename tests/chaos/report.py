"""What a run has seen, as a table; any violation makes it fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

_SHOWN = 20
"""How many violations of a kind are printed."""


@dataclass(slots=True)
class Report:
    """Counts and violations of one run."""

    seed: int
    seconds: float
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    figures: dict[str, str] = field(default_factory=dict)
    violations: dict[str, list[str]] = field(default_factory=dict)
    _told: set[tuple[str, object]] = field(default_factory=set)

    @property
    def failed(self) -> bool:
        """Whether anything happened that must not."""
        return bool(self.violations)

    def violate(self, kind: str, detail: str, about: object = None) -> None:
        """Note what must not happen; once only of what is `about` the same."""
        if about is not None:
            if (kind, about) in self._told:
                return
            self._told.add((kind, about))
        self.violations.setdefault(kind, []).append(detail)

    def count(self, kind: str) -> int:
        """Return how many violations of a kind there are."""
        return len(self.violations.get(kind, ()))

    def requests(self, *outcomes: str) -> int:
        """Return how many requests ended so; all of them without an argument."""
        return sum(count for (_, outcome), count in self.outcomes.items() if not outcomes or outcome in outcomes)

    def lines(self) -> Iterable[str]:
        """Yield the report, a line at a time."""
        yield from _table("requests", self.outcomes)
        yield ""
        yield from _table("faults", self.faults)
        yield ""
        width = max(map(len, self.figures), default=0)
        yield from (f"{name:{width}}  {value}" for name, value in self.figures.items())
        for kind, details in self.violations.items():
            yield ""
            yield f"VIOLATION {kind}: {len(details)}"
            yield from (f"  {detail}" for detail in details[:_SHOWN])
        yield ""
        yield "FAILED" if self.failed else "passed"
        yield f"to repeat: python -m tests.chaos --seed {self.seed} --seconds {self.seconds:g}"


def _table(title: str, counts: Counter[tuple[str, str]]) -> Iterable[str]:
    """Yield a row for each first key, with what stands under it in order of its name."""
    rows: dict[str, list[str]] = {}
    for (row, column), count in sorted(counts.items()):
        rows.setdefault(row, []).append(f"{column} {count}")
    width = max(map(len, [title, *rows]))
    yield f"{title:{width}}  {counts.total()}"
    for row, columns in rows.items():
        yield f"{row:{width}}  {', '.join(columns)}"
