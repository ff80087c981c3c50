"""What several runtimes use at once: made once for equal settings, closed when the last runtime that uses it has gone.

While a reload is under way, and until the last request of the old runtime has ended, two runtimes live side by side. A
backend whose settings did not change keeps its one pool, with its connections, queue, limits and breakers; caches and
worker processes likewise. So does a model service of which only the addresses or their weights changed
(`clients.addresses`). Only where other settings of a service did change are there two pools for as long, each with
slots and circuits of its own; the metrics show the one that was taken last, and when that has gone the one that is
left.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


@runtime_checkable
class Shown(Protocol):
    """What the metrics show one of, by its name."""

    def show(self) -> None:
        """Let the metrics show this one from now on."""


@dataclass(slots=True, eq=False)
class _Part:
    settings: object
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    value: Any = None
    users: int = 0


class Parts:
    """The parts that live, by name and settings."""

    def __init__(self) -> None:
        self._parts: dict[str, list[_Part]] = {}

    def take(self, name: str, settings: object, make: Callable[[AsyncExitStack], T], stack: AsyncExitStack) -> T:
        """Return the part of this name that was made with equal settings, or make it; `stack` gives it back.

        `make` pushes on the stack that it gets what is to be done at the part's own end. Whatever the part is made of
        belongs to its settings, and must have been taken on the same stack before.
        """
        alive = self._parts.setdefault(name, [])
        part = next((part for part in alive if part.settings == settings), None)
        if part is None:
            part = _Part(settings)
            part.value = make(part.stack)
            alive.append(part)
        part.users += 1
        _show(part)
        stack.push_async_callback(self._give_back, name, part)
        value: T = part.value
        return value

    def count(self, name: str) -> int:
        """Return how many parts of this name there are."""
        return len(self._parts.get(name, ()))

    async def _give_back(self, name: str, part: _Part) -> None:
        part.users -= 1
        if not part.users:
            alive = self._parts[name]
            alive.remove(part)
            if alive:
                _show(alive[-1])
            await part.stack.aclose()


def _show(part: _Part) -> None:
    if isinstance(part.value, Shown):
        part.value.show()
