"""Queries under way: what ingests give way to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Traffic:
    """Counts the queries under way and remembers when the last one ended."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended = -float("inf")
        self.active = 0

    @contextmanager
    def query(self) -> Iterator[None]:
        """Count a query as under way."""
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1
            self._ended = self._clock()

    @property
    def quiet_s(self) -> float:
        """Seconds without a query; 0 while one is under way, infinite before the first."""
        return 0.0 if self.active else self._clock() - self._ended
