"""Reading and changing points over the pool: scrolls page by page, counts, batches of operations."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal

from hartonomous import codec
from hartonomous.clients.points import COLLECTION, of_collection, refuse_others
from hartonomous.clients.pool import Answer, Pool
from hartonomous.clients.qdrant import ask, nonsense, read_result
from hartonomous.clients.reach import name_of, path_to
from hartonomous.core.call import Call

Record = tuple[str, Any]
"""A point's id and its payload."""

Fields = list[str] | Literal[True]
"""The payload fields that are wanted."""

# Points of a page: small ones, and those with a document's metadata, of 64 kB at most in each.
_PAGE = 1_000
_LARGE_PAGE = 250


class PointStore:
    """Qdrant's points of any collection. Without such a collection the methods raise NotFoundError.

    `write_options` is the query of every write: what it waits for and in which order replicas apply it.
    """

    def __init__(self, pool: Pool, write_options: str = "wait=true") -> None:
        self._pool = pool
        self._write_options = write_options

    def _post(
        self,
        collection: str,
        what: str,
        body: Mapping[str, Any],
        call: Call,
        read: Callable[[Answer], Any] = read_result,
    ) -> Coroutine[Any, Any, Any]:
        path = path_to(collection, call, f"/points/{what}")
        return ask(self._pool, "POST", path, call, codec.dumps(body), read)

    async def _batch(self, collection: str, operations: Sequence[Mapping[str, Any]], call: Call) -> None:
        await self._post_batch(collection, codec.dumps({"operations": operations}), call)

    async def _post_batch(self, collection: str, body: bytes, call: Call) -> None:
        await ask(self._pool, "POST", path_to(collection, call, f"/points/batch?{self._write_options}"), call, body)

    async def _count(self, collection: str, filter_json: Mapping[str, Any], call: Call) -> int:
        wanted = of_collection(name_of(collection), filter_json)
        result = await self._post(collection, "count", {"filter": wanted, "exact": True}, call)
        count = result.get("count") if isinstance(result, dict) else None
        if type(count) is not int:
            nonsense()
        return count

    async def _scroll(
        self, collection: str, filter_json: Mapping[str, Any], call: Call, fields: Fields = True
    ) -> list[Record]:
        """Return all points of the collection that match, in the order of their ids."""
        return [record async for page in self._pages(collection, filter_json, call, fields) for record in page]

    async def _pages(
        self, collection: str, filter_json: Mapping[str, Any], call: Call, fields: Fields
    ) -> AsyncGenerator[list[Record]]:
        offset: str | None = None
        limit = _LARGE_PAGE if fields is True or "metadata" in fields else _PAGE
        while True:
            records, offset = await self._page(collection, filter_json, call, fields, limit, offset)
            yield records
            if offset is None:
                return

    async def _page(
        self,
        collection: str,
        filter_json: Mapping[str, Any],
        call: Call,
        fields: Fields,
        limit: int,
        offset: str | None,
    ) -> tuple[list[Record], str | None]:
        body = {
            "filter": filter_json,
            "limit": limit,
            "with_payload": fields if fields is True else [*fields, COLLECTION],
            "with_vector": False,
            "offset": offset,
        }
        records, result = await self._scrolled(collection, body, call)
        following = result.get("next_page_offset")
        if following is not None and not isinstance(following, str):
            nonsense()
        return records, following

    async def _scrolled(
        self, collection: str, body: Mapping[str, Any], call: Call
    ) -> tuple[list[Record], Mapping[str, Any]]:
        """Return the records of a page, which are all of the collection, and the page as it was answered."""
        name = name_of(collection)
        body = {**body, "filter": of_collection(name, body["filter"])}
        result = await self._post(collection, "scroll", body, call)
        try:
            records = [(point["id"], point["payload"]) for point in result["points"]]
        except (TypeError, KeyError):
            nonsense()
        refuse_others(name, (payload for _, payload in records))
        return records, result if isinstance(result, dict) else nonsense()
