"""Collections against a real store: made, marked as ours, compared, listed, dropped."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from hartonomous.clients.creation import open_client
from hartonomous.clients.pool import Pool
from hartonomous.clients.schema import INDEXES, Schema
from hartonomous.config import Qdrant
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
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
from tests.service.vector_store import free_port

pytest_plugins = ("tests.service.vector_store",)

_TINY = EmbeddingFingerprint("tiny", 4, "query: ", "")
_OTHER = EmbeddingFingerprint("other", 8, "", "")


def _call(seconds: float = 60.0) -> Call:
    return Call("test", Deadline(seconds), {"X-Request-ID": "test"})


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def pool(vector_url: str, metrics: Metrics) -> AsyncIterator[Pool]:
    pool = Pool("qdrant", (vector_url,), Qdrant(url=vector_url), metrics)
    yield pool
    await pool.close()


@pytest.fixture
async def name(pool: Pool, collection_name: str) -> AsyncIterator[str]:
    """A collection that does not exist, and is gone after the test."""
    yield collection_name
    await pool.request("DELETE", f"/collections/{collection_name}", _call())


@pytest.fixture
def schema(pool: Pool) -> Schema:
    return Schema(pool, Qdrant(url=pool.replicas[0].url))


async def _put(pool: Pool, name: str, **body: Any) -> None:
    """Make a collection as somebody else would."""
    vectors = {"dense": {"size": 4, "distance": "Cosine"}}
    sparse = {"sparse": {"modifier": "idf"}}
    await pool.request(
        "PUT", f"/collections/{name}", _call(), orjson.dumps({"vectors": vectors, "sparse_vectors": sparse} | body)
    )


def _ours(**changes: Any) -> dict[str, Any]:
    about = {"schema": 1, "fingerprint": _TINY.as_dict(), "language": "english"}
    return {"hartonomous": about | changes}


async def test_a_collection_is_made_with_its_description_and_its_indexes(schema: Schema, name: str) -> None:
    made = await schema.ensure(name, _TINY, "german", _call())
    assert (made.name, made.dimension, made.fingerprint, made.language, made.points) == (name, 4, _TINY, "german", 0)
    assert made.indexes == set(INDEXES)
    assert await schema.describe(name, _call()) == made


async def test_its_vectors_are_cosine_and_idf(schema: Schema, pool: Pool, name: str) -> None:
    await schema.ensure(name, _TINY, "english", _call())
    answer = await pool.request("GET", f"/collections/{name}", _call())
    params = orjson.loads(answer.body)["result"]["config"]["params"]
    assert params["vectors"]["dense"]["distance"] == "Cosine"
    assert params["sparse_vectors"]["sparse"]["modifier"] == "idf"


async def test_a_collection_that_exists_is_used_in_the_language_it_was_made_with(schema: Schema, name: str) -> None:
    made = await schema.ensure(name, _TINY, "german", _call())
    assert await schema.ensure(name, _TINY, "english", _call()) == made


async def test_many_who_make_one_collection_at_once_all_get_it(pool: Pool, name: str) -> None:
    """Each a process of its own, as far as the store can tell."""
    schemas = [Schema(pool, Qdrant(url=pool.replicas[0].url)) for _ in range(6)]
    made = await asyncio.gather(*(schema.ensure(name, _TINY, "english", _call()) for schema in schemas))
    assert {info.fingerprint for info in made} == {_TINY}
    assert await schemas[0].ensure(name, _TINY, "english", _call()) == made[0]


async def test_another_embedding_model_is_refused_and_told_which_one_made_it(schema: Schema, name: str) -> None:
    await schema.ensure(name, _TINY, "english", _call())
    for refused in (schema.ensure(name, _OTHER, "english", _call()), schema.require(name, _OTHER, _call())):
        with pytest.raises(ConflictError) as caught:
            await refused
        assert "made by the embedding model 'tiny' (4 dimensions, query prefix \"query: \"" in caught.value.message
        assert "configured is the embedding model 'other' (8 dimensions" in caught.value.message
        assert caught.value.error_code == "embedding_model_mismatch"


async def test_another_prefix_alone_is_another_model(schema: Schema, name: str) -> None:
    await schema.ensure(name, _TINY, "english", _call())
    with pytest.raises(ConflictError):
        await schema.require(name, EmbeddingFingerprint("tiny", 4, "", ""), _call())


async def test_a_collection_that_is_not_there_is_not_found(schema: Schema, name: str) -> None:
    assert await schema.describe(name, _call()) is None
    with pytest.raises(NotFoundError):
        await schema.require(name, _TINY, _call())


@pytest.mark.parametrize("metadata", [None, {"owner": "somebody"}, {"hartonomous": "yes"}])
async def test_somebody_elses_collection_is_left_alone(
    schema: Schema, pool: Pool, name: str, metadata: dict[str, Any] | None
) -> None:
    await _put(pool, name, **({} if metadata is None else {"metadata": metadata}))
    assert name not in [info.name for info in await schema.list(_call())]
    refused = (
        schema.ensure(name, _TINY, "english", _call()),
        schema.require(name, _TINY, _call()),
        schema.drop(name, _call()),
    )
    for asked in refused:
        with pytest.raises(ConflictError) as caught:
            await asked
        assert "was not made by Hartonomous" in caught.value.message


async def test_a_collection_of_another_schema_is_refused(schema: Schema, pool: Pool, name: str) -> None:
    await _put(pool, name, metadata=_ours(schema=2))
    with pytest.raises(ConflictError) as caught:
        await schema.require(name, _TINY, _call())
    assert caught.value.error_code == "schema_mismatch"
    assert name not in [info.name for info in await schema.list(_call())]


async def test_indexes_that_a_crash_left_out_are_made(schema: Schema, pool: Pool, name: str) -> None:
    await _put(pool, name, metadata=_ours())
    index = orjson.dumps({"field_name": "visible", "field_schema": "bool"})
    await pool.request("PUT", f"/collections/{name}/index?wait=true", _call(), index)
    assert (await schema.require(name, _TINY, _call())).indexes == {"visible"}
    assert (await schema.ensure(name, _TINY, "english", _call())).indexes == set(INDEXES)


async def test_a_dropped_collection_is_gone_at_once(schema: Schema, name: str) -> None:
    await schema.ensure(name, _TINY, "english", _call())
    assert await schema.drop(name, _call())
    assert await schema.describe(name, _call()) is None
    assert not await schema.drop(name, _call())
    assert (await schema.ensure(name, _OTHER, "english", _call())).fingerprint == _OTHER


async def test_our_collections_are_listed_by_name(schema: Schema, name: str) -> None:
    made = await schema.ensure(name, _TINY, "english", _call())
    listed = await schema.list(_call())
    assert made in listed
    assert [info.name for info in listed] == sorted(info.name for info in listed)


async def test_a_known_collection_costs_no_call(schema: Schema, metrics: Metrics, name: str) -> None:
    await schema.ensure(name, _TINY, "english", _call())
    before = _asked(metrics)
    for _ in range(5):
        await schema.require(name, _TINY, _call())
        await schema.ensure(name, _TINY, "english", _call())
    assert _asked(metrics) == before


def _asked(metrics: Metrics) -> float | None:
    labels = {"service": "qdrant", "outcome": "2xx"}
    return metrics.registry.get_sample_value("hartonomous_backend_requests_total", labels)


async def test_looking_at_collections_imports_nothing_heavy() -> None:
    code = "import sys, hartonomous.clients.schema; sys.exit('qdrant_client' in sys.modules or 'httpx' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0


async def _fail(url: str, seconds: float = 5.0, **config: Any) -> HartonomousError:
    """Make an index on a store that fails; return what is raised."""
    with pytest.raises(HartonomousError) as caught:
        async with open_client(Qdrant(url=url, **config), _call(seconds)) as client:
            await client.create_payload_index("docs", "source", "keyword")  # type: ignore[arg-type]  # the wire's own word
    return caught.value


async def test_making_on_a_store_that_is_down_is_unavailable() -> None:
    assert isinstance(await _fail(f"http://127.0.0.1:{free_port()}"), BackendUnavailableError)


async def test_making_is_bounded_by_the_deadline(aiohttp_server: AiohttpServer) -> None:
    url = await _store(aiohttp_server, 200, b"", hang=True)
    started = time.monotonic()
    assert isinstance(await _fail(url, 0.5), DeadlineExceededError)
    assert time.monotonic() - started < 2.0


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b"<html>", BackendError),
        (200, b'{"result": "what"}', BackendError),
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
    async with open_client(Qdrant(url=url, api_key="s3cret"), _call()) as client:  # type: ignore[arg-type]  # read by a validator
        await client.create_payload_index("docs", "source", "keyword")  # type: ignore[arg-type]  # the wire's own word
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
        made = await schema.ensure("docs", _TINY, "english", _call())
        assert await schema.list(_call()) == [made]
        await pool.close()
    finally:
        process.terminate()
        await process.wait()
