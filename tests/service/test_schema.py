"""Collections against a real store: made, marked as ours, compared, listed, dropped."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from hartonomous.clients.creation import create_index
from hartonomous.clients.pool import Pool
from hartonomous.clients.schema import INDEXES, SCHEMA, Schema
from hartonomous.core.call import Call
from hartonomous.core.fingerprint import EmbeddingFingerprint
from hartonomous.errors import (
    BackendError,
    BackendUnavailableError,
    ConflictError,
    DeadlineExceededError,
    HartonomousError,
    NotFoundError,
)
from hartonomous.metrics import Metrics
from hartonomous.services import Qdrant
from tests.service.schema_rig import OTHER, TINY, Store, call, killed_before, metrics, name, ours, pool, schema, store
from tests.service.vector_store import free_port

__all__ = ["metrics", "name", "pool", "schema", "store"]


async def test_a_collection_is_made_with_its_description_and_its_indexes(schema: Schema, name: str) -> None:
    made = await schema.ensure(name, TINY, "german", call())
    assert (made.name, made.dimension, made.fingerprint, made.language, made.points) == (name, 4, TINY, "german", 0)
    assert made.indexes == set(INDEXES)
    assert await schema.describe(name, call()) == made


async def test_a_collection_that_exists_is_used_in_the_language_it_was_made_with(schema: Schema, name: str) -> None:
    made = await schema.ensure(name, TINY, "german", call())
    assert await schema.ensure(name, TINY, "english", call()) == made


async def test_another_embedding_model_is_refused_and_told_which_one_made_it(schema: Schema, name: str) -> None:
    await schema.ensure(name, TINY, "english", call())
    for refused in (schema.ensure(name, OTHER, "english", call()), schema.require(name, OTHER, call())):
        with pytest.raises(ConflictError) as caught:
            await refused
        assert "made by the embedding model 'tiny' (4 dimensions, query prefix \"query: \"" in caught.value.message
        assert "configured is the embedding model 'other' (8 dimensions" in caught.value.message
        assert caught.value.error_code == "embedding_model_mismatch"


async def test_another_prefix_alone_is_another_model(schema: Schema, name: str) -> None:
    await schema.ensure(name, TINY, "english", call())
    with pytest.raises(ConflictError):
        await schema.require(name, EmbeddingFingerprint("tiny", 4, "", ""), call())


async def test_a_collection_that_is_not_there_is_not_found(schema: Schema, name: str) -> None:
    assert await schema.describe(name, call()) is None
    with pytest.raises(NotFoundError):
        await schema.require(name, TINY, call())


@pytest.mark.parametrize("metadata", [None, {"owner": "somebody"}, {"hartonomous": "yes"}])
async def test_somebody_elses_collection_is_left_alone(
    schema: Schema, store: Store, name: str, metadata: dict[str, Any] | None
) -> None:
    await store.put(name, **({} if metadata is None else {"metadata": metadata}))
    assert name not in [info.name for info in await schema.list(call())]
    refused = (
        schema.ensure(name, TINY, "english", call()),
        schema.require(name, TINY, call()),
        schema.drop(name, call()),
    )
    for asked in refused:
        with pytest.raises(ConflictError) as caught:
            await asked
        assert "was not made by Hartonomous" in caught.value.message


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        (SCHEMA + 1, f"was made by a newer Hartonomous (schema {SCHEMA + 1}, here {SCHEMA}): upgrade this one."),
        (0, "has a schema that is not known here: delete it and ingest its documents again."),
        ("2", "has a schema that is not known here: delete it and ingest its documents again."),
        (True, "has a schema that is not known here: delete it and ingest its documents again."),
        (None, "has a schema that is not known here: delete it and ingest its documents again."),
    ],
)
async def test_a_collection_of_an_unknown_schema_is_refused_with_what_to_do(
    schema: Schema, store: Store, name: str, version: Any, advice: str
) -> None:
    await store.put(name, metadata=ours(schema=version))
    for refused in (schema.require(name, TINY, call()), schema.ensure(name, TINY, "english", call())):
        with pytest.raises(ConflictError) as caught:
            await refused
        assert caught.value.error_code == "schema_mismatch"
        assert caught.value.message == f"The collection '{name}' {advice}"
    assert name not in [info.name for info in await schema.list(call())]
    assert (await store.mark(name))["schema"] == version
    assert await schema.drop(name, call())


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("how", ["require", "ensure"])
async def test_a_collection_of_an_older_version_is_brought_up_to_date_at_its_first_use(
    schema: Schema, store: Store, name: str, how: str, version: int
) -> None:
    await store.put(name, metadata=ours(schema=version) | {"owner": "me"})
    await store.fill(name, 1)
    (listed,) = [info for info in await schema.list(call()) if info.name == name]
    assert (listed.schema, listed.points) == (version, 1)
    if how == "ensure":
        used = await schema.ensure(name, TINY, "german", call())
    else:
        used = await schema.require(name, TINY, call())
    assert (used.schema, used.language, used.indexes) == (SCHEMA, "english", frozenset(INDEXES))
    metadata = (await store.ask("GET", f"/collections/{name}"))["config"]["metadata"]
    assert metadata == ours(schema=SCHEMA) | {"owner": "me"}
    assert await store.names(name) == [name]
    assert await store.ids(name) == [1]


async def test_a_collection_of_version_1_and_another_model_is_left_as_it_is(
    schema: Schema, store: Store, name: str
) -> None:
    await store.put(name, metadata=ours())
    for refused in (schema.require(name, OTHER, call()), schema.ensure(name, OTHER, "english", call())):
        with pytest.raises(ConflictError, match=f"`hartonomous reindex {name}` embeds it again"):
            await refused
    assert (await store.mark(name))["schema"] == 1


@pytest.mark.parametrize("change", range(len(INDEXES) + 1))
async def test_a_migration_that_was_killed_is_done_by_the_next_use(store: Store, name: str, change: int) -> None:
    await store.put(name, metadata=ours())
    with killed_before(change) as done:
        await store.schema().require(name, TINY, call())
    assert len(done) == change
    assert (await store.mark(name))["schema"] == 1
    assert (await store.schema().require(name, TINY, call())).indexes == set(INDEXES)
    assert (await store.mark(name))["schema"] == SCHEMA


async def test_indexes_that_a_crash_left_out_are_made(schema: Schema, store: Store, name: str) -> None:
    await store.put(name, metadata=ours(schema=SCHEMA))
    index = {"field_name": "visible", "field_schema": "bool"}
    await store.ask("PUT", f"/collections/{name}/index?wait=true", index)
    assert (await schema.require(name, TINY, call())).indexes == {"visible"}
    assert (await schema.ensure(name, TINY, "english", call())).indexes == set(INDEXES)


async def test_a_dropped_collection_is_gone_at_once(schema: Schema, name: str) -> None:
    await schema.ensure(name, TINY, "english", call())
    assert await schema.drop(name, call())
    assert await schema.describe(name, call()) is None
    assert not await schema.drop(name, call())
    assert (await schema.ensure(name, OTHER, "english", call())).fingerprint == OTHER


async def test_our_collections_are_listed_by_name(schema: Schema, name: str) -> None:
    made = await schema.ensure(name, TINY, "english", call())
    listed = await schema.list(call())
    assert made in listed
    assert [info.name for info in listed] == sorted(info.name for info in listed)


async def test_a_known_collection_costs_nocall(schema: Schema, metrics: Metrics, name: str) -> None:
    await schema.ensure(name, TINY, "english", call())
    before = _asked(metrics)
    for _ in range(5):
        await schema.require(name, TINY, call())
        await schema.ensure(name, TINY, "english", call())
    assert _asked(metrics) == before


def _asked(metrics: Metrics) -> float | None:
    labels = {"service": "qdrant", "outcome": "2xx"}
    return metrics.registry.get_sample_value("hartonomous_backend_requests_total", labels)


async def test_the_server_imports_no_second_client() -> None:
    code = "import sys, hartonomous.server; sys.exit('qdrant_client' in sys.modules or 'httpx' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0


async def _fail(url: str, seconds: float = 5.0, **config: Any) -> HartonomousError:
    """Make an index on a store that fails; return what is raised."""
    with pytest.raises(HartonomousError) as caught:
        await _index(url, call(seconds), **config)
    return caught.value


async def _index(url: str, asked: Call, **config: Any) -> bool:
    """Make an index."""
    pool = Pool("qdrant", (url,), Qdrant(url=url, **config), Metrics())
    try:
        return await create_index(pool, "docs", "source", "keyword", asked)
    finally:
        await pool.close()


async def test_making_on_a_store_that_is_down_is_unavailable() -> None:
    assert isinstance(await _fail(f"http://127.0.0.1:{free_port()}"), BackendUnavailableError)


async def test_making_is_bounded_by_the_deadline(aiohttp_server: AiohttpServer) -> None:
    url = await _store(aiohttp_server, 200, b"", hang=True)
    async with asyncio.timeout(10):  # the store's own limits are from 15 s on
        assert isinstance(await _fail(url, 0.5), DeadlineExceededError)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"<html>", BackendError),
        (200, b"[]", BackendError),
        (401, b"{}", BackendError),
        (404, b"{}", NotFoundError),
        (500, b"{}", BackendError),
        (503, b"{}", BackendUnavailableError),
    ],
)
async def test_what_the_store_refuses_is_one_of_our_errors(
    aiohttp_server: AiohttpServer, status: int, body: bytes, kind: type[HartonomousError]
) -> None:
    error = await _fail(await _store(aiohttp_server, status, body))
    assert isinstance(error, kind)
    assert "html" not in error.message


async def _store(aiohttp_server: AiohttpServer, status: int, body: bytes, *, hang: bool = False) -> str:
    async def respond(_request: web.Request) -> web.Response:
        if hang:
            await asyncio.sleep(30)
        return web.Response(status=status, body=body, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", respond)
    server = await aiohttp_server(app)
    return str(server.make_url("")).rstrip("/")


async def test_the_key_and_the_request_id_go_along(aiohttp_server: AiohttpServer) -> None:
    seen: list[tuple[str | None, str | None]] = []

    async def respond(request: web.Request) -> web.Response:
        seen.append((request.headers.get("api-key"), request.headers.get("X-Request-ID")))
        return web.json_response({"result": {"status": "completed", "operation_id": 1}, "status": "ok", "time": 0.1})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", respond)
    url = str((await aiohttp_server(app)).make_url("")).rstrip("/")
    assert await _index(url, call(), api_key="s3cret")
    assert seen == [("s3cret", "test")]


@pytest.mark.skipif("HARTONOMOUS_TEST_QDRANT_URL" in os.environ, reason="the true server is reached over TCP")
async def test_an_engine_on_a_unix_socket_is_served_as_well(tmp_path: Path) -> None:
    url = f"unix:{tmp_path}/e.sock"
    arguments = ["-m", "hartonomous", "engine", "--data", str(tmp_path / "data"), "--listen", url]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stderr=asyncio.subprocess.DEVNULL)
    try:
        until = time.monotonic() + 30
        while not (tmp_path / "e.sock").exists():
            assert process.returncode is None
            assert time.monotonic() < until
            await asyncio.sleep(0.02)
        pool = Pool("qdrant", (url,), Qdrant(url=url), Metrics())
        schema = Schema(pool, Qdrant(url=url))
        made = await schema.ensure("docs", TINY, "english", call())
        assert await schema.list(call()) == [made]
        await pool.close()
    finally:
        process.terminate()
        await process.wait()
