"""The physical collections that a reindex fills, and their taking the old one's place.

    target = await targets.build(collection, fingerprint, language, call)     # empty, or an interrupted reindex's
    ...                                                                       # fill `target` by its own name
    await targets.switch(collection, target, call)

Killed anywhere and started again, this comes to the same end, if it begins with `finish`. A target is marked `building`
until it is switched to, so that nobody takes it for the collection. `switch` marks the old one first, as `replaced` or
to be kept, then the target as `complete`: from then on it is the collection, and whoever finds that no alias says so
yet (the next `ensure`, the next `finish`) lets the alias say it. Then what is replaced is deleted, and the mark
cleared.

What was written into the old one at the last moment is for the caller to find: `catch_up` is called when everybody
writes into the new one already and the old one is still there. A target has a `note`, in which a reindex keeps what it
needs when it is started again, and that it is alive.

Readers see the old collection or the new one. Only one that was made before there were aliases must be deleted before
its name can be an alias, and is not found in between.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hartonomous.clients.collections import Collections, Raw
from hartonomous.clients.marks import (
    State,
    collection_of,
    foreign,
    mark_of,
    new_mark,
    note_of,
    parse,
    physical_names,
    state_of,
    too_many,
)
from hartonomous.core import walltime
from hartonomous.core.call import Call
from hartonomous.core.fingerprint import EmbeddingFingerprint
from hartonomous.errors import ConflictError, NotFoundError
from hartonomous.services import Collections as Settings

CatchUp = Callable[[], Awaitable[None]]

_ALIVE = "alive_at"


async def _nothing() -> None:
    return


class Targets:
    """Targets of one vector store's collections. Methods raise hartonomous.errors."""

    def __init__(self, collections: Collections, settings: Settings, forget: Callable[[str], None]) -> None:
        self._collections = collections
        self._settings = settings
        self._forget = forget

    async def behind(self, collection: str, call: Call) -> str | None:
        """Return the physical collection that is found under a name, or None when there is none."""
        if await self._collections.fetch(collection, call) is None:
            return None
        return (await self._collections.aliases(call)).get(collection, collection)

    async def is_current(self, collection: str, fingerprint: EmbeddingFingerprint, language: str, call: Call) -> bool:
        """Whether the collection is as one would be that is made now."""
        raw = await self._collections.fetch(collection, call)
        before = {"settings": Settings().model_dump(exclude={"indexes"}, exclude_none=True)}  # as version 1 made them
        mark: Mapping[str, Any] = {**before, **((raw and mark_of(raw)) or {})}
        wanted = new_mark(collection, fingerprint, language, self._settings, None)
        return all(mark.get(name) == wanted[name] for name in ("fingerprint", "language", "settings"))

    async def begun(self, collection: str, call: Call) -> str | None:
        """Return the target of a switch that was begun and has not come to its end, or None."""
        return next(iter(await self._in_state("complete", collection, call)), None)

    async def note(self, target: str, note: Mapping[str, Any], call: Call) -> None:
        """Write down what a reindex needs when it is started again, and that it is alive now."""
        await self._collections.set_note(target, {**note, _ALIVE: walltime.latest()}, call)

    async def noted(self, target: str, call: Call) -> Mapping[str, Any]:
        """Return what was written down; empty when nothing was."""
        raw = await self._collections.fetch(target, call)
        return {} if raw is None else note_of(raw)

    async def build(self, collection: str, fingerprint: EmbeddingFingerprint, language: str, call: Call) -> str:
        """Return a target for this collection, with all its indexes.

        It is the one of a reindex that did not come to its end, with what that had filled in, if it is made the same
        way; one that is made in another way is deleted. A switch that was begun is brought to its end first.

        Raises ConflictError when the collection is not ours or was made by a newer version.
        """
        await self.finish(collection, call)
        raw = await self._collections.fetch(collection, call)
        if raw is not None:
            parse(collection, raw)
            # Nobody needs to write the old one's mark any more, which could meet the new one by then.
            await self._collections.bring_up_to_date(collection, raw, call)
        wanted = new_mark(collection, fingerprint, language, self._settings, "building")
        for name, found in (await self._in_state("building", collection, call)).items():
            if mark_of(found) == wanted:
                await self._collections.complete_indexes(name, found, call)
                return name
            await self._collections.delete(name, call)
        for name in physical_names(collection, fingerprint):
            if await self._collections.create(name, fingerprint, language, "building", call):
                return name
        raise too_many(collection)

    async def switch(
        self, collection: str, target: str, call: Call, *, keep: bool = False, catch_up: CatchUp = _nothing
    ) -> None:
        """Let the collection be what was built; the old one is deleted, or kept under its physical name.

        `catch_up` is called in between, and what it raises leaves the switch to be finished later.

        Raises NotFoundError when there is no such target; ConflictError when target or collection are not ours, and
        for `keep` where the old one has the collection's own name, which an alias needs.
        """
        raw = await self._collections.fetch(target, call)
        if raw is None:
            raise NotFoundError("There is no such target of a reindex.", code="collection_not_found")
        if mark_of(raw) is None or collection_of(target) != collection:
            raise foreign(target)
        old = await self.behind(collection, call)
        if old == target and state_of(raw) is None:
            return
        if old is not None and old != target:
            await self._mark_old(collection, old, call, keep=keep)
        await self._set_state(target, "complete", call)
        await self._take_place(collection, target, call, catch_up)

    async def finish(self, collection: str, call: Call) -> str | None:
        """Bring a switch that was begun to its end, as it is; return the target, or None when none was begun."""
        target = await self.begun(collection, call)
        if target is not None:
            await self._take_place(collection, target, call, _nothing)
        return target

    async def abandoned(self, collection: str, call: Call) -> list[str]:
        """Return the targets of reindexes that did not come to their end, or are under way."""
        return list(await self._in_state("building", collection, call))

    async def discard(self, collection: str, call: Call) -> int:
        """Delete these targets; return how many there were."""
        names = await self.abandoned(collection, call)
        return sum([await self._collections.delete(name, call) for name in names])

    async def sweep(self, collection: str, older_than_s: float, call: Call) -> int:
        """Delete the targets of reindexes that gave no sign of life for so long; return how many there were.

        One that never gave any counts from now on.
        """
        swept = 0
        for name, raw in (await self._in_state("building", collection, call)).items():
            alive_at = note_of(raw).get(_ALIVE)
            if not isinstance(alive_at, int | float):
                await self.note(name, {}, call)
            elif alive_at < walltime.earliest() - older_than_s:
                swept += await self._collections.delete(name, call)
        return swept

    async def _mark_old(self, collection: str, old: str, call: Call, *, keep: bool) -> None:
        """Say what is to become of the old one."""
        raw = await self._collections.fetch(old, call)
        if raw is not None and mark_of(raw) is None:
            raise foreign(collection)
        if collection_of(old) == collection:
            await self._set_state(old, "retired" if keep else "replaced", call)
        elif old == collection and keep:
            raise ConflictError(
                f"The collection {collection!r} cannot be kept beside a new one of its name.", code="cannot_keep"
            )

    async def _take_place(self, collection: str, target: str, call: Call, catch_up: CatchUp) -> None:
        """Do what is left of a switch to a complete target; each step may have been done already."""
        if collection in await self._collections.names(call):
            await self._collections.delete(collection, call)
        await self._collections.point(collection, target, call)
        self._forget(collection)
        await catch_up()
        for name, raw in (await self._collections.physical(collection, call, but=target)).items():
            if state_of(raw) in {"replaced", "complete"}:
                await self._collections.delete(name, call)
        await self._collections.set_note(target, None, call)
        await self._set_state(target, None, call)

    async def _in_state(self, state: State, collection: str, call: Call) -> dict[str, Raw]:
        physical = await self._collections.physical(collection, call)
        if state == "building":
            # Whatever its mark says: what is seen is no target.
            physical.pop((await self._collections.aliases(call)).get(collection, ""), None)
        return {name: raw for name, raw in physical.items() if state_of(raw) == state}

    async def _set_state(self, name: str, state: State | None, call: Call) -> None:
        raw = await self._collections.fetch(name, call)
        if raw is not None:
            mark = {key: value for key, value in (mark_of(raw) or {}).items() if key != "state"}
            await self._collections.set_mark(name, mark if state is None else {**mark, "state": state}, call)
