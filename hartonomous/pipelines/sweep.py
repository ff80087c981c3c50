"""What killed ingests and reindexes left behind, removed once it is old enough to be nobody's work any more."""

from __future__ import annotations

from dataclasses import dataclass

from hartonomous.clients.schema import Schema
from hartonomous.clients.vectors import VectorClient
from hartonomous.core.call import Call
from hartonomous.errors import NotFoundError


@dataclass(slots=True, frozen=True)
class Swept:
    """What was removed of a collection: chunks that were never shown, and collections that a reindex was filling."""

    chunks: int
    reindexes: int


class Sweeper:
    """Sweeps collections."""

    def __init__(self, vectors: VectorClient, schema: Schema) -> None:
        self._vectors = vectors
        self._schema = schema

    async def sweep(self, collection: str | None, older_than_s: float, call: Call) -> dict[str, Swept]:
        """Remove what is older than so many seconds, of one collection or of all that the caller may see.

        Returns what it was, by collection. Of a chunk the age counts from the beginning of its ingest, of a reindex
        from its last sign of life.

        Raises:
            PermissionDeniedError: the caller may not see the collection.
            NotFoundError: there is no such collection.
            ConflictError: it is not ours, or was made by a newer version.
        """
        if collection is not None:
            if await self._schema.describe(collection, call) is None:
                raise NotFoundError("There is no such collection.", param="collection", code="collection_not_found")
            return {collection: await self._sweep(collection, older_than_s, call)}
        swept = {}
        for info in await self._schema.list(call):
            try:
                swept[info.name] = await self._sweep(info.name, older_than_s, call)
            except NotFoundError:
                continue  # deleted after it was listed
        return swept

    async def _sweep(self, collection: str, older_than_s: float, call: Call) -> Swept:
        chunks = await self._vectors.sweep(collection, older_than_s, call)
        return Swept(chunks, await self._schema.targets.sweep(collection, older_than_s, call))
