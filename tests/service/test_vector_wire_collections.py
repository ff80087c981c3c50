"""Aliases, collection settings and query parameters: the same answers from the engine and a true Qdrant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.service.vector_wire import CREATE, Wire, point


class Aliased:
    """An alias and two collections, empty `first` and `second`; `first` is what the alias stands for."""

    def __init__(self, wire: Wire) -> None:
        self.first = wire
        self.second = Wire(wire.session, wire.collection + "@2")
        self.alias = Wire(wire.session, wire.collection + ".alias")

    async def change(self, *actions: Any) -> tuple[int, Any]:
        """Send one call with actions over aliases."""
        return await self.first.send("POST", "/collections/aliases", {"actions": list(actions)})

    async def targets(self) -> dict[str, str]:
        """Return what the aliases of the two collections stand for."""
        _, answer = await self.first.send("GET", "/aliases")
        ours = (self.first.collection, self.second.collection)
        aliases = answer["result"]["aliases"]
        return {item["alias_name"]: item["collection_name"] for item in aliases if item["collection_name"] in ours}


def create(alias: str, collection: str) -> dict[str, Any]:
    return {"create_alias": {"alias_name": alias, "collection_name": collection}}


def delete(alias: str) -> dict[str, Any]:
    return {"delete_alias": {"alias_name": alias}}


def rename(old: str, new: str) -> dict[str, Any]:
    return {"rename_alias": {"old_alias_name": old, "new_alias_name": new}}


@pytest.fixture
async def aliased(empty_wire: Wire) -> AsyncIterator[Aliased]:
    made = Aliased(empty_wire)
    assert await made.second("PUT", "", CREATE) is True
    assert (await made.change(create(made.alias.collection, made.first.collection)))[0] == 200
    yield made
    await made.second("DELETE", "")


async def test_every_call_with_a_collection_in_its_path_takes_an_alias(aliased: Aliased) -> None:
    alias = aliased.alias
    assert await alias("GET", "/exists") == {"exists": True}
    assert (await alias("GET", ""))["config"]["metadata"] == CREATE["metadata"]
    assert await alias("PATCH", "", {"metadata": {"via": "alias"}}) is True
    assert (await aliased.first("GET", ""))["config"]["metadata"]["via"] == "alias"
    await alias("PUT", "/points?wait=true", {"points": [point(1), point(2)]})
    await alias("PUT", "/index?wait=true", {"field_name": "n", "field_schema": "integer"})
    assert "n" in (await aliased.first("GET", ""))["payload_schema"]
    await alias("DELETE", "/index/n?wait=true")
    await alias("POST", "/points/payload?wait=true", {"payload": {"z": 1}, "points": [1]})
    await alias("POST", "/points/batch?wait=true", {"operations": [{"delete": {"points": [2]}}]})
    assert (await alias("GET", "/points/1"))["payload"]["z"] == 1
    assert await alias("POST", "/points", {"ids": [1, 2]}) == [{"id": 1}]
    assert await alias("POST", "/points/count", {}) == {"count": 1}
    assert await alias.ids(None) == await aliased.first.ids(None) == [1]
    assert await alias.query(query=[1, 1, 0.5, 0], using="dense") == [(1, 1.0)]
    body = {"searches": [{"query": [1, 1, 0.5, 0], "using": "dense"}]}
    assert len(await alias("POST", "/points/query/batch", body)) == 1
    await alias("POST", "/points/delete?wait=true", {"points": [1]})
    assert await aliased.first.ids(None) == []


async def test_deleting_by_an_alias_deletes_nothing(aliased: Aliased) -> None:
    assert await aliased.alias("DELETE", "") is False
    assert await aliased.first("GET", "/exists") == {"exists": True}


async def test_aliases_are_told_of_their_collection_only(aliased: Aliased) -> None:
    expected = [{"alias_name": aliased.alias.collection, "collection_name": aliased.first.collection}]
    assert await aliased.first("GET", "/aliases") == {"aliases": expected}
    assert await aliased.alias("GET", "/aliases") == {"aliases": []}
    assert await aliased.second("GET", "/aliases") == {"aliases": []}


async def test_a_collection_goes_with_its_aliases(aliased: Aliased) -> None:
    await aliased.change(create(aliased.alias.collection + "2", aliased.second.collection))
    await aliased.first("DELETE", "")
    assert await aliased.targets() == {aliased.alias.collection + "2": aliased.second.collection}
    assert (await aliased.alias.refused("GET", ""))[0] == 404
    assert await aliased.alias("GET", "/exists") == {"exists": False}


async def test_an_alias_that_exists_is_moved_by_making_it_again(aliased: Aliased) -> None:
    move = create(aliased.alias.collection, aliased.second.collection)
    for _ in range(2):
        status, answer = await aliased.change(move)
        assert (status, answer["result"]) == (200, True)
        assert await aliased.targets() == {aliased.alias.collection: aliased.second.collection}


async def test_the_name_of_an_alias_is_taken(aliased: Aliased) -> None:
    name = aliased.alias.collection
    message = f"Wrong input: Can't create collection with name {name}. Alias with the same name already exists"
    assert await aliased.alias.refused("PUT", "", CREATE) == (400, message)


async def test_the_name_of_a_collection_is_no_alias(aliased: Aliased) -> None:
    status, answer = await aliased.change(create(aliased.second.collection, aliased.first.collection))
    assert status == 409
    assert answer["status"]["error"] == f"Wrong input: Collection `{aliased.second.collection}` already exists!"


async def test_an_alias_of_an_alias_is_not_found(aliased: Aliased) -> None:
    status, answer = await aliased.change(create("other", aliased.alias.collection))
    assert status == 404
    assert answer["status"]["error"] == f"Not found: Collection `{aliased.alias.collection}` doesn't exist!"


async def test_an_alias_that_is_not_there_can_be_deleted_but_not_renamed(aliased: Aliased) -> None:
    assert (await aliased.change(delete("no-such-alias")))[0] == 200
    status, answer = await aliased.change(rename("no-such-alias", "other"))
    assert (status, answer["status"]["error"]) == (404, "Not found: Alias no-such-alias does not exists!")


async def test_the_actions_of_one_call_are_applied_in_order(aliased: Aliased) -> None:
    name, other = aliased.alias.collection, aliased.alias.collection + "2"
    actions = (rename(name, other), create(name, aliased.second.collection))
    assert (await aliased.change(*actions))[0] == 200
    assert await aliased.targets() == {other: aliased.first.collection, name: aliased.second.collection}
    assert (await aliased.change(delete(other), delete(name), create(other, aliased.second.collection)))[0] == 200
    assert await aliased.targets() == {other: aliased.second.collection}
    assert (await aliased.change())[0] == 200


async def test_a_reader_of_an_alias_that_is_moved_never_finds_nothing(aliased: Aliased) -> None:
    await aliased.first("PUT", "/points?wait=true", {"points": [point(1)]})
    await aliased.second("PUT", "/points?wait=true", {"points": [point(2)]})
    seen: list[list[int]] = []
    done = asyncio.Event()

    async def read() -> None:
        while not done.is_set():
            seen.append(await aliased.alias.ids(None))

    reading = asyncio.create_task(read())
    for number in range(20):
        target = (aliased.second, aliased.first)[number % 2].collection
        name = aliased.alias.collection
        assert (await aliased.change(delete(name), create(name, target)))[0] == 200
    done.set()
    await reading
    assert [ids for ids in seen if ids not in ([1], [2])] == []
    assert len(seen) > 1


async def created(wire: Wire, vector: Any = None, **settings: Any) -> Any:
    """Make the collection anew with these settings and return its configuration."""
    await wire("DELETE", "")
    vectors = {"dense": {"size": 4, "distance": "Cosine", **(vector or {})}}
    assert await wire("PUT", "", {**CREATE, "vectors": vectors, **settings}) is True
    return (await wire("GET", ""))["config"]


@pytest.mark.parametrize(("distance", "score"), [("Cosine", 1.0), ("Dot", 30.0)])
async def test_a_distance_scores_in_its_own_way(empty_wire: Wire, distance: str, score: float) -> None:
    config = await created(empty_wire, {"distance": distance})
    assert config["params"]["vectors"]["dense"] == {"size": 4, "distance": distance}
    points = [{"id": 1, "vector": {"dense": [1, 2, 3, 4]}, "payload": {}}]
    await empty_wire("PUT", "/points?wait=true", {"points": points})
    assert await empty_wire.query(query=[1, 2, 3, 4], using="dense") == [(1, score)]


async def test_shards_replicas_and_write_consistency_are_reported(empty_wire: Wire) -> None:
    cluster = {"shard_number": 3, "replication_factor": 2, "write_consistency_factor": 2}
    params = (await created(empty_wire, {"on_disk": True}, **cluster))["params"]
    assert {name: params[name] for name in cluster} == cluster
    assert params["vectors"]["dense"] == {"size": 4, "distance": "Cosine", "on_disk": True}
    await empty_wire("PUT", "/points?wait=true&ordering=strong", {"points": [point(n) for n in range(6)]})
    assert await empty_wire.ids(None) == list(range(6))


@pytest.mark.parametrize("name", ["shard_number", "replication_factor", "write_consistency_factor"])
async def test_fewer_than_one_is_refused(empty_wire: Wire, name: str) -> None:
    status, message = await Wire(empty_wire.session, empty_wire.collection + "-x").refused(
        "PUT", "", {**CREATE, name: 0}
    )
    assert status == 422
    assert message == f"Validation error in JSON body: [{name}: value 0 invalid, must be 1 or larger]"


@pytest.mark.parametrize(
    "quantization",
    [
        {"scalar": {"type": "int8", "always_ram": True}},
        {"scalar": {"type": "int8", "quantile": 0.75}},
        {"binary": {"always_ram": True}},
        {"binary": {"encoding": "two_bits", "query_encoding": "scalar8bits"}},
    ],
    ids=str,
)
async def test_quantized_vectors_are_found_with_their_own_scores(empty_wire: Wire, quantization: Any) -> None:
    assert (await created(empty_wire, quantization_config=quantization))["quantization_config"] == quantization
    await empty_wire("PUT", "/points?wait=true", {"points": [point(n) for n in range(6)]})
    # One bit each tells none of these six apart: all of them are scored again.
    params = {"quantization": {"rescore": True, "oversampling": 6.0, "ignore": False}}
    found = await empty_wire.query(query=[1, 3, 0.5, 0], using="dense", limit=1, params=params)
    assert found == [(3, 1.0)]


async def test_quantization_may_be_of_one_vector(empty_wire: Wire) -> None:
    quantization = {"binary": {"always_ram": False}}
    config = await created(empty_wire, {"quantization_config": quantization})
    assert config["params"]["vectors"]["dense"]["quantization_config"] == quantization
    assert config["quantization_config"] is None


@pytest.mark.parametrize(
    ("quantization", "status"),
    [
        ({}, 400),
        ({"scalar": {}}, 400),
        ({"scalar": {"type": "int4"}}, 400),
        ({"scalar": {"type": "int8", "quantile": 0.2}}, 422),
        ({"scalar": {"type": "int8", "always_ram": 1}}, 400),
        ({"binary": {"encoding": "three_bits"}}, 400),
        ({"binary": {"query_encoding": 8}}, 400),
    ],
    ids=str,
)
async def test_quantization_that_makes_no_sense_is_refused(empty_wire: Wire, quantization: Any, status: int) -> None:
    other = Wire(empty_wire.session, empty_wire.collection + "-x")
    assert (await other.refused("PUT", "", {**CREATE, "quantization_config": quantization}))[0] == status


async def test_metadata_is_merged_at_its_first_level_only(empty_wire: Wire) -> None:
    assert await empty_wire("PATCH", "", {"metadata": {"nested": {"b": 2, "c": None}}}) is True
    assert await empty_wire("PATCH", "?timeout=5", {"metadata": {}}) is True
    assert (await empty_wire("GET", ""))["config"]["metadata"] == {"model": "m", "nested": {"b": 2, "c": None}}


@pytest.mark.parametrize(
    "query", ["wait=true&ordering=strong&timeout=5", "wait=false&ordering=medium", "ordering=weak&timeout=0", "other=1"]
)
async def test_a_write_takes_wait_ordering_and_timeout(filled_wire: Wire, query: str) -> None:
    calls: list[tuple[str, str, Any]] = [
        ("PUT", "", {"points": [point(1)]}),
        ("POST", "/delete", {"points": [77]}),
        ("POST", "/payload", {"payload": {"z": 1}, "points": [1]}),
        ("POST", "/batch", {"operations": [{"delete": {"points": [77]}}]}),
    ]
    expected = "completed" if "wait=true" in query else "acknowledged"
    for method, path, body in calls:
        result = await filled_wire(method, f"/points{path}?{query}", body)
        assert (result[0] if isinstance(result, list) else result)["status"] == expected


@pytest.mark.parametrize("query", ["wait=yes", "ordering=loose", "timeout=soon"])
async def test_a_write_with_another_parameter_is_refused(filled_wire: Wire, query: str) -> None:
    status, message = await filled_wire.refused("PUT", f"/points?{query}", {"points": [point(1)]})
    assert status == 400
    assert message.startswith("Deserialize error in query parameters: ")


@pytest.mark.parametrize(
    "query", ["consistency=majority", "consistency=quorum&timeout=3", "consistency=all", "consistency=2"]
)
async def test_a_read_takes_consistency_and_timeout(stocked_wire: Wire, query: str) -> None:
    assert await stocked_wire("POST", f"/points/count?{query}", {}) == {"count": 6}
    assert len((await stocked_wire("POST", f"/points/scroll?{query}", {"limit": 1}))["points"]) == 1
    assert len((await stocked_wire("POST", f"/points/query?{query}", {"limit": 1}))["points"]) == 1
    assert (await stocked_wire("GET", f"/points/1?{query}"))["id"] == 1


@pytest.mark.parametrize("query", ["consistency=some", "consistency=0", "timeout=0", "timeout=-1"])
async def test_a_read_with_another_parameter_is_refused(stocked_wire: Wire, query: str) -> None:
    status, message = await stocked_wire.refused("POST", f"/points/count?{query}", {})
    assert status == 400
    assert message.startswith("Deserialize error in query parameters: ")
