"""The newest records of a log, kept in memory as the lines that they are.

Whoever follows a log remembers a position and asks for what came after it: that costs who writes nothing, and a reader
who is too slow loses what there was no room to keep, and learns how much.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from threading import Lock

from msgspec import Struct

MAX_BYTES = 16 * 1024 * 1024
"""What the kept lines may take together, as characters."""


class KeptRecord(Struct, gc=False):
    """A record: its time (Unix), its level by number, its request's id, and its line without the line end."""

    time: float
    level: int
    request_id: str | None
    line: str


class Kept:
    """The newest records, so many and so large at most. Any thread may write and read them."""

    def __init__(self, count: int, max_bytes: int = MAX_BYTES) -> None:
        self.total = 0  # of all that have ever been written
        self._count = count
        self._max_bytes = max_bytes
        self._bytes = 0
        self._records: deque[KeptRecord] = deque()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._records)

    def append(self, record: KeptRecord) -> None:
        """Keep a record, and let go of the oldest ones that there is no room for."""
        self.extend((record,))

    def extend(self, records: Sequence[KeptRecord]) -> None:
        """Keep records, oldest first, and let go of the oldest ones that there is no room for."""
        with self._lock:
            self.total += len(records)
            self._records.extend(records)
            for record in records:
                self._bytes += len(record.line)
            if len(self._records) > self._count or self._bytes > self._max_bytes:
                self._shrink()

    def resize(self, count: int) -> None:
        """Keep so many from now on."""
        with self._lock:
            self._count = count
            self._shrink()

    def all(self) -> tuple[list[KeptRecord], int]:
        """Return all records, oldest first, and the position after the last one."""
        with self._lock:
            return list(self._records), self.total

    def after(self, position: int) -> tuple[list[KeptRecord], int]:
        """Return the records written after a position, oldest first, and how many of those are gone already."""
        with self._lock:
            new = self.total - position
            found = list(islice(reversed(self._records), new))
        found.reverse()
        return found, new - len(found)

    def _shrink(self) -> None:
        while len(self._records) > self._count or self._bytes > self._max_bytes:
            self._bytes -= len(self._records.popleft().line)
