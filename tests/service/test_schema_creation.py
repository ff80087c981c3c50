"""New collections against a real store: through an alias, as configured, whatever comes between the steps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hartonomous.clients.creation import write_options
from hartonomous.clients.qdrant import RESCORED
from hartonomous.clients.schema import INDEXES, Schema
from hartonomous.errors import ConflictError
from hartonomous.metrics import Metrics
from hartonomous.services import Collections, Qdrant
from tests.service.schema_rig import OTHER, TINY, Store, call, killed_before, metrics, name, ours, pool, schema, store

__all__ = ["metrics", "name", "pool", "schema", "store"]

_FIRST = TINY.digest()[:8]
# A collection, its indexes, its alias.
_STEPS = 2 + len(INDEXES)


async def test_a_new_collection_is_an_alias_of_a_physical_one(schema: Schema, store: Store, name: str) -> None:
    await schema.ensure(name, TINY, "english", call())
    assert await store.names(name) == [f"{name}@{_FIRST}"]
    assert await store.target(name) == f"{name}@{_FIRST}"


async def test_a_collection_is_listed_under_the_name_it_was_asked_for(schema: Schema, store: Store, name: str) -> None:
    await schema.ensure(name, TINY, "english", call())
    await store.put(f"{name}-old", metadata=ours())
    try:
        listed = [info.name for info in await schema.list(call()) if info.name.startswith(name)]
        assert listed == [name, f"{name}-old"]
    finally:
        assert await schema.drop(f"{name}-old", call())


async def test_a_dropped_collection_leaves_nothing(schema: Schema, store: Store, name: str) -> None:
    await schema.ensure(name, TINY, "english", call())
    await store.fill(name, 1)
    assert await schema.drop(name, call())
    assert await store.names(name) == []
    assert await store.target(name) is None
    assert await schema.describe(name, call()) is None
    assert not await schema.drop(name, call())


@pytest.mark.parametrize("change", range(_STEPS))
async def test_a_creation_that_was_killed_is_gone_on_with(store: Store, name: str, change: int) -> None:
    with killed_before(change) as done:
        await store.schema().ensure(name, TINY, "english", call())
    assert len(done) == change
    assert (await store.schema().ensure(name, TINY, "english", call())).indexes == set(INDEXES)
    assert await store.names(name) == [f"{name}@{_FIRST}"]
    assert await store.target(name) == f"{name}@{_FIRST}"


async def test_many_who_make_one_collection_at_once_make_one(store: Store, name: str) -> None:
    """Each a process of its own, as far as the store can tell; with points as soon as one has it."""

    async def make(schema: Schema, number: int) -> Any:
        info = await schema.ensure(name, TINY, "english", call())
        await store.fill(name, number)
        return info.fingerprint

    made = await asyncio.gather(*(make(store.schema(), number) for number in range(6)))
    assert set(made) == {TINY}
    assert await store.names(name) == [f"{name}@{_FIRST}"]
    assert await store.ids(name) == list(range(6))
    assert (await store.schema().ensure(name, TINY, "english", call())).indexes == set(INDEXES)


async def test_who_comes_late_takes_what_was_made_meanwhile(
    store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look for an alias and the making, another process made the collection and wrote to it."""
    late = store.schema()
    look = late._collections.aliases

    async def made_meanwhile(*arguments: Any) -> dict[str, str]:
        aliases = await look(*arguments)
        if not await store.names(name):
            await store.schema().ensure(name, TINY, "english", call())
            await store.fill(name, 1)
        return aliases

    monkeypatch.setattr(late._collections, "aliases", made_meanwhile)
    assert (await late.ensure(name, TINY, "english", call())).points == 1
    assert await store.names(name) == [f"{name}@{_FIRST}"]


async def test_who_comes_late_with_another_model_does_not_take_the_alias_away(
    store: Store, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = store.schema()
    create = late._collections.create

    async def made_meanwhile(*arguments: Any) -> bool:
        made = await create(*arguments)
        await store.schema().ensure(name, OTHER, "english", call())
        return made

    monkeypatch.setattr(late._collections, "create", made_meanwhile)
    with pytest.raises(ConflictError):
        await late.ensure(name, TINY, "english", call())
    assert await store.target(name) == f"{name}@{OTHER.digest()[:8]}"


async def test_of_two_models_that_make_one_collection_at_once_one_is_refused(store: Store, name: str) -> None:
    made = await asyncio.gather(
        *(store.schema().ensure(name, model, "english", call()) for model in (TINY, OTHER)), return_exceptions=True
    )
    later = await store.schema().describe(name, call())
    assert later is not None
    loser = OTHER if later.fingerprint == TINY else TINY
    with pytest.raises(ConflictError):
        await store.schema().require(name, loser, call())
    assert any(not isinstance(each, BaseException) and each.fingerprint == later.fingerprint for each in made)


@pytest.mark.parametrize("state", [None, "building", "retired"])
async def test_what_has_points_and_no_alias_is_not_taken(
    schema: Schema, store: Store, name: str, state: str | None
) -> None:
    left = f"{name}@{_FIRST}"
    await store.put(left, metadata=ours(schema=2) if state is None else ours(schema=2, state=state))
    await store.fill(left, 1)
    assert (await schema.ensure(name, TINY, "english", call())).points == 0
    assert await store.target(name) == f"{left}-2"
    assert await schema.drop(name, call())
    assert await store.names(name) == []


async def test_an_empty_target_of_a_reindex_is_not_taken(schema: Schema, store: Store, name: str) -> None:
    await store.put(f"{name}@{_FIRST}", metadata=ours(schema=2, state="building"))
    await schema.ensure(name, TINY, "english", call())
    assert await store.target(name) == f"{name}@{_FIRST}-2"


async def test_what_is_somebody_elses_or_has_another_alias_is_not_taken(
    schema: Schema, store: Store, name: str
) -> None:
    first, second = f"{name}@{_FIRST}", f"{name}@{_FIRST}-2"
    await store.put(first)
    await store.put(second, metadata=ours(schema=2))
    await store.point(f"{name}.other", second)
    await schema.ensure(name, TINY, "english", call())
    assert await store.target(name) == f"{name}@{_FIRST}-3"
    assert await schema.drop(name, call())
    assert await store.names(name) == [first, second]


async def test_an_alias_that_somebody_pointed_at_another_collection_leads_nowhere(
    schema: Schema, store: Store, name: str
) -> None:
    await schema.ensure(name, TINY, "english", call())
    alias = f"{name}.alias"
    await store.point(alias, f"{name}@{_FIRST}")
    asked = (
        schema.describe(alias, call()),
        schema.require(alias, TINY, call()),
        schema.ensure(alias, TINY, "english", call()),
        schema.drop(alias, call()),
    )
    for refused in asked:
        with pytest.raises(ConflictError) as caught:
            await refused
        assert caught.value.error_code == "foreign_collection"
    assert [info.name for info in await schema.list(call()) if info.name.startswith(name)] == [name]
    assert await store.names(name) == [f"{name}@{_FIRST}"]


async def test_an_alias_of_a_collection_that_does_not_say_its_name_is_used_and_not_dropped(
    schema: Schema, store: Store, name: str
) -> None:
    """Those that were made before there was a name in the mark."""
    await store.put(f"{name}@{_FIRST}", metadata=ours())
    alias = f"{name}.alias"
    await store.point(alias, f"{name}@{_FIRST}")
    assert (await schema.require(alias, TINY, call())).name == alias
    with pytest.raises(ConflictError):
        await schema.drop(alias, call())
    assert await store.names(name) == [f"{name}@{_FIRST}"]


async def _config(store: Store, name: str, **settings: Any) -> Any:
    """Make a collection with these settings and return what the store says of it."""
    await store.schema(**settings).ensure(name, TINY, "english", call())
    return (await store.ask("GET", f"/collections/{name}"))["config"]


async def test_by_default_vectors_are_cosine_and_idf_and_all_else_is_the_stores(store: Store, name: str) -> None:
    config = await _config(store, name)
    assert config["params"]["vectors"] == {"dense": {"size": 4, "distance": "Cosine"}}
    assert config["params"]["sparse_vectors"] == {"sparse": {"modifier": "idf"}}
    assert config["quantization_config"] is None
    cluster = [config["params"][name] for name in ("shard_number", "replication_factor", "write_consistency_factor")]
    assert cluster == [1, 1, 1]


async def test_a_collection_is_made_as_configured(store: Store, name: str) -> None:
    config = await _config(
        store, name, distance="dot", on_disk=True, quantization="scalar", shards=2, replicas=2, write_consistency=2
    )
    assert config["params"]["vectors"] == {"dense": {"size": 4, "distance": "Dot", "on_disk": True}}
    assert config["params"]["sparse_vectors"] == {"sparse": {"index": {"on_disk": True}, "modifier": "idf"}}
    cluster = [config["params"][name] for name in ("shard_number", "replication_factor", "write_consistency_factor")]
    assert cluster == [2, 2, 2]
    assert config["quantization_config"] == {"scalar": {"type": "int8", "quantile": 0.99, "always_ram": True}}


async def test_quantization_may_be_binary(store: Store, name: str) -> None:
    assert (await _config(store, name, quantization="binary"))["quantization_config"] == {
        "binary": {"always_ram": True}
    }


@pytest.mark.parametrize("quantization", ["none", "scalar", "binary"])
async def test_a_search_is_scored_by_the_vectors_themselves(store: Store, name: str, quantization: str) -> None:
    await _config(store, name, quantization=quantization)
    points = [{"id": n, "vector": {"dense": [1, n, -n, n % 2 - 0.5]}} for n in range(4)]
    await store.ask("PUT", f"/collections/{name}/points?{write_options(Qdrant())}", {"points": points})
    wanted = {"query": [1, 2, -2, -0.5], "using": "dense", "limit": 1, "params": dict(RESCORED)}
    (found,) = (await store.ask("POST", f"/collections/{name}/points/query", wanted))["points"]
    assert (found["id"], round(found["score"], 5)) == (2, 1.0)


def test_only_replicas_ask_for_an_order_of_writes() -> None:
    assert write_options(Qdrant()) == write_options(Qdrant(collections=Collections(replicas=1))) == "wait=true"
    assert write_options(Qdrant(collections=Collections(replicas=2))) == "wait=true&ordering=strong"
    assert write_options(Qdrant(write_ordering="medium")) == "wait=true&ordering=medium"


_KINDS = {"metadata.team": "keyword", "metadata.year": "integer", "metadata.deep.when": "datetime"}


async def test_configured_fields_are_indexed_and_found_by(store: Store, name: str) -> None:
    made = await store.schema(indexes=_KINDS).ensure(name, TINY, "english", call())
    assert made.indexes == INDEXES.keys() | _KINDS.keys()
    shown = (await store.ask("GET", f"/collections/{name}"))["payload_schema"]
    assert {field: shown[field]["data_type"] for field in _KINDS} == _KINDS
    payload = {"metadata": {"team": "ops", "year": 2020, "deep": {"when": "2024-01-01T00:00:00Z"}}}
    await store.ask(
        "PUT", f"/collections/{name}/points?wait=true", {"points": [{"id": 1, "vector": {}, "payload": payload}]}
    )
    shown = (await store.ask("GET", f"/collections/{name}"))["payload_schema"]
    assert {field: shown[field]["points"] for field in _KINDS} == dict.fromkeys(_KINDS, 1)
    facet = await store.ask("POST", f"/collections/{name}/facet", {"key": "metadata.team"})
    assert facet == {"hits": [{"value": "ops", "count": 1}]}


async def test_a_field_that_is_configured_later_is_indexed_at_the_next_ingest(store: Store, name: str) -> None:
    await store.schema().ensure(name, TINY, "english", call())
    later = store.schema(indexes=_KINDS)
    assert (await later.require(name, TINY, call())).indexes == INDEXES.keys()
    assert (await later.ensure(name, TINY, "english", call())).indexes == INDEXES.keys() | _KINDS.keys()


@pytest.mark.parametrize("field", ['metadata."team"', 'metadata.a"b', "metadata.a:b"])
async def test_a_field_that_the_store_names_otherwise_or_refuses_is_asked_for_once(
    store: Store, metrics: Metrics, name: str, field: str
) -> None:
    schema = store.schema(indexes={field: "keyword", "metadata.z": "keyword"})
    assert "metadata.z" in (await schema.ensure(name, TINY, "english", call())).indexes
    before = _asked(metrics)
    for _ in range(3):
        schema.forget(name)
        await schema.ensure(name, TINY, "english", call())
    assert _asked(metrics) == before + 3


def _asked(metrics: Metrics) -> float:
    labels = {"service": "qdrant", "outcome": "2xx"}
    return metrics.registry.get_sample_value("hartonomous_backend_requests_total", labels) or 0.0


async def test_a_collection_costs_few_calls_to_be_looked_for_again(schema: Schema, metrics: Metrics, name: str) -> None:
    await schema.ensure(name, TINY, "english", call())
    schema.forget(name)
    before = _asked(metrics)
    await schema.ensure(name, TINY, "english", call())
    assert _asked(metrics) == before + 1
