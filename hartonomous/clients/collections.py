"""Collections as the vector store knows them: physical ones, the aliases that stand for them, their marks and indexes.

Single steps, each of which may be done again. In which order they make a collection that is whole after a crash between
any two of them is told in `clients.schema` and `clients.targets`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hartonomous import codec
from hartonomous.clients.creation import create_collection, create_index
from hartonomous.clients.marks import (
    INDEXES,
    READABLE,
    SCHEMA,
    State,
    as_metadata,
    as_note,
    collection_of,
    indexes_of,
    mark_of,
    name_of,
    new_mark,
)
from hartonomous.clients.pool import Pool
from hartonomous.clients.qdrant import ask, nonsense
from hartonomous.clients.reach import path_to
from hartonomous.core.call import Call
from hartonomous.core.fingerprint import EmbeddingFingerprint
from hartonomous.errors import NotFoundError
from hartonomous.log import logger
from hartonomous.services import Qdrant

Raw = Mapping[str, Any]
"""The result of `GET /collections/{name}`."""


class Collections:
    """Calls on collections of one vector store. Methods raise hartonomous.errors."""

    def __init__(self, pool: Pool, config: Qdrant) -> None:
        self._pool = pool
        self._settings = config.collections
        # Names that the store does not show as they were asked for (`metadata."a"`), or does not take at all.
        self._settled: set[str] = set()

    async def fetch(self, name: str, call: Call) -> Raw | None:
        """Return what there is under a name or an alias, or None."""
        try:
            result = await ask(self._pool, "GET", path_to(name, call), call)
        except NotFoundError:
            return None
        return result if isinstance(result, dict) else nonsense()

    async def names(self, call: Call) -> list[str]:
        """Return the names of the collections that the caller may see, without aliases."""
        result = await ask(self._pool, "GET", "/collections", call)
        try:
            names = [str(entry["name"]) for entry in result["collections"]]
        except (TypeError, KeyError):
            nonsense()
        return [name for name in names if call.grant.allows(name_of(name))]

    async def aliases(self, call: Call) -> dict[str, str]:
        """Return all aliases and the collections that they stand for, also those that the caller may not see.

        They are not to be told to anybody: they say what is taken.
        """
        result = await ask(self._pool, "GET", "/aliases", call)
        try:
            return {str(entry["alias_name"]): str(entry["collection_name"]) for entry in result["aliases"]}
        except (TypeError, KeyError):
            nonsense()

    async def physical(self, collection: str, call: Call, *, but: str | None = None) -> dict[str, Raw]:
        """Return our physical collections of this one: not `but`, and none that another alias stands for."""
        aliases = await self.aliases(call)
        taken = {but, *(target for alias, target in aliases.items() if alias != collection)}
        found = {}
        for name in sorted(set(await self.names(call)) - taken):
            if collection_of(name) == collection:
                raw = await self.fetch(name, call)
                if raw is not None and mark_of(raw) is not None:
                    found[name] = raw
        return found

    async def point(self, alias: str, target: str, call: Call) -> None:
        """Let an alias stand for a collection from now on, in one step; made when there is none of this name.

        Raises NotFoundError when the collection is gone, ConflictError when a collection has the alias' name.
        """
        for name in (alias, target):
            call.grant.check(name_of(name))
        action = {"create_alias": {"alias_name": alias, "collection_name": target}}
        await self._pool.request("POST", "/collections/aliases", call, codec.dumps({"actions": [action]}))

    async def delete(self, name: str, call: Call) -> bool:
        """Delete a collection with its aliases; return whether there was one. An alias is not followed."""
        try:
            return bool(await ask(self._pool, "DELETE", path_to(name, call), call))
        except NotFoundError:
            return False

    async def set_mark(self, name: str, mark: Mapping[str, Any], call: Call) -> None:
        """Replace the mark of a collection; NotFoundError when it is gone."""
        body = codec.dumps({"metadata": as_metadata(mark)})
        await self._pool.request("PATCH", path_to(name, call), call, body)

    async def set_note(self, name: str, note: Mapping[str, Any] | None, call: Call) -> None:
        """Replace or take away the note of a reindex; NotFoundError when the collection is gone."""
        await self._pool.request("PATCH", path_to(name, call), call, codec.dumps({"metadata": as_note(note)}))

    async def create(
        self, name: str, fingerprint: EmbeddingFingerprint, language: str, state: State | None, call: Call
    ) -> bool:
        """Make a physical collection with all its indexes, as configured; return False when there is one already."""
        metadata = as_metadata(new_mark(name, fingerprint, language, self._settings, state))
        made = await create_collection(self._pool, name, fingerprint.dimension, metadata, self._settings, call)
        if made:
            await self._index(name, self._kinds(), call)
            await self._settle(name, self._kinds(), call)
        return made

    def missing_indexes(self, indexed: frozenset[str]) -> dict[str, str]:
        """Return the fields that should be indexed beside these, and their kinds."""
        return {field: kind for field, kind in self._kinds().items() if field not in indexed | self._settled}

    async def bring_up_to_date(self, name: str, raw: Raw, call: Call) -> None:
        """Make the indexes that a collection of ours lacks, and then call it one of this version."""
        await self.complete_indexes(name, raw, call)
        mark = mark_of(raw) or {}
        if mark.get("schema") in READABLE and mark["schema"] != SCHEMA:
            await self.set_mark(name, {**mark, "schema": SCHEMA}, call)

    async def complete_indexes(self, name: str, raw: Raw, call: Call) -> None:
        """Make the indexes that a collection lacks, and wait until they are there."""
        kinds = self.missing_indexes(indexes_of(raw))
        if kinds:
            await self._index(name, kinds, call)
            await self._settle(name, kinds, call)

    async def _settle(self, name: str, fields: Iterable[str], call: Call) -> None:
        """Do not ask again for what was asked for and is not shown under its name."""
        configured = set(fields) - INDEXES.keys()
        if configured:
            raw = await self.fetch(name, call)
            self._settled |= set() if raw is None else configured - indexes_of(raw)

    async def _index(self, name: str, kinds: Mapping[str, str], call: Call) -> None:
        for field, kind in sorted(kinds.items()):
            if not await create_index(self._pool, name, field, kind, call):
                logger.bind(field=field).warning("the vector store takes no index of this name")

    def _kinds(self) -> dict[str, str]:
        return {**INDEXES, **self._settings.indexes}
