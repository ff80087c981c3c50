"""Collections for those who write and search: whether there is one, whether it is ours, and making it.

Everything is asked by the name that a user gave, which is an alias of a physical collection (`clients.marks`). One is
made in two steps that no store does in one: the physical collection with its indexes, then the alias. Whoever comes
after a crash between the two finds a physical collection that is empty and ours, and goes on with it; two who come at
once make the same one. One that has points and no alias is nobody's to take: what a crash left of a deletion, or what
was kept at a reindex. A new one then gets the next name.

Looking costs one call, and none for two seconds after. What is known answers nobody whose grant does not reach it.
"""

from __future__ import annotations

import asyncio
import time

from hartonomous.clients.collections import Collections, Raw
from hartonomous.clients.marks import (
    INDEXES,
    SCHEMA,
    CollectionInfo,
    collection_of,
    compare,
    foreign,
    is_name,
    mark_of,
    name_of,
    parse,
    physical_names,
    state_of,
    too_many,
)
from hartonomous.clients.pool import Pool
from hartonomous.clients.targets import Targets
from hartonomous.clients.versions import OnChange
from hartonomous.core.call import Call
from hartonomous.core.fingerprint import EmbeddingFingerprint
from hartonomous.errors import BackendUnavailableError, ConflictError, NotFoundError
from hartonomous.services import Qdrant

__all__ = ["INDEXES", "SCHEMA", "CollectionInfo", "Schema"]

_KNOWN_S = 2.0
_KNOWN_COLLECTIONS = 1_024
_ATTEMPTS = 5


class Schema:
    """Looks after collections; `targets` are those that a reindex fills. Methods raise hartonomous.errors.

    `on_change` is told of a collection that was deleted or replaced.
    """

    on_change: OnChange | None = None

    def __init__(self, pool: Pool, config: Qdrant) -> None:
        self._collections = Collections(pool, config)
        self._known: dict[str, tuple[float, CollectionInfo]] = {}
        self._making = asyncio.Lock()
        self.targets = Targets(self._collections, config.collections, self.forget)

    async def describe(self, collection: str, call: Call) -> CollectionInfo | None:
        """Return the collection, at most two seconds old, or None when there is none.

        Raises PermissionDeniedError when the caller may not see it, ConflictError when there is one that is not ours or
        was made by a newer version.
        """
        call.grant.check(name_of(collection))
        known = self._known.get(collection)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        return await self._look(collection, call)

    async def require(self, collection: str, fingerprint: EmbeddingFingerprint, call: Call) -> CollectionInfo:
        """Return the collection that this embedding model made, up to date; raise NotFoundError or ConflictError."""
        info = await self._described(collection, fingerprint, call)
        if info is None:
            raise NotFoundError("There is no such collection.", code="collection_not_found")
        compare(info, fingerprint)
        if info.schema != SCHEMA:
            async with self._making:
                info = await self._complete(collection, fingerprint, call) or info
        return info

    async def list(self, call: Call) -> list[CollectionInfo]:
        """Return our collections that the caller may see, by name; those of a newer version are left out.

        No other one is looked at.
        """
        names = {*await self._collections.names(call), *await self._collections.aliases(call)}
        found = []
        for name in sorted(name for name in names if is_name(name) and call.grant.allows(name)):
            raw = await self._collections.fetch(name, call)
            try:
                if raw is not None:
                    found.append(self._remember(parse(name, raw)))
            except ConflictError:
                continue
        return found

    async def ensure(
        self, collection: str, fingerprint: EmbeddingFingerprint, language: str, call: Call
    ) -> CollectionInfo:
        """Return the collection, made with its indexes when there was none; its language stays what it was made with.

        Raises ConflictError when it is not ours or another embedding model made it, and NotFoundError for a physical
        collection, by whose name none is made.
        """
        info = await self._described(collection, fingerprint, call)
        if info is None or not self._is_complete(info):
            async with self._making:
                info = await self._make(collection, fingerprint, language, call)
        compare(info, fingerprint)
        return info

    def forget(self, collection: str) -> None:
        """Look again at the next call: the collection turned out to be gone, or to be another one."""
        self._known.pop(collection, None)

    async def drop(self, collection: str, call: Call) -> bool:
        """Delete a collection and what reindexes and crashes left of it; return whether there was anything.

        Raises ConflictError when it is not ours.
        """
        raw = await self._collections.fetch(collection, call)
        target = (await self._collections.aliases(call)).get(collection, collection)
        if raw is not None and (mark_of(raw) is None or collection_of(target) != collection != target):
            raise foreign(collection)
        # The one that is seen goes last: while it is there, nobody takes a left-over for it.
        doomed = [*await self._collections.physical(collection, call, but=target), *([] if raw is None else [target])]
        try:
            return any([await self._collections.delete(name, call) for name in doomed])
        finally:
            self.forget(collection)
            await self.changed(collection)

    async def changed(self, collection: str) -> None:
        """Tell who keeps what was read from a collection that it is another one now."""
        if self.on_change is not None:
            await self.on_change(collection)

    async def _make(
        self, collection: str, fingerprint: EmbeddingFingerprint, language: str, call: Call
    ) -> CollectionInfo:
        """Make what is missing: everything, or what a crash or a competing process has not made yet."""
        for _ in range(_ATTEMPTS):
            info = await self._complete(collection, fingerprint, call)
            if info is not None:
                return info
            await self._found(collection, fingerprint, language, call)
        raise BackendUnavailableError("The collection was deleted while it was made.", retry_after=1)

    async def _found(self, collection: str, fingerprint: EmbeddingFingerprint, language: str, call: Call) -> None:
        """Make the physical collection, or find it, and let the alias stand for it."""
        if not is_name(collection):
            raise NotFoundError("A physical collection is gone.", code="collection_not_found")
        physical = await self._collections.physical(collection, call)
        complete = [name for name, raw in physical.items() if state_of(raw) == "complete"]
        target = complete[0] if complete else await self._empty(collection, fingerprint, language, call)
        # Who came at the same time may have been faster, and have points already.
        if target is not None and await self._collections.fetch(collection, call) is None:
            try:
                await self._collections.point(collection, target, call)
            except (NotFoundError, ConflictError):
                return

    async def _empty(self, collection: str, fingerprint: EmbeddingFingerprint, language: str, call: Call) -> str | None:
        """Return a physical collection that waits for its alias, made when there is none; None: it has its alias."""
        aliases = await self._collections.aliases(call)
        for name in physical_names(collection, fingerprint):
            if collection in aliases:
                return None
            if name in aliases.values():
                continue
            if await self._collections.create(name, fingerprint, language, None, call):
                return name
            raw = await self._collections.fetch(name, call)
            if raw is not None and _waits(name, raw, fingerprint):
                return name
            # If it is the one that somebody made meanwhile, then it had its alias before it had points.
            aliases = await self._collections.aliases(call)
        raise too_many(collection)

    async def _complete(self, collection: str, fingerprint: EmbeddingFingerprint, call: Call) -> CollectionInfo | None:
        """Make the indexes that are missing and bring the mark up to date; None when there is no such collection."""
        raw = await self._collections.fetch(collection, call)
        if raw is None:
            return None
        info = self._remember(parse(collection, raw))
        compare(info, fingerprint)
        if self._is_complete(info):
            return info
        await self._collections.bring_up_to_date(collection, raw, call)
        return await self._look(collection, call)

    def _is_complete(self, info: CollectionInfo) -> bool:
        return info.schema == SCHEMA and not self._collections.missing_indexes(info.indexes)

    async def _described(self, collection: str, fingerprint: EmbeddingFingerprint, call: Call) -> CollectionInfo | None:
        """Return the collection; one of another model is looked at anew, because it may have been reindexed."""
        info = await self.describe(collection, call)
        return info if info is None or info.fingerprint == fingerprint else await self._look(collection, call)

    async def _look(self, collection: str, call: Call) -> CollectionInfo | None:
        raw = await self._collections.fetch(collection, call)
        if raw is None:
            self.forget(collection)
            return None
        return self._remember(parse(collection, raw))

    def _remember(self, info: CollectionInfo) -> CollectionInfo:
        if len(self._known) >= _KNOWN_COLLECTIONS:
            self._known.clear()
        self._known[info.name] = (time.monotonic() + _KNOWN_S, info)
        return info


def _waits(name: str, raw: Raw, fingerprint: EmbeddingFingerprint) -> bool:
    """Whether this is what a creation made that did not come to its alias: empty, ours, of no reindex."""
    try:
        info = parse(name, raw)
    except ConflictError:
        return False
    return state_of(raw) is None and info.points == 0 and (info.schema, info.fingerprint) == (SCHEMA, fingerprint)
