"""Routes over collections, aliases and payload indexes."""

from __future__ import annotations

import time
from typing import Any

import qdrant_edge as edge
from aiohttp import web

from hartonomous import codec
from hartonomous.engine import indexes, schema
from hartonomous.engine.parameters import check_write
from hartonomous.engine.points_api import acknowledged
from hartonomous.engine.refusal import array, fields, invalid, malformed, obj, text, wrong_input
from hartonomous.engine.shard import Collection
from hartonomous.engine.state import ACTIVITY, STORE, answer, body

routes = web.RouteTableDef()

_BAD_IN_NAMES = frozenset('<>:"/\\|?*\0\x1f')
_ACTIONS = {
    "create_alias": ("create", ("alias_name", "collection_name")),
    "delete_alias": ("delete", ("alias_name",)),
    "rename_alias": ("rename", ("old_alias_name", "new_alias_name")),
}


def collection_of(request: web.Request) -> Collection:
    """Return the collection that the path names."""
    return request.app[STORE].get(request.match_info["name"])


def _new_name(name: str) -> str:
    if not 1 <= len(name) <= 255 or not _BAD_IN_NAMES.isdisjoint(name):
        raise invalid('[collection_name: must be 1 to 255 characters without any of <>:"/\\|?*]')
    return name


@routes.get("/collections")
async def list_collections(request: web.Request) -> web.Response:
    """Names of all collections."""
    started = time.perf_counter()
    names = [{"name": name} for name in request.app[STORE].collections]
    return answer(codec.dumps({"collections": names}), started)


@routes.put("/collections/{name}")
async def create_collection(request: web.Request) -> web.Response:
    """Make a collection, durably."""
    started = time.perf_counter()
    name = _new_name(request.match_info["name"])
    kept = schema.validate(codec.loads_request(await body(request)))
    await request.app[ACTIVITY].finish(request.app[STORE].create(name, kept))
    return answer(b"true", started)


@routes.patch("/collections/{name}")
async def update_collection(request: web.Request) -> web.Response:
    """Merge the metadata of a collection; nothing else of it can be changed."""
    started = time.perf_counter()
    changes = fields(codec.loads_request(await body(request)), frozenset({"metadata"}))
    collection = collection_of(request)
    if changes.get("metadata") is not None:
        metadata = obj(changes["metadata"], "metadata")
        await request.app[ACTIVITY].finish(request.app[STORE].describe(collection.name, metadata))
    return answer(b"true", started)


@routes.delete("/collections/{name}")
async def delete_collection(request: web.Request) -> web.Response:
    """Delete a collection: false when there is none."""
    started = time.perf_counter()
    gone = await request.app[ACTIVITY].finish(request.app[STORE].delete(request.match_info["name"]))
    return answer(codec.dumps(gone), started)


@routes.get("/collections/{name}")
async def collection_info(request: web.Request) -> web.Response:
    """Counts, configuration and indexes of a collection."""
    started = time.perf_counter()
    collection = collection_of(request)
    return answer(await collection.read(lambda shard: codec.dumps(_info(collection, shard))), started)


def _info(collection: Collection, shard: edge.EdgeShard) -> dict[str, Any]:
    info = shard.info()
    return {
        "status": "green",
        "optimizer_status": "ok",
        "indexed_vectors_count": info.indexed_vectors_count,
        "points_count": info.points_count,
        "segments_count": info.segments_count,
        "config": schema.shown(collection.kept),
        "payload_schema": indexes.shown(info.payload_schema),
        "update_queue": {"length": 0},
    }


@routes.get("/collections/{name}/exists")
async def collection_exists(request: web.Request) -> web.Response:
    """Whether a name or an alias stands for a collection."""
    started = time.perf_counter()
    store = request.app[STORE]
    name = request.match_info["name"]
    return answer(codec.dumps({"exists": store.aliases.get(name, name) in store.collections}), started)


def _aliases(aliases: dict[str, str]) -> bytes:
    return codec.dumps({"aliases": [{"alias_name": alias, "collection_name": name} for alias, name in aliases.items()]})


@routes.get("/aliases")
async def all_aliases(request: web.Request) -> web.Response:
    """All aliases."""
    started = time.perf_counter()
    return answer(_aliases(request.app[STORE].aliases), started)


@routes.get("/collections/{name}/aliases")
async def collection_aliases(request: web.Request) -> web.Response:
    """The aliases of one collection."""
    started = time.perf_counter()
    name = request.match_info["name"]
    return answer(_aliases({a: n for a, n in request.app[STORE].aliases.items() if n == name}), started)


@routes.post("/collections/aliases")
async def change_aliases(request: web.Request) -> web.Response:
    """Apply a list of changes of aliases, all or none."""
    started = time.perf_counter()
    actions = fields(codec.loads_request(await body(request)), frozenset({"actions"})).get("actions")
    changes = [_action(action, f"actions[{i}]") for i, action in enumerate(array(actions, "actions"))]
    await request.app[ACTIVITY].finish(request.app[STORE].change_aliases(changes))
    return answer(b"true", started)


def _action(value: Any, where: str) -> tuple[str, str, str]:
    fields(value, frozenset(_ACTIONS), where)
    if len(value) != 1:
        raise malformed(f"{where}: expected one action")
    ((name, item),) = value.items()
    kind, keys = _ACTIONS[name]
    given = fields(item, frozenset(keys), f"{where}.{name}")
    names = [text(given.get(key), f"{where}.{name}.{key}") for key in keys]
    return kind, names[0], names[1] if len(names) > 1 else ""


@routes.put("/collections/{name}/index")
async def create_index(request: web.Request) -> web.Response:
    """Make an index over a payload field."""
    started = time.perf_counter()
    field, field_schema = indexes.field_schema(codec.loads_request(await body(request)))
    return await _index_change(request, lambda: edge.UpdateOperation.create_field_index(field, field_schema), started)


@routes.delete("/collections/{name}/index/{field}")
async def delete_index(request: web.Request) -> web.Response:
    """Remove the index over a payload field; also when there is none."""
    started = time.perf_counter()
    field = request.match_info["field"]
    return await _index_change(request, lambda: edge.UpdateOperation.delete_field_index(field), started)


async def _index_change(request: web.Request, make: Any, started: float) -> web.Response:
    check_write(request.query)
    collection = collection_of(request)
    try:
        operation = make()
    except ValueError as error:
        raise wrong_input(str(error)) from error
    request.app[STORE].need_room(0)
    number = await request.app[ACTIVITY].finish(collection.write(lambda shard: collection.apply(shard, [operation]), 0))
    return answer(codec.dumps(acknowledged(request, number)), started)
