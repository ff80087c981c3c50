"""What the engine refuses by name, and hostile requests: always a 4xx that says what, never a 500."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hartonomous.engine import reads, updates
from hartonomous.engine.filters import to_filter
from hartonomous.engine.refusal import MAX_DEPTH, RefusedError
from hartonomous.engine.values import VectorSchema
from tests.service.vector_store import Engine

SCHEMA = VectorSchema({"dense": 4}, frozenset({"sparse"}))
CREATE = {"vectors": {"dense": {"size": 4, "distance": "Dot"}}, "sparse_vectors": {"sparse": {}}}
JSON_HEADERS = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Engine(tmp_path_factory.mktemp("engine")) as engine:
        yield engine


@pytest.fixture
async def session(engine: Engine) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(engine.url) as session:
        async with session.put("/collections/c", json=CREATE):
            # It may be there already: the engine is the module's.
            pass
        yield session


async def refusal(session: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> tuple[int, str]:
    async with session.request(method, path, json=body) as response:
        answer = await response.json()
        assert "error" in answer["status"], answer
        assert answer["time"] >= 0
        return response.status, answer["status"]["error"]


UNSUPPORTED: list[tuple[str, str, Any, str]] = [
    ("PUT", "/collections/x", {"vectors": {}}, "a collection without `vectors` and `sparse_vectors`"),
    ("PUT", "/collections/x", {**CREATE, "sharding_method": "custom"}, "the field `sharding_method`"),
    (
        "PUT",
        "/collections/x",
        {**CREATE, "quantization_config": {"product": {"compression": "x16"}}},
        "the field `quantization_config.product`",
    ),
    ("PUT", "/collections/x", {**CREATE, "wal_config": {}}, "the field `wal_config`"),
    (
        "PUT",
        "/collections/x",
        {"vectors": {"d": {"size": 4, "distance": "Dot", "multivector_config": {"comparator": "max_sim"}}}},
        "the field `vectors.d.multivector_config`",
    ),
    ("PATCH", "/collections/c", {"optimizers_config": {}}, "the field `optimizers_config`"),
    ("PUT", "/collections/c/index", {"field_name": "g", "field_schema": "geo"}, "geo indexes (`field_schema`)"),
    ("PUT", "/collections/c/points", {"points": [], "shard_key": "a"}, "the field `shard_key`"),
    (
        "PUT",
        "/collections/c/points",
        {"points": [{"id": 1, "vector": {"dense": {"text": "a", "model": "m"}}}]},
        "inference (`points[0].vector.dense.text`): send the vector itself",
    ),
    (
        "PUT",
        "/collections/c/points",
        {"points": [{"id": 1, "vector": {"dense": [[1, 2, 3, 4]]}}]},
        "multivectors (`points[0].vector.dense`)",
    ),
    (
        "POST",
        "/collections/c/points/batch",
        {"operations": [{"update_vectors": {"points": []}}]},
        "the field `operations[0].update_vectors`",
    ),
    ("POST", "/collections/c/points/query", {"query": {"recommend": {}}}, "the field `query.recommend`"),
    ("POST", "/collections/c/points/query", {"lookup_from": {"collection": "x"}}, "the field `lookup_from`"),
    (
        "POST",
        "/collections/c/points/query",
        {"query": {"nearest": [1, 2, 3, 4], "mmr": {}}, "using": "dense"},
        "the field `query.mmr`",
    ),
    (
        "POST",
        "/collections/c/points/query",
        {"prefetch": {"query": [1], "params": {"acorn": {}}}, "query": {"fusion": "rrf"}},
        "the field `prefetch[0].params.acorn`",
    ),
    (
        "POST",
        "/collections/c/points/count",
        {"filter": {"must": [{"key": "p", "geo_radius": {}}]}},
        "the field `filter.must[0].geo_radius`",
    ),
    ("POST", "/collections/c/points/search", {"vector": [1]}, "the route POST /collections/c/points/search"),
    ("POST", "/collections/c/snapshots", {}, "the route POST /collections/c/snapshots"),
    ("GET", "/cluster", None, "the route GET /cluster"),
]


@pytest.mark.parametrize(("method", "path", "body", "what"), UNSUPPORTED, ids=str)
async def test_what_is_not_supported_is_refused_by_name(
    session: aiohttp.ClientSession, method: str, path: str, body: Any, what: str
) -> None:
    status, message = await refusal(session, method, path, body)
    assert 400 <= status < 500
    assert message == f"Bad request: not supported by the embedded engine: {what}"


async def test_a_field_that_is_null_counts_as_left_out(session: aiohttp.ClientSession) -> None:
    body = {"query": None, "shard_key": None, "lookup_from": None, "params": None, "filter": None, "limit": None}
    async with session.post("/collections/c/points/query", json=body) as response:
        assert response.status == 200


def nested(levels: int) -> dict[str, Any]:
    condition: dict[str, Any] = {"key": "n", "match": {"value": 1}}
    for _ in range(levels):
        condition = {"must": [condition]}
    return condition


async def test_a_deep_filter_is_refused_before_it_is_converted(session: aiohttp.ClientSession) -> None:
    async with session.post("/collections/c/points/count", json={"filter": nested(15)}) as response:
        assert response.status == 200
    status, message = await refusal(session, "POST", "/collections/c/points/count", {"filter": nested(400)})
    assert (status, message.partition("engine: ")[2]) == (400, f"more than {MAX_DEPTH} levels of nesting in `filter`")


async def test_nesting_beyond_the_parser_is_a_400(session: aiohttp.ClientSession) -> None:
    body = b'{"filter":' + b'{"must":' * 10_000 + b"{}" + b"}" * 10_001
    async with session.post("/collections/c/points/count", data=body, headers=JSON_HEADERS) as response:
        assert response.status == 400


async def test_deep_prefetches_are_refused(session: aiohttp.ClientSession) -> None:
    body: dict[str, Any] = {"query": [1, 2, 3, 4], "using": "dense"}
    for _ in range(300):
        body = {"prefetch": [body], "query": {"fusion": "rrf"}}
    assert (await refusal(session, "POST", "/collections/c/points/query", body))[0] == 400


async def test_too_many_clauses_are_refused(session: aiohttp.ClientSession) -> None:
    condition = {"should": [{"key": "n", "match": {"value": n}} for n in range(15_000)]}
    status, message = await refusal(session, "POST", "/collections/c/points/count", {"filter": condition})
    assert status == 400
    assert "clauses in `filter`" in message


async def test_a_body_over_the_limit_is_a_413(session: aiohttp.ClientSession) -> None:
    async def megabytes() -> AsyncIterator[bytes]:
        for _ in range(66):
            yield b" " * 2**20

    async with session.put("/collections/c/points", data=megabytes(), headers=JSON_HEADERS) as response:
        assert response.status == 413
        assert "larger than allowed" in (await response.json())["status"]["error"]


async def test_a_body_that_is_not_declared_as_json_is_refused(session: aiohttp.ClientSession) -> None:
    async with session.post("/collections/c/points/delete", data=b'{"filter":{}}') as response:
        assert response.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b'{"points":[{"id":1,"vector":{"dense":[1e39,0,0,0]}}]}',
        b'{"points":[{"id":1,"vector":{"dense":[1e400,0,0,0]}}]}',
        b'{"points":[{"id":18446744073709551616,"vector":{}}]}',
        b'{"points":[{"id":' + b"9" * 10_000 + b',"vector":{}}]}',
        b'{"points":[{"id":1,"vector":{"sparse":{"indices":[4294967296],"values":[1]}}}]}',
        b'{"points":[{"id":1,"vector":{"sparse":{"indices":[-1],"values":[1]}}}]}',
        b'{"points":[{"id":1,"vector":{"sparse":{"indices":[1],"values":["1"]}}}]}',
        b'{"points":[{"id":1,"vector":{"dense":[true,0,0,0]}}]}',
        b'{"points":[{"id":1,"vector":{"dense":[null,0,0,0]}}]}',
        b'{"points":[{"id":1,"vector":{},"payload":{"a":"\\ud800"}}]}',
        b"\xff",
    ],
)
async def test_numbers_and_text_out_of_range_are_refused(session: aiohttp.ClientSession, body: bytes) -> None:
    async with session.put("/collections/c/points", data=body, headers=JSON_HEADERS) as response:
        assert response.status == 400, await response.text()
        assert len(await response.text()) < 1000


@pytest.mark.parametrize(
    "name", ["x" * 256, "a%7Cb", "%00", "a%3Ab", "%2e%2e%2fx"], ids=["long", "pipe", "nul", "colon", "dots"]
)
async def test_a_bad_collection_name_is_refused(engine: Engine, name: str) -> None:
    async with aiohttp.ClientSession(requote_redirect_url=False) as session:
        from yarl import URL

        url = URL(f"{engine.url}/collections/{name}", encoded=True)
        async with session.put(url, json=CREATE) as response:
            assert response.status in (400, 404, 422)


async def test_a_write_that_fails_in_its_second_half_leaves_the_engine_well(session: aiohttp.ClientSession) -> None:
    points = [{"id": n, "vector": {"dense": [1, 2, 3, 4]}} for n in range(3)]
    points.append({"id": 9, "vector": {"dense": [1]}})
    assert (await refusal(session, "PUT", "/collections/c/points", {"points": points}))[0] == 400
    async with session.post("/collections/c/points/count", json={}) as response:
        assert (await response.json())["result"] == {"count": 0}


# Any JSON at all: a converter returns, or refuses; it never raises anything else that would be a 500.

KEYS = st.sampled_from(
    [
        "must",
        "should",
        "must_not",
        "min_should",
        "key",
        "match",
        "value",
        "any",
        "except",
        "range",
        "gte",
        "is_empty",
        "has_id",
        "nested",
        "filter",
        "conditions",
        "min_count",
        "points",
        "batch",
        "ids",
        "vectors",
        "payloads",
        "id",
        "vector",
        "payload",
        "indices",
        "values",
        "dense",
        "sparse",
        "query",
        "prefetch",
        "using",
        "fusion",
        "rrf",
        "k",
        "nearest",
        "limit",
        "offset",
        "params",
        "exact",
        "with_payload",
        "include",
        "with_vector",
        "order_by",
        "operations",
        "upsert",
        "delete",
        "set_payload",
        "keys",
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["a", "", "rrf", "dense", "a[", "2024-01-01", "550e8400-e29b-41d4-a716-446655440000"]),
)
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=20,
)


def converted(value: Any) -> None:
    def lookup(_id: Any, _name: str) -> list[float]:
        return [1.0, 2.0, 3.0, 4.0]

    for convert in (
        lambda: to_filter(value),
        lambda: updates.upsert(value, SCHEMA),
        lambda: updates.batch(value, SCHEMA),
        lambda: updates.set_payload(value, SCHEMA),
        lambda: updates.delete(value, SCHEMA),
        lambda: reads.query(value, lookup),
        lambda: reads.scroll(value),
        lambda: reads.retrieve(value),
    ):
        try:
            convert()
        except (RefusedError, ValueError, TypeError, OverflowError):
            # The engine's own converters say the last three: a 400 as well (`shard.from_engine`).
            continue


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ANY_JSON)
def test_any_json_is_converted_or_refused(value: Any) -> None:
    json.dumps(value)
    converted(value)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["must", "should", "must_not"]), ANY_JSON, min_size=1))
def test_any_filter_is_converted_or_refused(value: Any) -> None:
    converted({"filter": value})
    converted(value)
