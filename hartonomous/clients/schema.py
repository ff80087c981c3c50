"""Collections and their indexes: what there is, whether it is ours, and making it.

A collection carries its own description in Qdrant's collection metadata: the version of the stored schema, the
embedding fingerprint and the language of its sparse vectors. One without it was made by somebody else and is left
alone. Looking and deleting are plain REST over the pool; only making one needs `clients.creation`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hartonomous import codec
from hartonomous.clients.creation import create_collection, create_index, open_client
from hartonomous.clients.pool import Pool
from hartonomous.clients.qdrant import nonsense, read_result
from hartonomous.clients.sparse import languages
from hartonomous.config import COLLECTION_PATTERN, Qdrant
from hartonomous.core.call import Call
from hartonomous.core.fingerprint import EmbeddingFingerprint
from hartonomous.errors import BackendUnavailableError, ConflictError, NotFoundError

SCHEMA = 1
"""The version of the stored model: payload fields, vectors' names, indexes."""

INDEXES: Mapping[str, str] = MappingProxyType(
    {
        "document_id": "keyword",
        "source": "keyword",
        "visible": "bool",
        "sequence": "integer",
        "chunk_index": "integer",
    }
)
"""The indexed payload fields and their kinds."""

_KNOWN_S = 2.0
_KNOWN_COLLECTIONS = 1_024
_NAME = re.compile(COLLECTION_PATTERN)


@dataclass(slots=True, frozen=True)
class CollectionInfo:
    """A collection of ours. `points` counts all chunks, unseen ones included, and may be approximate."""

    name: str
    dimension: int
    fingerprint: EmbeddingFingerprint
    language: str
    points: int
    indexes: frozenset[str]


class Schema:
    """Looks after collections. Methods raise hartonomous.errors."""

    def __init__(self, pool: Pool, config: Qdrant) -> None:
        self._pool = pool
        self._config = config
        self._known: dict[str, tuple[float, CollectionInfo]] = {}
        self._making = asyncio.Lock()

    async def describe(self, collection: str, call: Call) -> CollectionInfo | None:
        """Return the collection, at most two seconds old, or None when there is none.

        Raises ConflictError when there is one that is not ours.
        """
        known = self._known.get(collection)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        return await self._look(collection, call)

    async def require(self, collection: str, fingerprint: EmbeddingFingerprint, call: Call) -> CollectionInfo:
        """Return a collection that this embedding model made; raise NotFoundError or ConflictError."""
        info = await self.describe(collection, call)
        if info is None:
            raise NotFoundError("There is no such collection.", code="collection_not_found")
        _compare(info, fingerprint)
        return info

    async def list(self, call: Call) -> list[CollectionInfo]:
        """Return our collections by name; those of others, or of another schema, are left out."""
        result = read_result(await self._pool.request("GET", "/collections", call))
        try:
            names = [name for entry in result["collections"] if _NAME.fullmatch(name := entry["name"])]
        except (TypeError, KeyError):
            nonsense()
        found = []
        for name in sorted(names):
            raw = await self._fetch(name, call)
            if raw is not None and (_mark(raw) or {}).get("schema") == SCHEMA:
                found.append(self._remember(_parse(name, raw)))
        return found

    async def ensure(
        self, collection: str, fingerprint: EmbeddingFingerprint, language: str, call: Call
    ) -> CollectionInfo:
        """Return the collection, made with its indexes when there was none; its language stays what it was made with.

        Raises ConflictError when it is not ours or another embedding model made it.
        """
        info = await self.describe(collection, call)
        if info is None or INDEXES.keys() - info.indexes:
            async with self._making:
                info = await self._make(collection, fingerprint, language, call)
        _compare(info, fingerprint)
        return info

    def forget(self, collection: str) -> None:
        """Look again at the next call: the collection turned out to be gone."""
        self._known.pop(collection, None)

    async def drop(self, collection: str, call: Call) -> bool:
        """Delete a collection; return whether there was one. Raises ConflictError when it is not ours."""
        raw = await self._fetch(collection, call)
        if raw is None:
            return False
        if _mark(raw) is None:
            raise _foreign(collection)
        try:
            deleted = read_result(await self._pool.request("DELETE", f"/collections/{collection}", call))
        except NotFoundError:
            deleted = False
        finally:
            self._known.pop(collection, None)
        return bool(deleted)

    async def _make(
        self, collection: str, fingerprint: EmbeddingFingerprint, language: str, call: Call
    ) -> CollectionInfo:
        """Make what is missing: everything, or the indexes that a crash or a competing process has not made yet."""
        info = await self._look(collection, call)
        missing = INDEXES.keys() - (info.indexes if info else ())
        if info is None or missing:
            async with open_client(self._config, call) as client:
                if info is None:
                    about = {"schema": SCHEMA, "fingerprint": fingerprint.as_dict(), "language": language}
                    await create_collection(client, collection, fingerprint.dimension, {"hartonomous": about})
                for field in sorted(missing):
                    await create_index(client, collection, field, INDEXES[field])
            info = await self._look(collection, call)
        if info is None:
            raise BackendUnavailableError("The collection was deleted while it was made.", retry_after=1)
        return info

    async def _look(self, collection: str, call: Call) -> CollectionInfo | None:
        raw = await self._fetch(collection, call)
        if raw is None:
            self._known.pop(collection, None)
            return None
        return self._remember(_parse(collection, raw))

    async def _fetch(self, collection: str, call: Call) -> Mapping[str, Any] | None:
        try:
            result = read_result(await self._pool.request("GET", f"/collections/{collection}", call))
        except NotFoundError:
            return None
        return result if isinstance(result, dict) else nonsense()

    def _remember(self, info: CollectionInfo) -> CollectionInfo:
        if len(self._known) >= _KNOWN_COLLECTIONS:
            self._known.clear()
        self._known[info.name] = (time.monotonic() + _KNOWN_S, info)
        return info


def _mark(raw: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what we wrote into a collection when it was made; None when it is somebody else's."""
    try:
        about = (raw["config"].get("metadata") or {}).get("hartonomous")
    except (TypeError, KeyError, AttributeError):
        nonsense()
    return about if isinstance(about, dict) else None


def _parse(name: str, raw: Mapping[str, Any]) -> CollectionInfo:
    about = _mark(raw)
    if about is None:
        raise _foreign(name)
    if about.get("schema") != SCHEMA:
        raise ConflictError(f"The collection {name!r} has another schema than {SCHEMA}.", code="schema_mismatch")
    if about.get("language") not in languages():
        raise ConflictError(f"The collection {name!r} has a language that is not known here.", code="schema_mismatch")
    try:
        return CollectionInfo(
            name=name,
            dimension=int(raw["config"]["params"]["vectors"]["dense"]["size"]),
            fingerprint=EmbeddingFingerprint.from_dict(about["fingerprint"]),
            language=str(about["language"]),
            points=int(raw.get("points_count") or 0),
            indexes=frozenset(raw.get("payload_schema") or {}),
        )
    except (TypeError, KeyError, ValueError):
        nonsense()


def _foreign(name: str) -> ConflictError:
    return ConflictError(f"The collection {name!r} was not made by Hartonomous.", code="foreign_collection")


def _compare(info: CollectionInfo, wanted: EmbeddingFingerprint) -> None:
    if info.fingerprint != wanted:
        raise ConflictError(
            f"The collection {info.name!r} was made by {_told(info.fingerprint)}; configured is {_told(wanted)}."
        )


def _told(fingerprint: EmbeddingFingerprint) -> str:
    prefixes = [codec.dumps(text).decode() for text in (fingerprint.query_prefix, fingerprint.document_prefix)]
    return (
        f"the embedding model {fingerprint.model!r} ({fingerprint.dimension} dimensions,"
        f" query prefix {prefixes[0]}, document prefix {prefixes[1]})"
    )
