"""Reindexing's collections against a real store: built, taken up again, switched to, whenever it is killed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hartonomous.clients.schema import INDEXES, SCHEMA, Schema
from hartonomous.errors import ConflictError, NotFoundError
from tests.service.schema_rig import OTHER, TINY, Store, call, killed_before, metrics, name, ours, pool, schema, store

__all__ = ["metrics", "name", "pool", "schema", "store"]

_OLD = TINY.digest()[:8]
_NEW = OTHER.digest()[:8]


async def _old(store: Store, name: str, kind: str) -> None:
    """Make what is to be reindexed, with point 1: behind an alias, or with the collection's own name, as it was."""
    if kind == "alias":
        await store.schema().ensure(name, TINY, "english", call())
    else:
        await store.put(name, metadata=ours())
    await store.fill(name, 1)


async def _reindex(schema: Schema, store: Store, name: str, *, keep: bool = False) -> None:
    """What the pipeline does, with point 2 as the new content."""
    if await schema.targets.finish(name, call()) is not None:
        return
    target = await schema.targets.build(name, OTHER, "english", call())
    await store.fill(target, 2)
    await schema.targets.switch(name, target, call(), keep=keep)


async def _check_reindexed(store: Store, name: str) -> None:
    """One physical collection is left, with the new content and no trace of the switch."""
    assert await store.names(name) == [f"{name}@{_NEW}"]
    assert await store.target(name) == f"{name}@{_NEW}"
    assert await store.ids(name) == [2]
    info = await store.schema().require(name, OTHER, call())
    assert (info.schema, info.indexes) == (SCHEMA, frozenset(INDEXES))
    assert "state" not in await store.mark(name)


@pytest.mark.parametrize("kind", ["alias", "own name"])
async def test_a_collection_is_replaced_by_what_was_built(store: Store, name: str, kind: str) -> None:
    await _old(store, name, kind)
    await _reindex(store.schema(), store, name)
    await _check_reindexed(store, name)


@pytest.mark.parametrize("kind", ["alias", "own name"])
async def test_a_reindex_that_was_killed_anywhere_comes_to_the_same_end(store: Store, name: str, kind: str) -> None:
    reached: list[str] = []
    for change in range(20):
        await _old(store, name, kind)
        with killed_before(change, indexing=False) as done:
            await _reindex(store.schema(), store, name)
            done.append("the end")
        if done[-1:] == ["the end"]:
            reached = done
            break
        await _reindex(store.schema(), store, name)
        await _check_reindexed(store, name)
        await store.schema().drop(name, call())
    if kind == "own name":
        switch = ["set_mark", "delete", "point", "set_mark"]
    else:
        switch = ["set_mark", "set_mark", "point", "delete", "set_mark"]
    migration = ["set_mark"] if kind == "own name" else []
    assert reached == [*migration, "create_collection", *switch, "the end"]


async def test_a_build_that_was_killed_before_its_last_index_goes_on(store: Store, name: str) -> None:
    with killed_before(len(INDEXES)):
        await store.schema().targets.build(name, OTHER, "english", call())
    target = await store.schema().targets.build(name, OTHER, "english", call())
    info = await store.schema().describe(target, call())
    assert info is not None
    assert (target, info.indexes) == (f"{name}@{_NEW}", frozenset(INDEXES))


async def test_while_a_switch_was_killed_the_next_ingest_brings_the_collection_back(store: Store, name: str) -> None:
    """One with its own name is gone for a moment: whoever would make a new one makes the alias."""
    await _old(store, name, "own name")
    target = await store.schema().targets.build(name, OTHER, "english", call())
    await store.fill(target, 2)
    with killed_before(2) as done:
        await store.schema().targets.switch(name, target, call())
    assert done == ["set_mark", "delete"]
    assert await store.schema().describe(name, call()) is None
    assert (await store.schema().ensure(name, OTHER, "english", call())).points == 1
    assert await store.schema().targets.finish(name, call()) == target
    await _check_reindexed(store, name)


async def test_a_target_is_empty_indexed_and_nobody_sees_it(schema: Schema, store: Store, name: str) -> None:
    await _old(store, name, "alias")
    target = await schema.targets.build(name, OTHER, "german", call())
    assert target == f"{name}@{_NEW}"
    info = await schema.describe(target, call())
    assert info is not None
    assert (info.points, info.indexes, info.language) == (0, frozenset(INDEXES), "german")
    assert await schema.targets.abandoned(name, call()) == [target]
    assert target not in [each.name for each in await schema.list(call())]
    assert (await schema.ensure(name, TINY, "english", call())).points == 1


async def test_a_target_of_the_same_model_gets_a_name_of_its_own(schema: Schema, store: Store, name: str) -> None:
    await _old(store, name, "alias")
    target = await schema.targets.build(name, TINY, "english", call())
    assert target == f"{name}@{_OLD}-2"
    await schema.targets.switch(name, target, call())
    assert await store.names(name) == [target]
    # The next one may have the first name again.
    assert await schema.targets.build(name, TINY, "english", call()) == f"{name}@{_OLD}"


async def test_an_interrupted_build_goes_on_with_what_it_has(store: Store, name: str) -> None:
    await _old(store, name, "alias")
    target = await store.schema().targets.build(name, OTHER, "english", call())
    await store.fill(target, 7)
    assert await store.schema().targets.build(name, OTHER, "english", call()) == target
    assert await store.ids(target) == [7]


@pytest.mark.parametrize("change", ["model", "language", "settings"])
async def test_a_build_of_another_kind_begins_anew(store: Store, name: str, change: str) -> None:
    await _old(store, name, "alias")
    before = await store.schema().targets.build(name, OTHER, "english", call())
    await store.fill(before, 7)
    later = store.schema(quantization="scalar") if change == "settings" else store.schema()
    model = TINY if change == "model" else OTHER
    target = await later.targets.build(name, model, "german" if change == "language" else "english", call())
    assert await store.ids(target) == []
    assert await later.targets.abandoned(name, call()) == [target]


async def test_an_index_that_is_configured_later_keeps_a_build(store: Store, name: str) -> None:
    target = await store.schema().targets.build(name, OTHER, "english", call())
    later = store.schema(indexes={"metadata.a": "keyword"})
    assert await later.targets.build(name, OTHER, "english", call()) == target
    info = await later.describe(target, call())
    assert info is not None
    assert "metadata.a" in info.indexes


async def test_targets_can_be_discarded(schema: Schema, store: Store, name: str) -> None:
    await _old(store, name, "alias")
    await schema.targets.build(name, OTHER, "english", call())
    assert await schema.targets.discard(name, call()) == 1
    assert await schema.targets.discard(name, call()) == 0
    assert await store.ids(name) == [1]


async def test_a_collection_is_dropped_with_its_targets(schema: Schema, store: Store, name: str) -> None:
    await _old(store, name, "alias")
    await schema.targets.build(name, OTHER, "english", call())
    assert await schema.drop(name, call())
    assert await store.names(name) == []


@pytest.mark.parametrize("change", range(2))
async def test_a_drop_that_was_killed_brings_nothing_back(store: Store, name: str, change: int) -> None:
    """Least of all a target that was complete."""
    await _old(store, name, "alias")
    target = await store.schema().targets.build(name, OTHER, "english", call())
    await store.fill(target, 2)
    with killed_before(2):
        await store.schema().targets.switch(name, target, call())
    assert (await store.mark(target))["state"] == "complete"
    with killed_before(change):
        await store.schema().drop(name, call())
    assert await store.ids(name) == [1]
    assert await store.schema().drop(name, call())
    assert await store.names(name) == []
    assert (await store.schema().ensure(name, OTHER, "english", call())).points == 0


@pytest.mark.parametrize("change", [2, 3, 4, 99])
async def test_the_old_one_can_be_kept_whenever_it_was_killed(store: Store, name: str, change: int) -> None:
    await _old(store, name, "alias")
    schema = store.schema()
    target = await schema.targets.build(name, OTHER, "english", call())
    await store.fill(target, 2)
    with killed_before(change):
        await schema.targets.switch(name, target, call(), keep=True)
    await schema.targets.finish(name, call())
    assert await store.target(name) == target
    assert await store.names(name) == sorted([target, f"{name}@{_OLD}"])
    assert await store.ids(f"{name}@{_OLD}") == [1]
    assert (await store.mark(f"{name}@{_OLD}"))["state"] == "retired"


async def test_what_was_kept_is_nothing_to_a_later_reindex(schema: Schema, store: Store, name: str) -> None:
    await _old(store, name, "alias")
    await _reindex(schema, store, name, keep=True)
    target = await schema.targets.build(name, TINY, "english", call())
    await schema.targets.switch(name, target, call())
    assert await store.names(name) == sorted([f"{name}@{_OLD}", target])
    assert await store.ids(f"{name}@{_OLD}") == [1]


async def test_one_with_its_own_name_cannot_be_kept(schema: Schema, store: Store, name: str) -> None:
    await _old(store, name, "own name")
    target = await schema.targets.build(name, OTHER, "english", call())
    with pytest.raises(ConflictError, match="cannot be kept beside a new one"):
        await schema.targets.switch(name, target, call(), keep=True)
    assert await store.ids(name) == [1]
    assert (await store.mark(target))["state"] == "building"


async def test_a_switch_that_was_made_is_not_made_again(schema: Schema, store: Store, name: str) -> None:
    await _old(store, name, "alias")
    target = await schema.targets.build(name, OTHER, "english", call())
    await schema.targets.switch(name, target, call())
    await schema.targets.switch(name, target, call())
    assert await schema.targets.finish(name, call()) is None
    assert await schema.targets.behind(name, call()) == target


async def test_what_is_not_there_or_not_ours_is_not_switched_to(schema: Schema, store: Store, name: str) -> None:
    await _old(store, name, "alias")
    with pytest.raises(NotFoundError):
        await schema.targets.switch(name, f"{name}@no-such", call())
    await store.put(f"{name}@foreign")
    with pytest.raises(ConflictError):
        await schema.targets.switch(name, f"{name}@foreign", call())
    with pytest.raises(ConflictError):
        await schema.targets.switch("other", f"{name}@{_OLD}", call())


async def test_somebody_elses_collection_is_not_replaced(schema: Schema, store: Store, name: str) -> None:
    target = await schema.targets.build(name, OTHER, "english", call())
    await store.put(name)
    for refused in (schema.targets.build(name, OTHER, "english", call()), schema.targets.switch(name, target, call())):
        with pytest.raises(ConflictError):
            await refused
    assert await store.names(name) == [name, target]


async def test_a_collection_of_a_newer_version_is_not_replaced(schema: Schema, store: Store, name: str) -> None:
    await store.put(name, metadata=ours(schema=SCHEMA + 1))
    with pytest.raises(ConflictError, match="upgrade this one"):
        await schema.targets.build(name, OTHER, "english", call())
    assert (await store.mark(name))["schema"] == SCHEMA + 1
    assert await store.names(name) == [name]


async def test_what_no_switch_replaced_is_not_deleted_by_one(schema: Schema, store: Store, name: str) -> None:
    await _old(store, name, "alias")
    unknown = f"{name}@unknown"
    await store.put(unknown, metadata=ours(schema=SCHEMA))
    await _reindex(schema, store, name)
    assert await store.names(name) == sorted([f"{name}@{_NEW}", unknown])


async def test_what_another_alias_stands_for_stays(schema: Schema, store: Store, name: str) -> None:
    await _old(store, name, "alias")
    await store.point(f"{name}.other", f"{name}@{_OLD}")
    await _reindex(schema, store, name)
    assert await store.ids(f"{name}.other") == [1]
    assert await store.ids(name) == [2]


async def test_a_target_that_somebody_gave_the_alias_is_not_deleted(store: Store, name: str) -> None:
    target = await store.schema().targets.build(name, OTHER, "english", call())
    await store.point(name, target)
    assert await store.schema().targets.build(name, TINY, "english", call()) != target
    assert await store.schema().targets.discard(name, call()) == 1
    assert await store.target(name) == target


async def test_a_reader_finds_the_old_or_the_new_one(store: Store, name: str) -> None:
    await _old(store, name, "alias")
    seen: list[list[int]] = []
    done = asyncio.Event()

    async def read() -> None:
        while not done.is_set():
            seen.append(await store.ids(name))

    reading = asyncio.create_task(read())
    await _reindex(store.schema(), store, name)
    done.set()
    await reading
    assert [ids for ids in seen if ids not in ([1], [2])] == []
    assert seen[0] == [1]
    assert await store.ids(name) == [2]


async def test_a_process_that_switched_sees_the_new_one_at_once(schema: Schema, store: Store, name: str) -> None:
    await _old(store, name, "alias")
    before: Any = await schema.require(name, TINY, call())
    await _reindex(schema, store, name)
    assert await schema.require(name, OTHER, call()) != before
