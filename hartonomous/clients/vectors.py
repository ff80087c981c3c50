"""The vector store's points as readers see them: search, vectors, a document's chunks, the documents of a collection.

`clients.versions` tells how documents are written; `VectorClient` is both, as Qdrant's REST over our own pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from hartonomous.clients.points import (
    STATE_FIELDS,
    DocumentState,
    Hit,
    StoredChunk,
    newest_first,
    visible_filter,
)
from hartonomous.clients.qdrant import (
    BestVectors,
    Search,
    best_json,
    decode_cursor,
    dense_vectors,
    encode_cursor,
    is_empty,
    match,
    nonsense,
    rankings_of,
    read_rankings,
    read_result,
    search_json,
)
from hartonomous.clients.reach import name_of
from hartonomous.clients.versions import FIRST_CHUNK, Versions, newest_versions
from hartonomous.core.call import Call
from hartonomous.core.fingerprint import document_start
from hartonomous.errors import BackendError

__all__ = ["BestVectors", "Search", "VectorClient"]

_REREADS = 3
_REREAD_WAIT_S = 0.02


class VectorClient(Versions):
    """Qdrant's points of any collection. Without such a collection the methods raise NotFoundError."""

    async def search(self, collection: str, searches: Sequence[Search], call: Call) -> list[list[Hit]]:
        """Return a ranking for each search, best first, with one call for all of them.

        Of a document only the newest version stays among all the hits, so that rankings that are fused never mix.
        """
        rankings, _ = await self.search_with_vectors(collection, searches, (), call)
        return rankings

    async def search_with_vectors(
        self, collection: str, searches: Sequence[Search], best: Sequence[BestVectors], call: Call
    ) -> tuple[list[list[Hit]], list[dict[str, list[float]]]]:
        """Return what `search` returns, and for each of `best` the vectors by point id, as the store keeps them.

        All of it is one call.
        """
        name = name_of(collection)
        asked = [search for search in searches if not is_empty(search)]
        wanted = [search_json(search, name) for search in asked] + [best_json(one, name) for one in best]
        if not wanted:
            return [[] for _ in searches], []
        read = read_result if best else read_rankings
        answers = await self._post(collection, "query/batch", {"searches": wanted}, call, read)
        if not isinstance(answers, list) or len(answers) != len(wanted):
            nonsense()
        rankings = rankings_of(answers[: len(asked)], name)
        if len(asked) < len(searches):
            found = iter(rankings)
            rankings = [[] if is_empty(search) else next(found) for search in searches]
        if not best:
            return rankings, []
        vectors = [
            dense_vectors(answer, one.dimension) for answer, one in zip(answers[len(asked) :], best, strict=True)
        ]
        return rankings, vectors

    async def chunks(self, collection: str, document_id: str, call: Call) -> list[StoredChunk]:
        """Return the newest whole version of a document in order; empty when there is no such document.

        Raises BackendError when no version is whole.
        """
        wanted = visible_filter(None, match("document_id", document_id))
        for attempt in range(_REREADS):
            found = await self._scroll(collection, wanted, call)
            version = newest_whole(StoredChunk.from_payload(*record) for record in found)
            if version or (attempt and not found):
                check_cover(version)
                return version
            await asyncio.sleep(_REREAD_WAIT_S)  # replaced while it was read: the next look finds the new one
        raise BackendError("The stored document is not complete; send it again.", code="incomplete_document")

    async def documents(
        self, collection: str, limit: int, cursor: str | None, call: Call
    ) -> tuple[list[DocumentState], str | None]:
        """Return up to `limit` documents, in an order of their own, and the cursor of the next page.

        A document that is there from the first page to the last is listed once, whatever is written meanwhile: the
        order is that of the first chunks' ids, whose beginning follows from the document alone.
        Raises ValidationFailedError with param "cursor" for one that we did not make.
        """
        offset = None if cursor is None else decode_cursor(cursor)
        records, following = await self._page(
            collection, visible_filter(None, FIRST_CHUNK), call, STATE_FIELDS, limit, offset
        )
        newest = newest_versions(DocumentState.from_payload(payload) for _, payload in records)
        if following is None:
            return list(newest.values()), None
        # Another version of the last document, which is being replaced, is no document of the next page.
        seen = bool(records) and document_start(following) == document_start(records[-1][0])
        return list(newest.values()), encode_cursor(document_start(following, after=seen))

    async def counts(self, collection: str, call: Call) -> tuple[int, int]:
        """Return the number of documents and of chunks that readers see."""
        documents = await self._count(collection, visible_filter(None, FIRST_CHUNK), call)
        return documents, await self._count(collection, visible_filter(), call)


def check_cover(chunks: Sequence[StoredChunk]) -> None:
    """Refuse chunks that leave a hole in their document, which their gaps do not account for."""
    length = 0
    for chunk in chunks:
        if chunk.start - length > len(chunk.gap or ""):
            nonsense()
        length = max(length, chunk.end)


def newest_whole(chunks: Iterable[StoredChunk]) -> list[StoredChunk]:
    """Return the chunks of the newest version of which all are there, in order."""
    versions: dict[str, list[StoredChunk]] = {}
    for chunk in chunks:
        versions.setdefault(chunk.content_hash, []).append(chunk)
    whole = [version for version in versions.values() if len(version) == version[0].chunk_count]
    if not whole:
        return []
    return sorted(max(whole, key=lambda version: max(map(newest_first, version))), key=lambda chunk: chunk.chunk_index)
