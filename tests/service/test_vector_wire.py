"""The wire between us and a vector store: the same requests, the same answers, from the engine and a true Qdrant.

Raw REST, and the unmodified AsyncQdrantClient. Scores are fixed numbers, compared to four digits.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from qdrant_client import AsyncQdrantClient, models

UUID = "550e8400-e29b-41d4-a716-446655440000"


class Wire:
    """Raw REST to one collection."""

    def __init__(self, session: aiohttp.ClientSession, collection: str) -> None:
        self.session = session
        self.collection = collection

    async def send(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request and return its status and its JSON."""
        async with self.session.request(method, path, json=body) as response:
            return response.status, await response.json()

    async def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to the collection and return the result; it must be a 200."""
        status, answer = await self.send(method, f"/collections/{self.collection}{path}", body)
        assert status == 200, answer
        assert answer["status"] == "ok"
        assert answer["time"] >= 0
        return answer["result"]

    async def refused(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Send a request to the collection and return the status and the message of the refusal."""
        status, answer = await self.send(method, f"/collections/{self.collection}{path}", body)
        assert status >= 400, answer
        return status, answer["status"]["error"]

    async def query(self, **body: Any) -> list[tuple[Any, float]]:
        """Search, and return ids and scores to four digits."""
        result = await self("POST", "/points/query", body)
        return [(point["id"], round(point["score"], 4)) for point in result["points"]]

    async def ids(self, condition: Any) -> list[Any]:
        """Return the ids of the points that a filter selects, in order."""
        page = {"filter": condition, "limit": 100, "with_payload": False}
        return [point["id"] for point in (await self("POST", "/points/scroll", page))["points"]]


def point(number: int) -> dict[str, Any]:
    """Return point `number` (0 to 5) of the data that most tests search."""
    return {
        "id": number,
        "vector": {
            "dense": [1, number, 0.5, 0],
            "sparse": {"indices": [1, number + 2], "values": [1, 2]},
        },
        "payload": {
            "n": number,
            "kind": "odd" if number % 2 else "even",
            "even": number % 2 == 0,
            "half": number / 2,
            "tags": ["all", str(number)],
            "nothing": None,
            "day": f"2024-01-0{number + 1}T00:00:00Z",
            "pairs": [{"p": number, "q": 1}, {"p": 1, "q": number}],
            "text": f"Hello World number {number}",
        },
    }


CREATE = {
    "vectors": {"dense": {"size": 4, "distance": "Cosine"}},
    "sparse_vectors": {"sparse": {"modifier": "idf"}},
    "metadata": {"model": "m", "nested": {"a": [1]}},
}
INDEXES = {
    "n": "integer",
    "kind": {"type": "keyword", "is_tenant": True},
    "even": "bool",
    "half": "float",
    "day": "datetime",
    "tags": "keyword",
    "text": {"type": "text", "tokenizer": "word", "lowercase": True},
}


@pytest.fixture
async def empty(vector_url: str, collection_name: str) -> AsyncIterator[Wire]:
    async with aiohttp.ClientSession(vector_url) as session:
        wire = Wire(session, collection_name)
        assert await wire("PUT", "", CREATE) is True
        yield wire
        await wire("DELETE", "")


def _prepare(url: str, name: str, requests: list[tuple[str, str, Any]]) -> None:
    for method, path, body in requests:
        request = urllib.request.Request(
            f"{url}/collections/{name}{path}",
            method=method,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            assert response.status == 200


@pytest.fixture(scope="module")
def stocked_name(vector_url: str) -> Iterator[str]:
    """A collection with the six points and no index, which no test changes."""
    name = f"test-{uuid4().hex}"
    points = {"points": [point(number) for number in range(6)]}
    _prepare(vector_url, name, [("PUT", "", CREATE), ("PUT", "/points?wait=true", points)])
    yield name
    _prepare(vector_url, name, [("DELETE", "", None)])


@pytest.fixture(scope="module")
def indexed_name(vector_url: str) -> Iterator[str]:
    """A collection with the six points and an index on every field, which no test changes."""
    name = f"test-{uuid4().hex}"
    points = {"points": [point(number) for number in range(6)]}
    indexes = [
        ("PUT", "/index?wait=true", {"field_name": field, "field_schema": schema}) for field, schema in INDEXES.items()
    ]
    _prepare(vector_url, name, [("PUT", "", CREATE), ("PUT", "/points?wait=true", points), *indexes])
    yield name
    _prepare(vector_url, name, [("DELETE", "", None)])


@pytest.fixture
async def stocked(vector_url: str, stocked_name: str) -> AsyncIterator[Wire]:
    async with aiohttp.ClientSession(vector_url) as session:
        yield Wire(session, stocked_name)


@pytest.fixture
async def indexed(vector_url: str, indexed_name: str) -> AsyncIterator[Wire]:
    async with aiohttp.ClientSession(vector_url) as session:
        yield Wire(session, indexed_name)


@pytest.fixture
async def wire(empty: Wire) -> Wire:
    """A collection of the test's own with the six points."""
    result = await empty("PUT", "/points?wait=true", {"points": [point(number) for number in range(6)]})
    assert result["status"] == "completed"
    return empty


@pytest.fixture
async def client(vector_url: str) -> AsyncIterator[AsyncQdrantClient]:
    client = AsyncQdrantClient(url=vector_url, check_compatibility=False, timeout=30)
    yield client
    await client.close()


# Collections


async def test_a_collection_shows_its_parameters_and_its_metadata(empty: Wire) -> None:
    info = await empty("GET", "")
    assert info["status"] == "green"
    assert info["optimizer_status"] == "ok"
    assert info["points_count"] == 0
    assert info["payload_schema"] == {}
    config = info["config"]
    assert config["params"]["vectors"] == CREATE["vectors"]
    assert config["params"]["sparse_vectors"] == CREATE["sparse_vectors"]
    assert config["metadata"] == CREATE["metadata"]
    assert (await empty("GET", "/exists")) == {"exists": True}
    status, answer = await empty.send("GET", "/collections")
    assert status == 200
    assert {"name": empty.collection} in answer["result"]["collections"]


async def test_metadata_is_merged_and_null_removes_a_key(empty: Wire) -> None:
    assert await empty("PATCH", "", {"metadata": {"model": None, "more": 1}}) is True
    assert (await empty("GET", ""))["config"]["metadata"] == {"nested": {"a": [1]}, "more": 1}


async def test_a_collection_that_exists_is_a_conflict(empty: Wire) -> None:
    status, message = await empty.refused("PUT", "", CREATE)
    assert status == 409
    assert message == f"Wrong input: Collection `{empty.collection}` already exists!"


async def test_deleting_an_unknown_collection_answers_false(vector_url: str) -> None:
    async with aiohttp.ClientSession(vector_url) as session:
        status, answer = await Wire(session, "").send("DELETE", "/collections/no-such")
        assert (status, answer["result"]) == (200, False)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("PUT", "/points", {"points": [point(1)]}),
        ("POST", "/points/query", {"limit": 1}),
        ("POST", "/points/count", {}),
        ("POST", "/points/batch", {"operations": [{"delete": {"points": [1]}}]}),
    ],
)
async def test_an_unknown_collection_is_not_found(vector_url: str, method: str, path: str, body: Any) -> None:
    async with aiohttp.ClientSession(vector_url) as session:
        status, message = await Wire(session, "no-such").refused(method, path, body)
    assert (status, message) == (404, "Not found: Collection `no-such` doesn't exist!")


async def test_an_alias_stands_for_its_collection_until_it_is_moved(wire: Wire) -> None:
    alias = wire.collection + "-alias"
    create = {"create_alias": {"alias_name": alias, "collection_name": wire.collection}}
    assert (await wire.send("POST", "/collections/aliases", {"actions": [create]}))[0] == 200
    _, answer = await wire.send("POST", f"/collections/{alias}/points/count", {})
    assert answer["result"] == {"count": 6}
    expected = [{"alias_name": alias, "collection_name": wire.collection}]
    assert (await wire("GET", "/aliases"))["aliases"] == expected
    rename = {"rename_alias": {"old_alias_name": alias, "new_alias_name": alias + "2"}}
    assert (await wire.send("POST", "/collections/aliases", {"actions": [rename]}))[0] == 200
    assert (await wire.send("POST", f"/collections/{alias}/points/count", {}))[0] == 404
    delete = {"delete_alias": {"alias_name": alias + "2"}}
    assert (await wire.send("POST", "/collections/aliases", {"actions": [delete]}))[0] == 200
    assert (await wire("GET", "/aliases"))["aliases"] == []


async def test_an_alias_of_an_unknown_collection_is_not_found(empty: Wire) -> None:
    create = {"create_alias": {"alias_name": "a", "collection_name": "no-such"}}
    status, answer = await empty.send("POST", "/collections/aliases", {"actions": [create]})
    assert status == 404
    assert "`no-such`" in answer["status"]["error"]


async def test_an_index_shows_its_type_and_parameters(indexed: Wire) -> None:
    schema = (await indexed("GET", ""))["payload_schema"]
    assert {name: item["data_type"] for name, item in schema.items()} == {
        "n": "integer",
        "kind": "keyword",
        "even": "bool",
        "half": "float",
        "day": "datetime",
        "tags": "keyword",
        "text": "text",
    }
    assert schema["kind"]["params"] == {"type": "keyword", "is_tenant": True}
    assert schema["n"]["points"] == 6


async def test_an_index_can_be_removed(empty: Wire) -> None:
    await empty("PUT", "/index?wait=true", {"field_name": "n", "field_schema": "integer"})
    assert "n" in (await empty("GET", ""))["payload_schema"]
    await empty("DELETE", "/index/n?wait=true")
    assert (await empty("GET", ""))["payload_schema"] == {}


# Writes


async def test_points_are_retrieved_in_the_order_asked_with_what_was_asked(stocked: Wire) -> None:
    body = {"ids": [3, 99, 1], "with_payload": ["n", "kind"], "with_vector": ["sparse"]}
    assert await stocked("POST", "/points", body) == [
        {
            "id": 3,
            "payload": {"n": 3, "kind": "odd"},
            "vector": {"sparse": {"indices": [1, 5], "values": [1.0, 2.0]}},
        },
        {
            "id": 1,
            "payload": {"n": 1, "kind": "odd"},
            "vector": {"sparse": {"indices": [1, 3], "values": [1.0, 2.0]}},
        },
    ]
    assert await stocked("POST", "/points", {"ids": [3]}) == [{"id": 3}]


async def test_payload_fields_are_included_or_excluded(stocked: Wire) -> None:
    include = {"ids": [1], "with_payload": {"include": ["n"]}}
    assert (await stocked("POST", "/points", include))[0]["payload"] == {"n": 1}
    exclude = {"ids": [1], "with_payload": {"exclude": ["pairs", "text", "tags", "day"]}}
    assert (await stocked("POST", "/points", exclude))[0]["payload"] == {
        "n": 1,
        "kind": "odd",
        "even": False,
        "half": 0.5,
        "nothing": None,
    }


async def test_one_point_comes_with_payload_and_vectors(stocked: Wire) -> None:
    found = await stocked("GET", "/points/1")
    assert found["payload"] == point(1)["payload"]
    assert [round(x, 4) for x in found["vector"]["dense"]] == [0.6667, 0.6667, 0.3333, 0]
    assert await stocked.refused("GET", "/points/99") == (404, "Not found: Point with id 99 does not exists!")
    assert (await stocked.refused("GET", "/points/abc"))[0] == 400


async def test_a_uuid_in_any_form_is_one_id(empty: Wire) -> None:
    points = [{"id": UUID.replace("-", ""), "vector": {}, "payload": {"u": 1}}]
    await empty("PUT", "/points?wait=true", {"points": points})
    body = {"ids": [UUID.upper()], "with_payload": True, "with_vector": True}
    assert await empty("POST", "/points", body) == [{"id": UUID, "payload": {"u": 1}, "vector": {}}]


async def test_columns_are_points(empty: Wire) -> None:
    batch = {
        "ids": [20, 21],
        "vectors": {
            "dense": [[1, 2, 3, 4], [4, 3, 2, 1]],
            "sparse": [{"indices": [9, 3], "values": [1, 2]}, {"indices": [], "values": []}],
        },
        "payloads": [{"n": 20}, None],
    }
    await empty("PUT", "/points?wait=true", {"batch": batch})
    body = {"ids": [20, 21], "with_payload": True, "with_vector": ["sparse"]}
    assert await empty("POST", "/points", body) == [
        {"id": 20, "payload": {"n": 20}, "vector": {"sparse": {"indices": [3, 9], "values": [2.0, 1.0]}}},
        {"id": 21, "payload": {}, "vector": {"sparse": {"indices": [], "values": []}}},
    ]


async def test_an_update_filter_protects_what_it_does_not_select(wire: Wire) -> None:
    newer = {"points": [{**point(1), "payload": {"n": 100}}, {**point(2), "payload": {"n": 200}}]}
    newer["update_filter"] = {"must": [{"key": "n", "match": {"value": 2}}]}  # type: ignore[assignment]
    await wire("PUT", "/points?wait=true", newer)
    found = await wire("POST", "/points", {"ids": [1, 2], "with_payload": ["n"]})
    assert [item["payload"]["n"] for item in found] == [1, 200]


async def test_points_are_deleted_by_id_and_by_filter(wire: Wire) -> None:
    await wire("POST", "/points/delete?wait=true", {"points": [0, 777]})
    by_filter = {"filter": {"must": [{"key": "kind", "match": {"value": "odd"}}]}}
    await wire("POST", "/points/delete?wait=true", by_filter)
    assert await wire.ids(None) == [2, 4]


async def test_payloads_are_merged_replaced_trimmed_and_cleared(wire: Wire) -> None:
    await wire("POST", "/points/payload?wait=true", {"payload": {"z": 1}, "points": [1]})
    chosen = {"must": [{"key": "n", "match": {"value": 2}}]}
    await wire("POST", "/points/payload?wait=true", {"payload": {"z": 2}, "filter": chosen, "key": "deep"})
    await wire("PUT", "/points/payload?wait=true", {"payload": {"only": 1}, "points": [3]})
    keys = ["text", "pairs", "day", "tags", "nothing", "half"]
    await wire("POST", "/points/payload/delete?wait=true", {"keys": keys, "points": [4]})
    await wire("POST", "/points/payload/clear?wait=true", {"points": [5]})
    found = await wire("POST", "/points", {"ids": [1, 2, 3, 4, 5], "with_payload": True})
    payloads = [item["payload"] for item in found]
    assert payloads[0] == {**point(1)["payload"], "z": 1}
    assert payloads[1] == {**point(2)["payload"], "deep": {"z": 2}}
    assert payloads[2:] == [{"only": 1}, {"n": 4, "kind": "even", "even": True}, {}]


async def test_a_payload_for_a_point_that_is_not_there_is_not_found(stocked: Wire) -> None:
    status, message = await stocked.refused("POST", "/points/payload?wait=true", {"payload": {"z": 1}, "points": [777]})
    assert (status, message) == (404, "Not found: No point with id 777 found")


async def test_a_batch_applies_its_operations_in_order(wire: Wire) -> None:
    operations = [
        {"upsert": {"points": [{"id": 9, "vector": {"dense": [1, 0, 0, 0]}, "payload": {"a": 1}}]}},
        {"set_payload": {"payload": {"b": 1}, "points": [9]}},
        {"delete": {"points": [1]}},
        {"overwrite_payload": {"payload": {"o": 1, "p": 2}, "points": [2]}},
        {"delete_payload": {"keys": ["o"], "points": [2]}},
        {"clear_payload": {"points": [3]}},
    ]
    results = await wire("POST", "/points/batch?wait=true", {"operations": operations})
    assert [result["status"] for result in results] == ["completed"] * 6
    found = await wire("POST", "/points", {"ids": [9, 1, 2, 3], "with_payload": True})
    assert found == [
        {"id": 9, "payload": {"a": 1, "b": 1}},
        {"id": 2, "payload": {"p": 2}},
        {"id": 3, "payload": {}},
    ]


# Searches


async def test_dense_scores_are_cosines(stocked: Wire) -> None:
    assert await stocked.query(query=[1, 1, 1, 1], using="dense", limit=4) == [
        (1, 0.8333),
        (2, 0.7638),
        (3, 0.7028),
        (0, 0.6708),
    ]


async def test_sparse_scores_weigh_rare_terms_more(stocked: Wire) -> None:
    query = {"indices": [1, 5], "values": [1, 1]}
    found = await stocked.query(query=query, using="sparse", limit=10)
    assert found[0] == (3, 3.155)
    assert {score for _, score in found[1:]} == {0.0741}
    assert len(found) == 6


async def test_a_search_by_id_leaves_that_point_out(stocked: Wire) -> None:
    assert await stocked.query(query=3, using="dense", limit=2) == [(4, 0.9965), (5, 0.9907)]
    status, message = await stocked.refused("POST", "/points/query", {"query": 99, "using": "dense"})
    assert (status, message) == (404, "Not found: No point with id 99 found")


async def test_reciprocal_ranks_are_fused(stocked: Wire) -> None:
    prefetch = [
        {"query": [1, 1, 1, 1], "using": "dense", "limit": 4},
        {"query": {"indices": [5], "values": [1]}, "using": "sparse", "limit": 4},
    ]
    assert await stocked.query(query={"fusion": "rrf"}, prefetch=prefetch, limit=3) == [
        (3, 0.75),
        (1, 0.5),
        (2, 0.3333),
    ]
    assert await stocked.query(query={"rrf": {"k": 60}}, prefetch=prefetch, limit=2) == [
        (3, 0.0328),
        (1, 0.0167),
    ]


async def test_score_distributions_are_fused(stocked: Wire) -> None:
    prefetch = [
        {"query": [1, 1, 1, 1], "using": "dense", "limit": 4},
        {"query": {"indices": [5, 6], "values": [2, 1]}, "using": "sparse", "limit": 4},
    ]
    assert await stocked.query(query={"fusion": "dbsf"}, prefetch=prefetch, limit=4) == [
        (3, 1.0251),
        (1, 0.7108),
        (2, 0.549),
        (4, 0.3821),
    ]


async def test_a_prefetch_is_rescored_by_the_query(stocked: Wire) -> None:
    prefetch = {"query": {"indices": [4, 5], "values": [1, 1]}, "using": "sparse", "limit": 2}
    found = await stocked.query(query=[1, 1, 1, 1], using="dense", prefetch=prefetch, limit=5)
    assert found == [(2, 0.7638), (3, 0.7028)]


async def test_threshold_offset_and_parameters_shape_the_answer(stocked: Wire) -> None:
    search = {"query": [1, 1, 1, 1], "using": "dense"}
    assert await stocked.query(**search, score_threshold=0.75) == [(1, 0.8333), (2, 0.7638)]
    assert await stocked.query(**search, offset=1, limit=1) == [(2, 0.7638)]
    exact = {"exact": True, "hnsw_ef": 32}
    assert await stocked.query(**search, params=exact, limit=1) == [(1, 0.8333)]


async def test_a_search_gives_the_payload_and_vectors_that_are_asked_for(stocked: Wire) -> None:
    body = {"query": [1, 0, 0, 0], "using": "dense", "limit": 1}
    (bare,) = (await stocked("POST", "/points/query", body))["points"]
    assert set(bare) == {"id", "version", "score"}
    body |= {"with_payload": ["n"], "with_vector": ["dense"]}
    (full,) = (await stocked("POST", "/points/query", body))["points"]
    assert full["payload"] == {"n": 0}
    assert [round(x, 4) for x in full["vector"]["dense"]] == [0.8944, 0, 0.4472, 0]


async def test_points_are_ordered_by_a_payload_field(indexed: Wire) -> None:
    body = {"query": {"order_by": {"key": "n", "direction": "desc"}}, "limit": 2}
    points = (await indexed("POST", "/points/query", body))["points"]
    assert [item["id"] for item in points] == [5, 4]
    since = {"key": "day", "start_from": "2024-01-03T00:00:00Z"}
    page = await indexed("POST", "/points/scroll", {"order_by": since, "limit": 2, "with_payload": False})
    assert [item["id"] for item in page["points"]] == [2, 3]
    assert page["next_page_offset"] is None


async def test_ordering_without_an_index_is_refused(stocked: Wire) -> None:
    status, message = await stocked.refused("POST", "/points/scroll", {"order_by": "n"})
    assert status == 400
    assert "No range index for `order_by` key: `n`" in message


async def test_a_batch_of_searches_answers_each(stocked: Wire) -> None:
    searches = [
        {"query": [1, 1, 1, 1], "using": "dense", "limit": 1},
        {"query": {"indices": [5], "values": [1]}, "using": "sparse", "limit": 1, "with_payload": ["n"]},
        {"query": 3, "using": "dense", "limit": 1},
    ]
    results = await stocked("POST", "/points/query/batch", {"searches": searches})
    assert [result["points"][0]["id"] for result in results] == [1, 3, 4]
    assert results[1]["points"][0]["payload"] == {"n": 3}


async def test_pages_follow_the_offset(stocked: Wire) -> None:
    first = await stocked("POST", "/points/scroll", {"limit": 4})
    assert [item["id"] for item in first["points"]] == [0, 1, 2, 3]
    assert first["points"][1]["payload"] == point(1)["payload"]
    assert first["next_page_offset"] == 4
    rest = await stocked("POST", "/points/scroll", {"limit": 4, "offset": 4, "with_payload": False})
    assert rest == {"points": [{"id": 4}, {"id": 5}], "next_page_offset": None}


async def test_values_of_a_field_are_counted(indexed: Wire) -> None:
    hits = (await indexed("POST", "/facet", {"key": "kind", "exact": True}))["hits"]
    assert sorted((hit["value"], hit["count"]) for hit in hits) == [("even", 3), ("odd", 3)]


async def test_a_collection_of_one_unnamed_vector(vector_url: str, collection_name: str) -> None:
    async with aiohttp.ClientSession(vector_url) as session:
        wire = Wire(session, collection_name)
        await wire("PUT", "", {"vectors": {"size": 3, "distance": "Euclid"}})
        points = [{"id": 1, "vector": [1, 2, 3]}, {"id": 2, "vector": [3, 2, 1]}]
        await wire("PUT", "/points?wait=true", {"points": points})
        await wire("PUT", "/points?wait=true", {"batch": {"ids": [3], "vectors": [[0, 0, 1]]}})
        assert await wire.query(query=[1, 2, 2]) == [(1, 1.0), (2, 2.2361), (3, 2.4495)]
        assert (await wire("GET", "/points/1"))["vector"] == [1.0, 2.0, 3.0]
        await wire("DELETE", "")


# Filters


def field(key: str, **condition: Any) -> dict[str, Any]:
    return {"key": key, **condition}


FILTERS: list[tuple[Any, list[int]]] = [
    (None, [0, 1, 2, 3, 4, 5]),
    ({}, [0, 1, 2, 3, 4, 5]),
    ({"must": field("kind", match={"value": "odd"})}, [1, 3, 5]),
    ({"must": [field("even", match={"value": True})]}, [0, 2, 4]),
    ({"must": [field("even", match={"value": False})]}, [1, 3, 5]),
    ({"must": [field("n", match={"value": 3})]}, [3]),
    ({"must": [field("tags", match={"any": ["2", "3"]})]}, [2, 3]),
    ({"must": [field("n", match={"any": []})]}, []),
    ({"must": [field("kind", match={"except": ["odd"]})]}, [0, 2, 4]),
    ({"must": [field("n", range={"gte": 2, "lt": 4})]}, [2, 3]),
    ({"must": [field("half", range={"gt": 1.5})]}, [4, 5]),
    ({"must": [field("day", range={"gte": "2024-01-05T00:00:00Z"})]}, [4, 5]),
    ({"must": [field("tags", values_count={"gte": 3})]}, []),
    ({"must": [{"is_empty": {"key": "nothing"}}]}, [0, 1, 2, 3, 4, 5]),
    ({"must": [{"is_null": {"key": "nothing"}}]}, [0, 1, 2, 3, 4, 5]),
    ({"must": [{"is_empty": {"key": "n"}}]}, []),
    ({"must": [{"has_id": [1, 4, 77]}]}, [1, 4]),
    ({"must": [{"has_vector": "dense"}]}, [0, 1, 2, 3, 4, 5]),
    ({"must": [field("pairs[].q", match={"value": 4})]}, [4]),
    (
        {
            "must": [
                {
                    "nested": {
                        "key": "pairs",
                        "filter": {"must": [field("p", match={"value": 1}), field("q", range={"gte": 4})]},
                    }
                }
            ]
        },
        [4, 5],
    ),
    ({"should": [field("n", match={"value": 1}), {"must": [field("n", match={"value": 2})]}]}, [1, 2]),
    ({"must_not": [field("kind", match={"value": "odd"}), {"has_id": [0]}]}, [2, 4]),
    (
        {
            "min_should": {
                "conditions": [field("n", range={"gte": 2}), field("kind", match={"value": "odd"})],
                "min_count": 2,
            }
        },
        [3, 5],
    ),
    (
        {
            "must": [field("kind", match={"value": "odd"})],
            "must_not": [field("n", match={"value": 3})],
            "should": [field("n", range={"lt": 4}), {"has_id": [5]}],
        },
        [1, 5],
    ),
]


# Full text is found word by word only through its index.
TEXT_FILTERS: list[tuple[Any, list[int]]] = [
    ({"must": [field("text", match={"text": "world 3"})]}, [3]),
    ({"must": [field("text", match={"text_any": "3 4 zzz"})]}, [3, 4]),
]


@pytest.mark.parametrize(("condition", "expected"), FILTERS, ids=str)
async def test_a_filter_selects(stocked: Wire, condition: Any, expected: list[int]) -> None:
    assert await stocked.ids(condition) == expected
    assert (await stocked("POST", "/points/count", {"filter": condition})) == {"count": len(expected)}


@pytest.mark.parametrize(("condition", "expected"), FILTERS + TEXT_FILTERS, ids=str)
async def test_a_filter_selects_the_same_by_index(indexed: Wire, condition: Any, expected: list[int]) -> None:
    assert await indexed.ids(condition) == expected
    assert (await indexed("POST", "/points/count", {"filter": condition, "exact": True})) == {"count": len(expected)}
    found = await indexed.query(query=[1, 1, 1, 1], using="dense", filter=condition)
    assert sorted(identifier for identifier, _ in found) == expected


# Refusals that are the same on both


REFUSALS: list[tuple[str, str, Any, int]] = [
    ("PUT", "/points", {"points": []}, 400),
    ("PUT", "/points", {"points": [{"id": 1}]}, 400),
    ("PUT", "/points", {"points": [{"vector": {}}]}, 400),
    ("PUT", "/points", {"points": [{"id": -1, "vector": {}}]}, 400),
    ("PUT", "/points", {"points": [{"id": 1.5, "vector": {}}]}, 400),
    ("PUT", "/points", {"points": [{"id": True, "vector": {}}]}, 400),
    ("PUT", "/points", {"points": [{"id": "x", "vector": {}}]}, 400),
    ("PUT", "/points", {"points": [{"id": 2**64 - 1, "vector": {"dense": [1, 2]}}]}, 400),
    ("PUT", "/points", {"points": [{"id": 1, "vector": {"nope": [1, 2, 3, 4]}}]}, 400),
    ("PUT", "/points", {"points": [{"id": 1, "vector": [1, 2, 3, 4]}]}, 400),
    ("PUT", "/points", {"points": [{"id": 1, "vector": {"dense": ["a", 1, 1, 1]}}]}, 400),
    ("PUT", "/points", {"points": [{"id": 1, "vector": {"dense": []}}]}, 422),
    ("PUT", "/points", {"points": [{"id": 1, "vector": {"sparse": [1, 2]}}]}, 400),
    ("PUT", "/points", {"points": [{"id": 1, "vector": {"dense": {"indices": [1], "values": [1]}}}]}, 400),
    ("PUT", "/points", {"points": [{"id": 1, "vector": {"sparse": {"indices": [1, 1], "values": [1, 2]}}}]}, 422),
    ("PUT", "/points", {"points": [{"id": 1, "vector": {"sparse": {"indices": [1], "values": [1, 2]}}}]}, 422),
    ("PUT", "/points", {"points": [{"id": 1, "vector": {}, "payload": 5}]}, 400),
    ("PUT", "/points", {"points": 5}, 400),
    ("PUT", "/points", {}, 400),
    ("PUT", "/points", [], 400),
    ("PUT", "/points", {"batch": {"ids": [1, 2], "vectors": {"dense": [[1, 2, 3, 4]]}}}, 422),
    ("PUT", "/points", {"batch": {"ids": [1], "vectors": {"dense": [[1, 2, 3, 4]]}, "payloads": []}}, 422),
    ("POST", "/points/delete", {}, 400),
    ("POST", "/points/delete", {"points": ["x"]}, 400),
    ("POST", "/points/payload", {"payload": {"a": 1}}, 400),
    ("POST", "/points/payload", {"points": [1]}, 400),
    ("POST", "/points/batch", {"operations": [{"frobnicate": {}}]}, 400),
    ("POST", "/points/query", {"limit": 0}, 422),
    ("POST", "/points/query", {"limit": -1}, 400),
    ("POST", "/points/query", {"limit": "5"}, 400),
    ("POST", "/points/query", {"query": [1, 1], "using": "dense"}, 400),
    ("POST", "/points/query", {"query": [1, 1, 1, 1], "using": "nope"}, 400),
    ("POST", "/points/query", {"query": [1, 1, 1, 1]}, 400),
    ("POST", "/points/query", {"query": [1, 1, 1, 1], "using": "sparse"}, 400),
    ("POST", "/points/query", {"query": {"indices": [1, 1], "values": [1, 1]}, "using": "sparse"}, 422),
    ("POST", "/points/query", {"query": {"fusion": "rrf"}}, 400),
    ("POST", "/points/query", {"query": {"fusion": "x"}, "prefetch": []}, 400),
    ("POST", "/points/query", {"prefetch": [{"query": [1, 1, 1, 1], "using": "dense"}]}, 400),
    ("POST", "/points/query", {"query": {"order_by": "n"}}, 400),
    ("POST", "/points/scroll", {"limit": 0}, 422),
    ("POST", "/points/scroll", {"offset": "zz"}, 400),
    ("POST", "/points/scroll", {"filter": {"must": [{"has_id": ["x"]}]}}, 400),
    ("POST", "/points/count", {"filter": {"must": [{"key": "n", "match": {"value": 1.5}}]}}, 400),
    ("POST", "/points/count", {"filter": {"must": [{"key": "n", "match": {}}]}}, 400),
    ("POST", "/points/count", {"filter": {"must": [{"key": "n"}]}}, 422),
    ("POST", "/points/count", {"filter": {"must": [{"key": "n[", "match": {"value": 1}}]}}, 400),
    ("POST", "/points/count", {"filter": {"must": [{"key": "n", "match": {"any": [1, "a"]}}]}}, 400),
    ("POST", "/points/count", {"filter": {"nope": []}}, 400),
    ("POST", "/points/count", {"filter": "x"}, 400),
    ("POST", "/points", {}, 400),
    ("POST", "/facet", {"key": "kind"}, 400),
    ("PUT", "/index", {"field_name": "n", "field_schema": "nope"}, 400),
    ("PUT", "/index", {"field_name": "n"}, 400),
    ("PUT", "/index", {"field_name": "a[", "field_schema": "keyword"}, 400),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), REFUSALS, ids=str)
async def test_a_bad_request_is_refused_and_changes_nothing(
    stocked: Wire, method: str, path: str, body: Any, status: int
) -> None:
    wait = "?wait=true" if path.startswith("/points") and path.count("/") < 3 else ""
    assert (await stocked.refused(method, path + wait, body))[0] == status
    assert await stocked.ids(None) == [0, 1, 2, 3, 4, 5]
    assert (await stocked("POST", "/points", {"ids": [1], "with_payload": True}))[0]["payload"] == point(1)["payload"]


@pytest.mark.parametrize("body", [b"", b"nope", b"{", b'{"limit": NaN}', b'"x', b"\xff\xfe"])
async def test_a_body_that_is_not_json_is_refused(stocked: Wire, body: bytes) -> None:
    path = f"/collections/{stocked.collection}/points/query"
    headers = {"Content-Type": "application/json"}
    async with stocked.session.post(path, data=body, headers=headers) as response:
        assert response.status == 400
        assert "error" in (await response.json())["status"]


# Health, and the client that everybody has


async def test_health_is_plain_text(vector_url: str) -> None:
    async with aiohttp.ClientSession(vector_url) as session:
        for path, text in (("/readyz", "all shards are ready"), ("/healthz", "healthz check passed")):
            async with session.get(path) as response:
                assert (response.status, await response.text()) == (200, text)
                assert response.content_type == "text/plain"
        async with session.get("/") as response:
            assert (await response.json())["title"] == "qdrant - vector search engine"


async def test_the_unmodified_client_does_what_it_does_with_a_server(
    client: AsyncQdrantClient, collection_name: str
) -> None:
    name = collection_name
    assert await client.create_collection(
        name,
        vectors_config={"dense": models.VectorParams(size=4, distance=models.Distance.COSINE)},
        sparse_vectors_config={"sparse": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        metadata={"model": "m"},
    )
    await client.create_payload_index(name, "n", models.PayloadSchemaType.INTEGER, wait=True)
    points = [models.PointStruct(**point(number)) for number in range(6)]
    assert (await client.upsert(name, points, wait=True)).status == models.UpdateStatus.COMPLETED
    odd = models.Filter(must=[models.FieldCondition(key="kind", match=models.MatchValue(value="odd"))])
    found = await client.query_points(
        name,
        prefetch=[
            models.Prefetch(query=[1.0, 1, 1, 1], using="dense", limit=4, filter=odd),
            models.Prefetch(query=models.SparseVector(indices=[5], values=[1]), using="sparse", limit=4),
        ],
        query=models.FusionQuery(fusion=models.Fusion.RRF),
        limit=2,
    )
    assert [(hit.id, round(hit.score, 4)) for hit in found.points] == [(3, 0.8333), (1, 0.5)]
    batch = await client.query_batch_points(
        name, [models.QueryRequest(query=[1.0, 1, 1, 1], using="dense", limit=1, with_payload=True)]
    )
    assert batch[0].points[0].payload == point(1)["payload"]
    records, following = await client.scroll(name, scroll_filter=odd, limit=2, with_vectors=True)
    assert ([record.id for record in records], following) == ([1, 3], 5)
    assert (await client.count(name, count_filter=odd)).count == 3
    await client.batch_update_points(
        name,
        [
            models.SetPayloadOperation(set_payload=models.SetPayload(payload={"z": 1}, points=[1])),
            models.DeleteOperation(delete=models.FilterSelector(filter=odd)),
        ],
        wait=True,
    )
    assert [record.id for record in await client.retrieve(name, list(range(6)))] == [0, 2, 4]
    info = await client.get_collection(name)
    assert info.points_count == 3
    assert info.config.metadata == {"model": "m"}
    assert await client.collection_exists(name)
    assert await client.delete_collection(name)
