"""Queries under way: what ingests give way to."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager


class Traffic:
    """Counts the queries under way and remembers when the last one ended."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ended = -float("inf")
        self.active = 0

    def query(self) -> AbstractContextManager[None]:
        """Return a block for whose time a query counts as under way."""
        return self

    def __enter__(self) -> None:
        self.active += 1

    def __exit__(self, *_: object) -> None:
        self.active -= 1
        self._ended = self._clock()

    @property
    def quiet_s(self) -> float:
        """Seconds without a query; 0 while one is under way, infinite before the first."""
        return 0.0 if self.active else self._clock() - self._ended
