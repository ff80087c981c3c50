"""What the engine acknowledged survives `kill -9` and power loss; a folder opens again after a crash at any moment."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import qdrant_edge as edge

from hartonomous.engine import schema
from hartonomous.engine.journal import Journal, Tree
from hartonomous.engine.shard import Collection, Workers
from hartonomous.engine.store import Store
from tests.service.vector_store import Engine

CREATE = {"vectors": {"size": 4, "distance": "Dot"}, "sparse_vectors": {"s": {"modifier": "idf"}}}


def points(first: int, last: int) -> dict[str, Any]:
    return {
        "points": [
            {"id": number, "vector": {"": [1, number, 0, 0]}, "payload": {"n": number}} for number in range(first, last)
        ]
    }


def upsert_of(first: int, last: int) -> edge.UpdateOperation:
    new = [edge.Point(n, [1.0, float(n), 0.0, 0.0], {"n": n}) for n in range(first, last)]
    return edge.UpdateOperation.upsert_points(new)


async def eventually(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not met():  # noqa: ASYNC110 - the state is another process's
            await asyncio.sleep(0.01)


async def send(session: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> Any:
    async with session.request(method, path, json=body) as response:
        answer = await response.json()
        assert response.status == 200, answer
        return answer["result"]


async def put_until_refused(url: str, first: int, acknowledged: set[int]) -> None:
    """Write single points, one after another, and note each one that is acknowledged."""
    async with aiohttp.ClientSession(url) as session:
        number = first
        while True:
            try:
                await send(session, "PUT", "/collections/c/points?wait=true", points(number, number + 1))
            except aiohttp.ClientError:
                return
            acknowledged.add(number)
            number += 1


async def stored_ids(url: str) -> set[int]:
    async with aiohttp.ClientSession(url) as session:
        body = {"limit": 1_000_000, "with_payload": False}
        page = await send(session, "POST", "/collections/c/points/scroll", body)
        return {item["id"] for item in page["points"]}


async def test_what_was_acknowledged_survives_kill_9_in_the_middle_of_writes(tmp_path: Path) -> None:
    acknowledged: set[int] = set()
    for round_number in range(3):
        engine = Engine(tmp_path)
        engine.start()
        async with aiohttp.ClientSession(engine.url) as session:
            if round_number == 0:
                await send(session, "PUT", "/collections/c", CREATE)
        before = len(acknowledged)
        first = 1_000_000 * round_number
        writers = [
            asyncio.create_task(put_until_refused(engine.url, first + 10_000 * n, acknowledged)) for n in range(4)
        ]
        wanted = before + 40
        await eventually(lambda: len(acknowledged) >= wanted)  # noqa: B023 - awaited in this round
        engine.kill()
        await asyncio.gather(*writers)
    with Engine(tmp_path) as engine:
        assert acknowledged <= await stored_ids(engine.url)


async def test_the_journal_alone_brings_back_what_was_acknowledged(tmp_path: Path) -> None:
    """A power cut may lose every page that was not synced: all but the journal is put back to the last checkpoint."""
    live, lost = tmp_path / "live", tmp_path / "lost"
    live.mkdir()
    vectors = {"": edge.EdgeVectorParams(4, edge.Distance.Dot)}
    shard = edge.EdgeShard.create(str(live), edge.EdgeConfig(vectors=vectors))
    shard.update(upsert_of(0, 100))
    shard.flush()
    shutil.copytree(live, lost)
    for first in range(100, 300, 20):
        shard.update(upsert_of(first, first + 20))
    shard.update(edge.UpdateOperation.create_field_index("n", edge.PayloadSchemaType.Integer))
    shard.update(edge.UpdateOperation.delete_points([0, 150]))
    shard.update(edge.UpdateOperation.set_payload([1], {"seen": True}))
    workers = Workers()
    Journal(live / "wal", workers.disk).sync()
    workers.close()
    shutil.rmtree(lost / "wal")
    shutil.copytree(live / "wal", lost / "wal")
    shard.close()

    opened = edge.EdgeShard.load(str(lost))
    assert opened.count(edge.CountRequest()) == 298
    late = edge.Filter(must=[edge.FieldCondition("n", range=edge.RangeFloat(gte=250))])
    assert opened.count(edge.CountRequest(filter=late)) == 50
    assert opened.retrieve([1], True, False)[0].payload == {"n": 1, "seen": True}
    assert opened.retrieve([150], True, False) == []
    assert opened.info().payload_schema["n"].points == 298
    opened.close()


async def test_every_file_of_the_journal_that_may_hold_a_write_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("open-3", "open-4", "closed-1", "first-index"):
        (tmp_path / name).write_bytes(b"x")
    synced: list[str] = []

    def note(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "fdatasync", note)
    workers = Workers()
    journal = Journal(tmp_path, workers.disk)
    journal.sync()
    journal.sync()
    workers.close()
    assert synced == ["closed-1", "open-3", "open-4", "open-3", "open-4"]


async def test_writers_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open-1").write_bytes(b"x")
    workers = Workers()
    journal = Journal(tmp_path, workers.disk)
    first = asyncio.create_task(journal.durable())
    await asyncio.sleep(0)
    # The first sync is taken by the writer before; who comes now may not have been written when it began.
    await asyncio.gather(*(journal.durable() for _ in range(50)), first)
    assert 1 <= journal.syncs <= 2
    await journal.durable()
    assert journal.syncs <= 3
    workers.close()


async def test_a_writer_waits_for_a_sync_that_began_after_its_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers()
    journal = Journal(tmp_path, workers.disk)
    loop = asyncio.get_running_loop()
    began, go_on = asyncio.Event(), asyncio.Event()
    rounds: list[int] = []

    def slow_sync() -> None:
        rounds.append(len(rounds))
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()

    monkeypatch.setattr(journal, "sync", slow_sync)
    first = asyncio.create_task(journal.durable())
    await began.wait()
    late = asyncio.create_task(journal.durable())
    await asyncio.sleep(0)
    go_on.set()
    await first
    await late
    assert rounds == [0, 1]
    workers.close()


async def test_after_a_failed_sync_none_succeeds_until_the_journal_is_trusted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system tells of a failed write-back once: a second sync would succeed without what the first lost."""
    workers = Workers()
    journal = Journal(tmp_path, workers.disk)
    failures = [OSError(28, "No space left on device")]

    def sync() -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(journal, "sync", sync)
    with pytest.raises(OSError, match="No space"):
        await journal.durable()
    with pytest.raises(OSError, match="earlier sync failed"):
        await journal.durable()
    journal.reset()
    await journal.durable()
    workers.close()


async def test_a_sync_that_fails_oddly_leaves_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers()
    journal = Journal(tmp_path, workers.disk)

    def sync() -> None:
        raise ValueError("odd")

    monkeypatch.setattr(journal, "sync", sync)
    with pytest.raises(ValueError, match="odd"):
        await asyncio.wait_for(journal.durable(), 5)
    workers.close()


@pytest.fixture
async def collection(tmp_path: Path) -> AsyncIterator[Collection]:
    store = Store(tmp_path / "store")
    store.open()
    await store.create("c", schema.validate({"vectors": {"size": 4, "distance": "Dot"}}))
    yield store.get("c")
    store.close()


async def write(collection: Collection, first: int, last: int) -> int:
    return await collection.write(lambda shard: collection.apply(shard, [upsert_of(first, last)]), 100)


async def count(collection: Collection) -> int:
    return await collection.read(lambda shard: shard.count(edge.CountRequest()))


async def test_a_write_is_acknowledged_only_after_the_sync(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()
    monkeypatch.setattr(collection.journal, "sync", may_end.wait)
    writing = asyncio.create_task(write(collection, 0, 5))
    async with asyncio.timeout(30):
        while await count(collection) == 0:
            pass
    assert not writing.done()
    may_end.set()
    await writing


async def test_after_a_failed_sync_the_next_write_first_brings_everything_to_the_disk(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(collection.journal, "sync", full)
        with pytest.raises(OSError, match="No space left"):
            await write(collection, 0, 5)
        patched.setattr(collection, "checkpoint", full)
        with pytest.raises(OSError, match="No space left"):
            await write(collection, 5, 10)
        assert await count(collection) == 5
    before = collection.checkpointed
    await write(collection, 5, 10)
    assert await count(collection) == 10
    assert collection.checkpointed > before


async def test_a_queued_read_is_dropped_when_its_client_leaves(collection: Collection) -> None:
    go_on = threading.Event()
    ran: list[str] = []
    first = asyncio.create_task(collection.read(lambda _: go_on.wait()))
    second = asyncio.create_task(collection.read(lambda _: ran.append("dropped")))
    third = asyncio.create_task(collection.read(lambda _: ran.append("kept")))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(first, third)
    assert ran == ["kept"]


def test_new_files_and_their_directories_are_synced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def note(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append(str(path.relative_to(tmp_path)))

    monkeypatch.setattr(os, "fsync", note)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"1")
    tree = Tree(tmp_path)
    tree.sync_changes()
    assert sorted(synced) == [".", "a", "a/one"]
    synced.clear()
    tree.sync_changes()
    # A directory that changed within the clock's last tick is synced again, its known files are not.
    assert set(synced) <= {".", "a"}
    an_hour_ago = time.time() - 3600
    for folder in (tmp_path / "a", tmp_path):
        os.utime(folder, (an_hour_ago, an_hour_ago))
    tree.sync_changes()
    synced.clear()
    tree.sync_changes()
    assert synced == []
    (tmp_path / "a" / "two").write_bytes(b"2")
    tree.sync_changes()
    assert synced == ["a/two", "a"]


async def test_half_made_and_half_deleted_collections_are_cleaned_up_at_the_start(tmp_path: Path) -> None:
    with Engine(tmp_path) as engine:
        async with aiohttp.ClientSession(engine.url) as session:
            for name in ("kept", "half-made", "half-deleted"):
                await send(session, "PUT", f"/collections/{name}", CREATE)
            alias = {"create_alias": {"alias_name": "a", "collection_name": "half-deleted"}}
            await send(session, "POST", "/collections/aliases", {"actions": [alias]})
    home = tmp_path / "collections"
    folders = {(folder / "collection.json").read_bytes(): folder for folder in home.iterdir()}
    for description, folder in folders.items():
        if b"half-made" in description:
            (folder / "collection.json").unlink()
        if b"half-deleted" in description:
            folder.rename(folder.with_suffix(".dead"))
    with Engine(tmp_path) as engine:
        async with aiohttp.ClientSession(engine.url) as session:
            names = (await send(session, "GET", "/collections"))["collections"]
            assert names == [{"name": "kept"}]
            assert (await send(session, "GET", "/aliases"))["aliases"] == []
    assert len(list(home.iterdir())) == 1


async def test_collections_aliases_indexes_and_points_survive_a_restart(tmp_path: Path) -> None:
    with Engine(tmp_path) as engine:
        async with aiohttp.ClientSession(engine.url) as session:
            await send(session, "PUT", "/collections/c", {**CREATE, "metadata": {"m": 1}})
            await send(session, "PATCH", "/collections/c", {"metadata": {"n": 2}})
            index = {"field_name": "n", "field_schema": "integer"}
            await send(session, "PUT", "/collections/c/index", index)
            await send(session, "PUT", "/collections/c/points", points(0, 10))
            alias = {"create_alias": {"alias_name": "a", "collection_name": "c"}}
            await send(session, "POST", "/collections/aliases", {"actions": [alias]})
    with Engine(tmp_path) as engine:
        async with aiohttp.ClientSession(engine.url) as session:
            info = await send(session, "GET", "/collections/a")
            assert info["config"]["metadata"] == {"m": 1, "n": 2}
            assert info["payload_schema"] == {"n": {"data_type": "integer", "points": 10}}
            assert (await send(session, "POST", "/collections/a/points/count", {})) == {"count": 10}


def alias_to(collection: str) -> dict[str, Any]:
    return {"actions": [{"create_alias": {"alias_name": "a", "collection_name": collection}}]}


async def move_until_refused(url: str, moves: list[str]) -> None:
    """Move an alias to and fro, noting each move before it is asked for."""
    async with aiohttp.ClientSession(url) as session:
        while True:
            moves.append("cd"[len(moves) % 2])
            try:
                await send(session, "POST", "/collections/aliases", alias_to(moves[-1]))
            except aiohttp.ClientError:
                return


async def test_an_alias_stands_where_it_was_moved_last_after_kill_9_in_the_middle_of_moves(tmp_path: Path) -> None:
    with Engine(tmp_path) as engine:
        async with aiohttp.ClientSession(engine.url) as session:
            for name in "cd":
                await send(session, "PUT", f"/collections/{name}", CREATE)
    for _ in range(3):
        engine = Engine(tmp_path)
        engine.start()
        moves: list[str] = []
        moving = asyncio.create_task(move_until_refused(engine.url, moves))
        await eventually(lambda: len(moves) > 10)  # noqa: B023 - awaited in this round
        engine.kill()
        await moving
        with Engine(tmp_path) as again:
            async with aiohttp.ClientSession(again.url) as session:
                (alias,) = (await send(session, "GET", "/aliases"))["aliases"]
        # The last one was not acknowledged: done or not done.
        assert alias["collection_name"] in moves[-2:]


async def test_actions_of_which_one_fails_change_nothing(tmp_path: Path) -> None:
    """Stricter than Qdrant, which keeps what it did before the one that failed."""
    with Engine(tmp_path) as engine:
        async with aiohttp.ClientSession(engine.url) as session:
            await send(session, "PUT", "/collections/c", CREATE)
            await send(session, "POST", "/collections/aliases", alias_to("c"))
            rename = {"rename_alias": {"old_alias_name": "a", "new_alias_name": "b"}}
            bad = {"actions": [rename, *alias_to("no-such")["actions"]]}
            async with session.post("/collections/aliases", json=bad) as response:
                assert response.status == 404
            expected = [{"alias_name": "a", "collection_name": "c"}]
            assert (await send(session, "GET", "/aliases"))["aliases"] == expected
