"""Whole documents read many in a call, with their vectors if wanted: what exports and reindexes move.

A document that is replaced while it is read is read again, until one whole version was seen. Chunks of several versions
never come together.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hartonomous.clients.points import STATE_FIELDS, VISIBLE, DocumentState, StoredChunk, assemble, visible_filter
from hartonomous.clients.qdrant import below, match, nonsense
from hartonomous.clients.store import PointStore
from hartonomous.clients.vectors import check_cover, newest_whole
from hartonomous.clients.versions import FIRST_CHUNK, newest_versions
from hartonomous.core.call import Call

# Chunks of one call: with vectors a chunk has up to some 50 kB.
_PAGE = 256
# Chunks of documents that are read together, and the documents.
_TOGETHER = 512
_DOCUMENTS = 256
_REREADS = 3
_REREAD_WAIT_S = 0.02


@dataclass(slots=True, frozen=True)
class Vectors:
    """The vectors of one chunk; `sparse` is (indices, values)."""

    dense: list[float]
    sparse: tuple[list[int], list[float]]


@dataclass(slots=True, frozen=True)
class WholeDocument:
    """All chunks of one version in order; `vectors` is None where they were not wanted, else one for each chunk."""

    chunks: list[StoredChunk]
    vectors: list[Vectors] | None = None

    @property
    def text(self) -> str:
        """The document's text, but for blanks at its end."""
        return assemble(self.chunks)


class Mover(PointStore):
    """Reads whole documents of any collection. Without such a collection the methods raise NotFoundError."""

    async def written_since(self, collection: str, sequence: int, call: Call) -> AsyncIterator[list[DocumentState]]:
        """Yield pages of the documents that were written at this sequence or later."""
        since = {"key": "sequence", "range": {"gte": sequence}}
        wanted = visible_filter(None, FIRST_CHUNK, since)
        async for records in self._pages(collection, wanted, call, STATE_FIELDS):
            yield list(newest_versions(DocumentState.from_payload(payload) for _, payload in records).values())

    async def documents(
        self, collection: str, states: Sequence[DocumentState], call: Call, *, dimension: int | None = None
    ) -> AsyncIterator[WholeDocument | str]:
        """Yield the documents that were listed, in order, and those that are gone by now not.

        With `dimension` their vectors come along, checked to have so many numbers. Of a document that has no whole
        version, which takes a damaged store, the id is yielded.
        """
        for some in _together(states):
            names = [state.document_id for state in some]
            for name, document in (await self._whole(collection, names, call, dimension)).items():
                yield name if document is None else document

    async def delete_version(self, collection: str, document_id: str, sequence: int, call: Call) -> None:
        """Delete a document, but not what was written after `sequence`."""
        known = {"must": [match("document_id", document_id), VISIBLE, below(sequence + 1)]}
        await self._batch(collection, [{"delete": {"filter": known}}], call)

    async def _whole(
        self, collection: str, names: Sequence[str], call: Call, dimension: int | None
    ) -> dict[str, WholeDocument | None]:
        """Return the newest whole version of each document that exists, None for one that has none."""
        whole: dict[str, WholeDocument | None] = {}
        missing = list(names)
        for attempt in range(_REREADS):
            if attempt:
                # Replaced while they were read: the next look finds the new ones.
                await asyncio.sleep(_REREAD_WAIT_S)
            found = await self._chunks(collection, missing, call, dimension)
            whole |= {name: document for name in missing if (document := _newest(found.get(name, {}))) is not None}
            missing = [name for name in missing if name not in whole and (name in found or not attempt)]
            if not missing:
                break
        whole |= dict.fromkeys(missing)
        return {name: whole[name] for name in names if name in whole}

    async def _chunks(
        self, collection: str, names: Sequence[str], call: Call, dimension: int | None
    ) -> dict[str, dict[str, tuple[StoredChunk, Vectors | None]]]:
        """Return all visible chunks of these documents, by document and by point id."""
        body: dict[str, Any] = {
            "filter": visible_filter(None, {"key": "document_id", "match": {"any": list(names)}}),
            "limit": _PAGE,
            "with_payload": True,
            "with_vector": False if dimension is None else ["dense", "sparse"],
            "offset": None,
        }
        found: dict[str, dict[str, tuple[StoredChunk, Vectors | None]]] = {}
        while True:
            _, result = await self._scrolled(collection, body, call)
            for chunk, vectors in _read(result, dimension):
                found.setdefault(chunk.document_id, {})[chunk.id] = chunk, vectors
            body["offset"] = result.get("next_page_offset")
            if body["offset"] is None:
                return found


def _together(states: Sequence[DocumentState]) -> Iterator[list[DocumentState]]:
    """Yield documents by as many as are read together; a large one goes alone."""
    some: list[DocumentState] = []
    chunks = 0
    for state in states:
        if some and (chunks + state.chunk_count > _TOGETHER or len(some) == _DOCUMENTS):
            yield some
            some, chunks = [], 0
        some.append(state)
        chunks += state.chunk_count
    if some:
        yield some


def _read(result: Any, dimension: int | None) -> Iterator[tuple[StoredChunk, Vectors | None]]:
    """Read a page of a scroll; raise BackendError when it is none."""
    try:
        for point in result["points"]:
            chunk = StoredChunk.from_payload(point["id"], point["payload"])
            yield chunk, None if dimension is None else _vectors(point["vector"], dimension)
    except (TypeError, KeyError):
        nonsense()


def _vectors(value: Mapping[str, Any], dimension: int) -> Vectors:
    dense, sparse = value["dense"], value.get("sparse") or {"indices": [], "values": []}
    if len(dense) != dimension or not math.isfinite(math.fsum(dense)):
        nonsense()
    return Vectors(dense, (sparse["indices"], sparse["values"]))


def _newest(found: Mapping[str, tuple[StoredChunk, Vectors | None]]) -> WholeDocument | None:
    chunks = newest_whole(chunk for chunk, _ in found.values())
    if not chunks:
        return None
    check_cover(chunks)
    vectors = [vectors for chunk in chunks if (vectors := found[chunk.id][1]) is not None]
    return WholeDocument(chunks, vectors or None)
