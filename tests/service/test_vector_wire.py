"""Collections, writes, health and the unmodified client: the same answers from the engine and a true Qdrant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from qdrant_client import AsyncQdrantClient, models

from tests.service.vector_wire import CREATE, UUID, Wire, point


@pytest.fixture
async def client(vector_url: str) -> AsyncIterator[AsyncQdrantClient]:
    client = AsyncQdrantClient(url=vector_url, check_compatibility=False, timeout=30)
    yield client
    await client.close()


async def test_a_collection_shows_its_parameters_and_its_metadata(empty_wire: Wire) -> None:
    info = await empty_wire("GET", "")
    assert info["status"] == "green"
    assert info["optimizer_status"] == "ok"
    assert info["points_count"] == 0
    assert info["payload_schema"] == {}
    config = info["config"]
    assert config["params"]["vectors"] == CREATE["vectors"]
    assert config["params"]["sparse_vectors"] == CREATE["sparse_vectors"]
    assert config["metadata"] == CREATE["metadata"]
    assert (await empty_wire("GET", "/exists")) == {"exists": True}
    status, answer = await empty_wire.send("GET", "/collections")
    assert status == 200
    assert {"name": empty_wire.collection} in answer["result"]["collections"]


async def test_metadata_is_merged_and_null_removes_a_key(empty_wire: Wire) -> None:
    assert await empty_wire("PATCH", "", {"metadata": {"model": None, "more": 1}}) is True
    assert (await empty_wire("GET", ""))["config"]["metadata"] == {"nested": {"a": [1]}, "more": 1}


async def test_a_collection_that_exists_is_a_conflict(empty_wire: Wire) -> None:
    status, message = await empty_wire.refused("PUT", "", CREATE)
    assert status == 409
    assert message == f"Wrong input: Collection `{empty_wire.collection}` already exists!"


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


async def test_an_alias_stands_for_its_collection_until_it_is_moved(filled_wire: Wire) -> None:
    alias = filled_wire.collection + "-alias"
    create = {"create_alias": {"alias_name": alias, "collection_name": filled_wire.collection}}
    assert (await filled_wire.send("POST", "/collections/aliases", {"actions": [create]}))[0] == 200
    _, answer = await filled_wire.send("POST", f"/collections/{alias}/points/count", {})
    assert answer["result"] == {"count": 6}
    expected = [{"alias_name": alias, "collection_name": filled_wire.collection}]
    assert (await filled_wire("GET", "/aliases"))["aliases"] == expected
    rename = {"rename_alias": {"old_alias_name": alias, "new_alias_name": alias + "2"}}
    assert (await filled_wire.send("POST", "/collections/aliases", {"actions": [rename]}))[0] == 200
    assert (await filled_wire.send("POST", f"/collections/{alias}/points/count", {}))[0] == 404
    delete = {"delete_alias": {"alias_name": alias + "2"}}
    assert (await filled_wire.send("POST", "/collections/aliases", {"actions": [delete]}))[0] == 200
    assert (await filled_wire("GET", "/aliases"))["aliases"] == []


async def test_an_alias_of_an_unknown_collection_is_not_found(empty_wire: Wire) -> None:
    create = {"create_alias": {"alias_name": "a", "collection_name": "no-such"}}
    status, answer = await empty_wire.send("POST", "/collections/aliases", {"actions": [create]})
    assert status == 404
    assert "`no-such`" in answer["status"]["error"]


async def test_an_index_shows_its_type_and_parameters(indexed_wire: Wire) -> None:
    schema = (await indexed_wire("GET", ""))["payload_schema"]
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


async def test_an_index_can_be_removed(empty_wire: Wire) -> None:
    await empty_wire("PUT", "/index?wait=true", {"field_name": "n", "field_schema": "integer"})
    assert "n" in (await empty_wire("GET", ""))["payload_schema"]
    await empty_wire("DELETE", "/index/n?wait=true")
    assert (await empty_wire("GET", ""))["payload_schema"] == {}


async def test_points_are_retrieved_in_the_order_asked_with_what_was_asked(stocked_wire: Wire) -> None:
    body = {"ids": [3, 99, 1], "with_payload": ["n", "kind"], "with_vector": ["sparse"]}
    assert await stocked_wire("POST", "/points", body) == [
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
    assert await stocked_wire("POST", "/points", {"ids": [3]}) == [{"id": 3}]


async def test_payload_fields_are_included_or_excluded(stocked_wire: Wire) -> None:
    include = {"ids": [1], "with_payload": {"include": ["n"]}}
    assert (await stocked_wire("POST", "/points", include))[0]["payload"] == {"n": 1}
    exclude = {"ids": [1], "with_payload": {"exclude": ["pairs", "text", "tags", "day"]}}
    assert (await stocked_wire("POST", "/points", exclude))[0]["payload"] == {
        "n": 1,
        "kind": "odd",
        "even": False,
        "half": 0.5,
        "nothing": None,
    }


async def test_one_point_comes_with_payload_and_vectors(stocked_wire: Wire) -> None:
    found = await stocked_wire("GET", "/points/1")
    assert found["payload"] == point(1)["payload"]
    assert [round(x, 4) for x in found["vector"]["dense"]] == [0.6667, 0.6667, 0.3333, 0]
    assert await stocked_wire.refused("GET", "/points/99") == (404, "Not found: Point with id 99 does not exists!")
    assert (await stocked_wire.refused("GET", "/points/abc"))[0] == 400


async def test_a_uuid_in_any_form_is_one_id(empty_wire: Wire) -> None:
    points = [{"id": UUID.replace("-", ""), "vector": {}, "payload": {"u": 1}}]
    await empty_wire("PUT", "/points?wait=true", {"points": points})
    body = {"ids": [UUID.upper()], "with_payload": True, "with_vector": True}
    assert await empty_wire("POST", "/points", body) == [{"id": UUID, "payload": {"u": 1}, "vector": {}}]


async def test_columns_are_points(empty_wire: Wire) -> None:
    batch = {
        "ids": [20, 21],
        "vectors": {
            "dense": [[1, 2, 3, 4], [4, 3, 2, 1]],
            "sparse": [{"indices": [9, 3], "values": [1, 2]}, {"indices": [], "values": []}],
        },
        "payloads": [{"n": 20}, None],
    }
    await empty_wire("PUT", "/points?wait=true", {"batch": batch})
    body = {"ids": [20, 21], "with_payload": True, "with_vector": ["sparse"]}
    assert await empty_wire("POST", "/points", body) == [
        {"id": 20, "payload": {"n": 20}, "vector": {"sparse": {"indices": [3, 9], "values": [2.0, 1.0]}}},
        {"id": 21, "payload": {}, "vector": {"sparse": {"indices": [], "values": []}}},
    ]


async def test_an_update_filter_protects_what_it_does_not_select(filled_wire: Wire) -> None:
    newer = {"points": [{**point(1), "payload": {"n": 100}}, {**point(2), "payload": {"n": 200}}]}
    newer["update_filter"] = {"must": [{"key": "n", "match": {"value": 2}}]}  # type: ignore[assignment]
    await filled_wire("PUT", "/points?wait=true", newer)
    found = await filled_wire("POST", "/points", {"ids": [1, 2], "with_payload": ["n"]})
    assert [item["payload"]["n"] for item in found] == [1, 200]


async def test_points_are_deleted_by_id_and_by_filter(filled_wire: Wire) -> None:
    await filled_wire("POST", "/points/delete?wait=true", {"points": [0, 777]})
    by_filter = {"filter": {"must": [{"key": "kind", "match": {"value": "odd"}}]}}
    await filled_wire("POST", "/points/delete?wait=true", by_filter)
    assert await filled_wire.ids(None) == [2, 4]


async def test_payloads_are_merged_replaced_trimmed_and_cleared(filled_wire: Wire) -> None:
    await filled_wire("POST", "/points/payload?wait=true", {"payload": {"z": 1}, "points": [1]})
    chosen = {"must": [{"key": "n", "match": {"value": 2}}]}
    await filled_wire("POST", "/points/payload?wait=true", {"payload": {"z": 2}, "filter": chosen, "key": "deep"})
    await filled_wire("PUT", "/points/payload?wait=true", {"payload": {"only": 1}, "points": [3]})
    keys = ["text", "pairs", "day", "tags", "nothing", "half"]
    await filled_wire("POST", "/points/payload/delete?wait=true", {"keys": keys, "points": [4]})
    await filled_wire("POST", "/points/payload/clear?wait=true", {"points": [5]})
    found = await filled_wire("POST", "/points", {"ids": [1, 2, 3, 4, 5], "with_payload": True})
    payloads = [item["payload"] for item in found]
    assert payloads[0] == {**point(1)["payload"], "z": 1}
    assert payloads[1] == {**point(2)["payload"], "deep": {"z": 2}}
    assert payloads[2:] == [{"only": 1}, {"n": 4, "kind": "even", "even": True}, {}]


async def test_a_payload_for_a_point_that_is_not_there_is_not_found(stocked_wire: Wire) -> None:
    status, message = await stocked_wire.refused(
        "POST", "/points/payload?wait=true", {"payload": {"z": 1}, "points": [777]}
    )
    assert (status, message) == (404, "Not found: No point with id 777 found")


async def test_a_batch_applies_its_operations_in_order(filled_wire: Wire) -> None:
    operations = [
        {"upsert": {"points": [{"id": 9, "vector": {"dense": [1, 0, 0, 0]}, "payload": {"a": 1}}]}},
        {"set_payload": {"payload": {"b": 1}, "points": [9]}},
        {"delete": {"points": [1]}},
        {"overwrite_payload": {"payload": {"o": 1, "p": 2}, "points": [2]}},
        {"delete_payload": {"keys": ["o"], "points": [2]}},
        {"clear_payload": {"points": [3]}},
    ]
    results = await filled_wire("POST", "/points/batch?wait=true", {"operations": operations})
    assert [result["status"] for result in results] == ["completed"] * 6
    found = await filled_wire("POST", "/points", {"ids": [9, 1, 2, 3], "with_payload": True})
    assert found == [
        {"id": 9, "payload": {"a": 1, "b": 1}},
        {"id": 2, "payload": {"p": 2}},
        {"id": 3, "payload": {}},
    ]


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
