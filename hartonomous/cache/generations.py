"""The generation of a collection: a stamp that is part of an answer's key, and a new one after every change.

A change makes a new stamp when readers can see it, and before it is acknowledged. An answer that was begun before has
the old stamp in its key, which nobody asks for any more. A stamp is never one that was there before: a missing one is
made anew.

What remains: a process that is killed between the change and its stamp, or a write that the store carries out after the
call for it has failed, was not acknowledged, and leaves the answers of before to others for at most their time
(`ttl_s`). The same holds for what changes the collection beside us: a command (`hartonomous import`, `reindex`) or a
server that shares no Redis with us or keeps no answers, or a hand in the vector store. Where there is no Redis the
number of the collection's points, at most two seconds old, is part of the key as well, so that new and deleted
documents are noticed even then. While two processes serve in an upgrade (`hartonomous.upgrade`) there is no stamp.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol

_MOST = 10_000


class Generations(Protocol):
    """Stamps of collections."""

    async def current(self, collection: str) -> str | None:
        """Return the stamp; None while no answer can be looked up or kept."""
        ...

    async def advance(self, collection: str) -> None:
        """Give a collection that was changed a new stamp. Raises nothing."""
        ...


def fresh() -> str:
    """Return a stamp that was never there before."""
    return os.urandom(12).hex()


class OwnGenerations:
    """The stamps of a process that serves alone. `is_missed`: there is another one now, whose changes are not told."""

    def __init__(self, is_missed: Callable[[], bool] = lambda: False) -> None:
        self._stamps: dict[str, str] = {}
        self._is_missed = is_missed

    async def current(self, collection: str) -> str | None:
        """Return the stamp; None while changes are missed."""
        if self._is_missed():
            return None
        stamp = self._stamps.get(collection)
        if stamp is None:
            if len(self._stamps) >= _MOST:
                self._stamps.clear()
            stamp = self._stamps[collection] = fresh()
        return stamp

    async def advance(self, collection: str) -> None:
        """Give a collection that was changed a new stamp."""
        self._stamps.pop(collection, None)


class Changes:
    """Who hears of every change: the generations of all runtimes that live, also of one made after the change began.

    An ingest that began before a reload thereby makes the answers unreachable that were given after it. `have_been`
    says whether there have been changes that generations of now have not heard of. `are_missed`: another process
    changes collections as well now, and does not tell this one.
    """

    def __init__(self) -> None:
        self.have_been = self.are_missed = False
        self._generations: list[Generations] = []

    def add(self, generations: Generations) -> None:
        """Tell these as well."""
        self._generations.append(generations)

    def remove(self, generations: Generations) -> None:
        """Tell them no more."""
        self._generations.remove(generations)

    async def advance(self, collection: str) -> None:
        """Give a collection that was changed a new stamp everywhere. Raises nothing but a cancellation."""
        cancelled, self.have_been = None, True
        for generations in list(self._generations):
            try:
                await generations.advance(collection)
            except asyncio.CancelledError as error:
                cancelled = error  # what this one could not do it owes; the others must be told all the same
        if cancelled is not None:
            raise cancelled
