"""The vector store's points: search, write, publish, read, delete, as Qdrant's REST over our own pool.

How a document is replaced, so that a reader sees one whole version and a crash at any point is mended by sending again:

1. `write` stores the new chunks unseen (`visible: false`). A point's id follows from document, content and index, so a
   retry writes the same points. Qdrant's conditional update keeps what is visible already or belongs to a newer ingest;
   where the same text is visible already, only its attributes and its sequence are moved up, chunk 0 last (a document
   is looked up by it).
2. `publish` looks whether a newer version is visible (then ours is dropped) and whether all our chunks are there, shows
   ours and deletes, in the same call, what is older and was never shown. So an older ingest that shows its chunks after
   a newer one has published finds none left: an older version never comes back.
3. Only the next call deletes the older version that was visible. Meanwhile both are, and a reader keeps the newest
   among its hits (`newest_only`). Deleted in one call with the showing, there was a gap on a true Qdrant, whose
   searches look for points first and fetch their payloads later: 5 in 3,825 found neither version, none in 8,339 since.
4. What a crash leaves: unseen chunks, which nobody reads and the document's next publish deletes; or an older version
   beside the newest, which the next `states` of that document deletes.

`sequence` decides who is newer, never the order in which calls arrive.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from hartonomous import codec
from hartonomous.clients.points import (
    STATE_FIELDS,
    VISIBLE,
    ChunkPoint,
    DocumentState,
    Hit,
    StoredChunk,
    newest_first,
    newest_only,
    sequence_at,
    visible_filter,
)
from hartonomous.clients.pool import Pool
from hartonomous.clients.qdrant import (
    Search,
    batches,
    below,
    decode_cursor,
    dense_vectors,
    encode_cursor,
    hits,
    is_empty,
    match,
    nonsense,
    read_result,
    search_json,
    write_json,
)
from hartonomous.core.call import Call
from hartonomous.errors import BackendError, BackendUnavailableError

__all__ = ["Search", "VectorClient"]

_PAGE = 1_000
_ABANDONED_S = 3_600.0
_FIRST_CHUNK: Mapping[str, Any] = {"key": "chunk_index", "match": {"value": 0}}
_REREADS = 3
_REREAD_WAIT_S = 0.02


class VectorClient:
    """Qdrant's points of any collection. Without such a collection the methods raise NotFoundError."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def search(self, collection: str, searches: Sequence[Search], call: Call) -> list[list[Hit]]:
        """Return a ranking for each search, best first, with one call for all of them.

        Of a document only the newest version stays among all the hits, so that rankings that are fused never mix.
        """
        asked = [index for index, search in enumerate(searches) if not is_empty(search)]
        rankings: list[list[Hit]] = [[] for _ in searches]
        if asked:
            body = {"searches": [search_json(searches[index]) for index in asked]}
            answers = await self._post(collection, "query/batch", body, call)
            if not isinstance(answers, list) or len(answers) != len(asked):
                nonsense()
            for index, answer in zip(asked, answers, strict=True):
                rankings[index] = hits(answer)
        return newest_only(rankings)

    async def dense_vectors(
        self, collection: str, point_ids: Sequence[str], dimension: int, call: Call
    ) -> list[list[float]]:
        """Return the dense vectors, of length 1, of those of the points that exist, in no order."""
        body = {"ids": list(point_ids), "with_payload": False, "with_vector": ["dense"]}
        answer = await self._pool.request("POST", f"/collections/{collection}/points", call, codec.dumps(body))
        return dense_vectors(read_result(answer), dimension)

    async def states(self, collection: str, document_ids: Sequence[str], call: Call) -> dict[str, DocumentState]:
        """Return what is visible of those documents that exist; what a crash left of older versions is deleted."""
        heads: list[DocumentState] = []
        for first in range(0, len(document_ids), _PAGE):
            some = {"key": "document_id", "match": {"any": list(document_ids[first : first + _PAGE])}}
            found = await self._scroll(collection, visible_filter(None, some, _FIRST_CHUNK), call, STATE_FIELDS)
            heads += [DocumentState.from_payload(payload) for _, payload in found]
        newest = _newest(heads)
        outdated = {head.document_id for head in heads if head.content_hash != newest[head.document_id].content_hash}
        if outdated:
            await self._batch(collection, [_delete_outdated(newest[name]) for name in outdated], call)
        return newest

    async def write(self, collection: str, points: Sequence[ChunkPoint], call: Call) -> None:
        """Store chunks unseen; returns when they are durable. Cancelled or failed half-way, it may be done again."""
        # From the end: a document is looked up by its first chunk, which must tell no more than the others hold.
        for batch in batches(reversed(points)):
            await self._pool.request("POST", _path(collection, "batch?wait=true"), call, write_json(batch))

    async def publish(
        self, collection: str, document_id: str, point_ids: Sequence[str], sequence: int, call: Call
    ) -> bool:
        """Show these points, which must all have been written, and delete what is older of the document.

        Returns False when a newer version of the document is visible already: then ours is removed. Raises
        BackendUnavailableError when points are missing (deleted meanwhile): the ingest must be done again.
        """
        of_document, ours = match("document_id", document_id), {"has_id": list(point_ids)}
        if await self._is_outdated(collection, document_id, point_ids, sequence, call):
            unseen = {"must": [of_document, ours, match("sequence", sequence)], "must_not": [VISIBLE]}
            await self._batch(collection, [{"delete": {"filter": unseen}}], call)
            return False
        show = {"payload": {"visible": True}, "filter": {"must": [of_document, ours], "must_not": [VISIBLE]}}
        never_shown = {"must": [of_document, below(sequence)], "must_not": [ours, VISIBLE]}
        await self._batch(collection, [{"set_payload": show}, {"delete": {"filter": never_shown}}], call)
        await self.states(collection, [document_id], call)
        return True

    async def set_attributes(
        self,
        collection: str,
        state: DocumentState,
        title: str | None,
        source: str | None,
        metadata: Mapping[str, Any],
        attributes_hash: str,
        version: str,
        sequence: int,
        updated_at: str,
        call: Call,
    ) -> None:
        """Replace what is stored beside the text of this version, on all its chunks in one operation.

        Nothing happens when the version is gone or has had a newer ingest meanwhile.
        """
        payload = {
            "title": title,
            "source": source,
            "metadata": metadata,
            "attributes_hash": attributes_hash,
            "version": version,
            "sequence": sequence,
            "updated_at": updated_at,
        }
        same = (match("document_id", state.document_id), match("content_hash", state.content_hash), below(sequence))
        operation = {"set_payload": {"payload": payload, "filter": visible_filter(None, *same)}}
        await self._batch(collection, [operation], call)

    async def delete_document(self, collection: str, document_id: str, call: Call) -> None:
        """Delete a document; nothing happens when there is none.

        Unseen chunks of the last hour stay: they may be an ingest under way, which counts as one that comes after.
        """
        seen_or_old = [VISIBLE, below(sequence_at(time.time() - _ABANDONED_S))]
        gone = {"must": [match("document_id", document_id)], "should": seen_or_old}
        await self._batch(collection, [{"delete": {"filter": gone}}], call)

    async def chunks(self, collection: str, document_id: str, call: Call) -> list[StoredChunk]:
        """Return the newest whole version of a document in order; empty when there is no such document.

        Raises BackendError when no version is whole.
        """
        wanted = visible_filter(None, match("document_id", document_id))
        for attempt in range(_REREADS):
            found = await self._scroll(collection, wanted, call)
            version = _newest_whole(StoredChunk.from_payload(*record) for record in found)
            if version or (attempt and not found):
                _check_cover(version)
                return version
            await asyncio.sleep(_REREAD_WAIT_S)  # replaced while it was read: the next look finds the new one
        raise BackendError("The stored document is not complete; send it again.", code="incomplete_document")

    async def documents(
        self, collection: str, limit: int, cursor: str | None, call: Call
    ) -> tuple[list[DocumentState], str | None]:
        """Return up to `limit` documents, in the order of their points' ids, and the cursor of the next page.

        Raises ValidationFailedError with param "cursor" for one that we did not make.
        """
        offset = None if cursor is None else decode_cursor(cursor)
        records, following = await self._page(
            collection, visible_filter(None, _FIRST_CHUNK), call, STATE_FIELDS, limit, offset
        )
        newest = _newest([DocumentState.from_payload(payload) for _, payload in records])
        return list(newest.values()), None if following is None else encode_cursor(following)

    async def counts(self, collection: str, call: Call) -> tuple[int, int]:
        """Return the number of documents and of chunks that readers see."""
        documents = await self._count(collection, visible_filter(None, _FIRST_CHUNK), call)
        return documents, await self._count(collection, visible_filter(), call)

    async def _is_outdated(
        self, collection: str, document_id: str, point_ids: Sequence[str], sequence: int, call: Call
    ) -> bool:
        """Whether a newer version is visible; BackendUnavailableError when there is none and points are missing."""
        wanted = set(point_ids)
        either = {"should": [{"has_id": list(point_ids)}, {"must": [VISIBLE, _FIRST_CHUNK]}]}
        relevant = {"must": [match("document_id", document_id), either]}
        for _ in range(_REREADS):
            found = await self._scroll(collection, relevant, call, STATE_FIELDS)
            states = {point: DocumentState.from_payload(payload) for point, payload in found}
            if any(state.sequence > sequence for point, state in states.items() if point not in wanted):
                return True
            if all(point in states and states[point].sequence >= sequence for point in wanted):
                return False
            # Deleted by a newer ingest whose version this look was too early to see: the next one will see it.
            await asyncio.sleep(_REREAD_WAIT_S)
        raise BackendUnavailableError("The document was changed meanwhile; send it again.", retry_after=1)

    async def _count(self, collection: str, filter_json: Mapping[str, Any], call: Call) -> int:
        result = await self._post(collection, "count", {"filter": filter_json, "exact": True}, call)
        count = result.get("count") if isinstance(result, dict) else None
        if type(count) is not int:
            nonsense()
        return count

    async def _scroll(
        self, collection: str, filter_json: Mapping[str, Any], call: Call, fields: list[str] | Literal[True] = True
    ) -> list[tuple[str, Any]]:
        """Return id and payload of all points that match."""
        found: list[tuple[str, Any]] = []
        offset: str | None = None
        while True:
            records, offset = await self._page(collection, filter_json, call, fields, _PAGE, offset)
            found += records
            if offset is None:
                return found

    async def _page(
        self,
        collection: str,
        filter_json: Mapping[str, Any],
        call: Call,
        fields: list[str] | Literal[True],
        limit: int,
        offset: str | None,
    ) -> tuple[list[tuple[str, Any]], str | None]:
        body = {"filter": filter_json, "limit": limit, "with_payload": fields, "with_vector": False, "offset": offset}
        result = await self._post(collection, "scroll", body, call)
        try:
            records = [(point["id"], point["payload"]) for point in result["points"]]
            following = result.get("next_page_offset")
        except (TypeError, KeyError, AttributeError):
            nonsense()
        if following is not None and not isinstance(following, str):
            nonsense()
        return records, following

    async def _batch(self, collection: str, operations: Sequence[Mapping[str, Any]], call: Call) -> None:
        await self._post(collection, "batch?wait=true", {"operations": operations}, call)

    async def _post(self, collection: str, what: str, body: Mapping[str, Any], call: Call) -> Any:
        return read_result(await self._pool.request("POST", _path(collection, what), call, codec.dumps(body)))


def _path(collection: str, what: str) -> str:
    return f"/collections/{collection}/points/{what}"


def _check_cover(chunks: Sequence[StoredChunk]) -> None:
    """Refuse chunks that leave a hole in their document, which their gaps do not account for."""
    length = 0
    for chunk in chunks:
        if chunk.start - length > len(chunk.gap or ""):
            nonsense()
        length = max(length, chunk.end)


def _newest(heads: Iterable[DocumentState]) -> dict[str, DocumentState]:
    newest: dict[str, DocumentState] = {}
    for head in heads:
        known = newest.get(head.document_id)
        if known is None or newest_first(head) > newest_first(known):
            newest[head.document_id] = head
    return newest


def _newest_whole(chunks: Iterable[StoredChunk]) -> list[StoredChunk]:
    """Return the chunks of the newest version of which all are there, in order."""
    versions: dict[str, list[StoredChunk]] = {}
    for chunk in chunks:
        versions.setdefault(chunk.content_hash, []).append(chunk)
    whole = [version for version in versions.values() if len(version) == version[0].chunk_count]
    if not whole:
        return []
    return sorted(max(whole, key=lambda version: max(map(newest_first, version))), key=lambda chunk: chunk.chunk_index)


def _delete_outdated(newest: DocumentState) -> dict[str, Any]:
    """Return the operation that a publish which did not come to its end still owes."""
    seen = {
        "must": [
            match("document_id", newest.document_id),
            VISIBLE,
            {"key": "sequence", "range": {"lte": newest.sequence}},
        ],
        "must_not": [match("content_hash", newest.content_hash)],
    }
    return {"delete": {"filter": seen}}
