"""Routes over points: writes, and reads.

The body is parsed, converted, executed and encoded in one job on the engine's thread: the event loop only moves bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import qdrant_edge as edge
from aiohttp import web

from hartonomous import codec
from hartonomous.engine import reads, render, updates
from hartonomous.engine.parameters import check_read, check_write
from hartonomous.engine.refusal import RefusedError, not_found, wrong_input
from hartonomous.engine.shard import Collection
from hartonomous.engine.state import ACTIVITY, STORE, answer, body
from hartonomous.engine.updates import Convert
from hartonomous.engine.values import PointId, point_id

routes = web.RouteTableDef()

_POINTS = "/collections/{name}/points"

Read = Callable[[edge.EdgeShard, Any], Any]


def acknowledged(request: web.Request, number: int) -> dict[str, Any]:
    """Return Qdrant's UpdateResult. Without `wait` the answer says so; the write is durable all the same."""
    status = "completed" if request.query.get("wait") == "true" else "acknowledged"
    return {"operation_id": number, "status": status}


async def _write(request: web.Request, convert: Convert) -> web.Response:
    started = time.perf_counter()
    check_write(request.query)
    collection = request.app[STORE].get(request.match_info["name"])
    data = await body(request)
    request.app[STORE].need_room(len(data))

    def job(shard: edge.EdgeShard) -> int:
        return collection.apply(shard, convert(codec.loads_request(data), collection.vectors, ""))

    number = await request.app[ACTIVITY].finish(collection.write(job, len(data)))
    return answer(codec.dumps(acknowledged(request, number)), started)


@routes.put(_POINTS)
async def upsert(request: web.Request) -> web.Response:
    """Insert or replace points."""
    return await _write(request, updates.upsert)


@routes.post(_POINTS + "/delete")
async def delete(request: web.Request) -> web.Response:
    """Delete points by id or filter."""
    return await _write(request, updates.delete)


@routes.post(_POINTS + "/payload")
async def set_payload(request: web.Request) -> web.Response:
    """Merge a payload into points."""
    return await _write(request, updates.set_payload)


@routes.put(_POINTS + "/payload")
async def overwrite_payload(request: web.Request) -> web.Response:
    """Replace the payload of points."""
    return await _write(request, updates.overwrite_payload)


@routes.post(_POINTS + "/payload/delete")
async def delete_payload(request: web.Request) -> web.Response:
    """Remove keys from the payload of points."""
    return await _write(request, updates.delete_payload)


@routes.post(_POINTS + "/payload/clear")
async def clear_payload(request: web.Request) -> web.Response:
    """Remove the payload of points."""
    return await _write(request, updates.clear_payload)


@routes.post(_POINTS + "/batch")
async def batch(request: web.Request) -> web.Response:
    """Apply a list of operations: converted before the first is applied, one step for readers, one sync."""
    started = time.perf_counter()
    check_write(request.query)
    collection = request.app[STORE].get(request.match_info["name"])
    data = await body(request)
    request.app[STORE].need_room(len(data))

    def job(shard: edge.EdgeShard) -> list[int]:
        entries = updates.batch(codec.loads_request(data), collection.vectors)
        return [collection.apply(shard, operations) for operations in entries]

    numbers = await request.app[ACTIVITY].finish(collection.write(job, len(data)))
    return answer(codec.dumps([acknowledged(request, number) for number in numbers]), started)


async def _read(request: web.Request, execute: Read) -> web.Response:
    started = time.perf_counter()
    check_read(request.query)
    collection: Collection = request.app[STORE].get(request.match_info["name"])
    data = await body(request)
    result = await collection.read(lambda shard: codec.dumps(execute(shard, codec.loads_request(data))))
    return answer(result, started)


def _lookup(shard: edge.EdgeShard) -> reads.Lookup:
    def vector_of(identifier: PointId, name: str) -> Any:
        records = shard.retrieve([identifier], False, [name])
        if not records:
            raise not_found(f"No point with id {identifier} found")
        vectors: Any = records[0].vector
        vector = vectors.get(name) if isinstance(vectors, dict) else vectors
        if vector is None:
            raise not_found(f'Vector with name "{name}" for point not found')
        return vector

    return vector_of


@routes.post(_POINTS + "/query")
async def query(request: web.Request) -> web.Response:
    """Search."""
    return await _read(request, lambda shard, value: render.scored(shard.query(reads.query(value, _lookup(shard)))))


@routes.post(_POINTS + "/query/batch")
async def query_batch(request: web.Request) -> web.Response:
    """Run several searches as one planned batch."""

    def execute(shard: edge.EdgeShard, value: Any) -> Any:
        return [render.scored(points) for points in shard.query_batch(reads.query_batch(value, _lookup(shard)))]

    return await _read(request, execute)


@routes.post(_POINTS + "/scroll")
async def scroll(request: web.Request) -> web.Response:
    """List points page by page."""

    def execute(shard: edge.EdgeShard, value: Any) -> Any:
        points, following = shard.scroll(reads.scroll(value))
        return {"points": render.records(points), "next_page_offset": following}

    return await _read(request, execute)


@routes.post(_POINTS + "/count")
async def count(request: web.Request) -> web.Response:
    """Count points."""
    return await _read(request, lambda shard, value: {"count": shard.count(reads.counting(value))})


@routes.post("/collections/{name}/facet")
async def facet(request: web.Request) -> web.Response:
    """Count points by the values of a payload field."""
    return await _read(request, lambda shard, value: render.facet(shard.facet(reads.facet(value))))


@routes.post(_POINTS)
async def retrieve(request: web.Request) -> web.Response:
    """Return points by their ids."""
    return await _read(request, lambda shard, value: render.records(shard.retrieve(*reads.retrieve(value))))


@routes.get(_POINTS + "/{id}")
async def point(request: web.Request) -> web.Response:
    """Return one point."""
    started = time.perf_counter()
    check_read(request.query)
    collection: Collection = request.app[STORE].get(request.match_info["name"])
    identifier = _path_id(request.match_info["id"])

    def job(shard: edge.EdgeShard) -> bytes:
        records = render.records(shard.retrieve([identifier], True, True))
        if not records:
            raise not_found(f"Point with id {identifier} does not exists!")
        return codec.dumps(records[0])

    return answer(await collection.read(job), started)


def _path_id(text: str) -> PointId:
    try:
        return point_id(int(text) if text.isascii() and text.isdecimal() else text, "id")
    except (RefusedError, ValueError) as error:
        raise wrong_input(f'Can not recognize "{text[:80]}" as point id') from error
