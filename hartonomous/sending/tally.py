"""What became of the documents so far: counts, failures, and the sentence at the end."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from hartonomous.sending.naming import printable

STATUSES = ("created", "updated", "unchanged")


class Failure(NamedTuple):
    """A document that could not be stored, and why."""

    name: str
    sentence: str

    def __str__(self) -> str:
        return f"{printable(self.name)}: {printable(self.sentence)}"


def reason(error: OSError) -> str:
    """Return the operating system's own words for an error."""
    text = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


@dataclass(slots=True)
class Tally:
    """Counts of one run.

    `total` is None where nobody knows how many documents will come; `doubts` are sentences about what was not deleted.
    """

    total: int | None = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    deleted: int = 0
    chunks: int = 0
    tokens: int = 0
    begun: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        """Documents of which it is known what became."""
        return self.counts.total() + len(self.failures)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return max(time.monotonic() - self.begun, 1e-9)

    def fail(self, name: str, sentence: str) -> None:
        """Note a document that could not be stored."""
        self.failures.append(Failure(name, sentence))

    def store(self, status: str, chunks: int) -> None:
        """Note a document that is stored, with its chunks if they were written now."""
        self.counts[status] += 1
        if status != "unchanged":
            self.chunks += chunks

    def summary(self) -> str:
        """Return all of it in one line."""
        parts = [f"{self.counts[status]} {status}" for status in STATUSES]
        parts.append(f"{len(self.failures)} failed")
        if self.deleted:
            parts.append(f"{self.deleted} deleted")
        if self.total is not None and self.total > self.done:
            parts.append(f"{self.total - self.done} not sent")
        written = f" ({self.chunks} chunks, {self.tokens} tokens)" if self.chunks else ""
        return f"{', '.join(parts)} in {self.seconds:.1f} s{written}"
