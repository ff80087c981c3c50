"""Packages without what they would import on the off chance: pybreaker and aiocache take Redis' client where it is.

That one takes OpenTelemetry's metrics, and all of it is 0.1 s of each start and 9 MB of each process, which a server
without Redis never uses. Both packages know how to do without; who does use Redis imports it as ever.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder


class _Absent(MetaPathFinder):
    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(self, name: str, _path: object, _target: object = None) -> None:
        if name == self._name:
            raise ModuleNotFoundError(f"{name} is not imported here", name=name)


@contextmanager
def without(name: str) -> Iterator[None]:
    """Let who imports this package meanwhile find that it is not installed, unless it has been imported already."""
    absent = _Absent(name)
    sys.meta_path.insert(0, absent)
    try:
        yield
    finally:
        sys.meta_path.remove(absent)
