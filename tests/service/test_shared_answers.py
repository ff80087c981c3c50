"""Two processes share answers through a real Redis, which is killed, started anew and brought back as it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from hartonomous.cache.shared import SharedCache
from hartonomous.clients.moving import Mover
from hartonomous.config import Chunking, Redis
from hartonomous.metrics import Metrics
from hartonomous.pipelines.copying import Copier
from hartonomous.pipelines.reindex import Plan, Reindexer
from hartonomous.wiring import open_storage
from tests.accepting import Accepting
from tests.pipelines.fakes import call
from tests.redis import RedisServer
from tests.service.application import WAIT_S, eventually, merged
from tests.service.rag import CHAT, Rig, RigMaker, ask, ingest, sample, says
from tests.service.test_answer_cache import LIME, ON, QUERY, headers

TEXT = "Limes are green. A lime weighs {} grams."


@pytest.fixture
async def two(rigs: RigMaker, redis_server: RedisServer) -> AsyncIterator[tuple[Rig, Rig]]:
    """Two applications before one store and one Redis; their backends are counted apart."""
    shared = merged(ON, {"redis": {"url": redis_server.url}, "server": {"processes": 2}})
    async with rigs.make(**shared) as first, rigs.make(**shared) as second:
        for rig in (first, second):
            rig.generative.on(CHAT, says("A lime weighs some grams."))
        await ingest(first.app, {"id": "lime", "text": TEXT.format(67)})
        yield first, second


async def grams(rig: Rig) -> str:
    """Return what the sources of an answer say."""
    status, answer = await ask(rig.app, QUERY, LIME)
    assert status == 200, answer
    return str(answer["sources"][0]["text"])


async def test_what_one_answered_the_other_gives(two: tuple[Rig, Rig]) -> None:
    first, second = two
    _, made = await ask(first.app, QUERY, LIME)
    _, given = await ask(second.app, QUERY, LIME)
    assert given["answer"] == made["answer"]
    assert not second.generative.calls(CHAT)
    assert await headers(second, LIME) == ("hit", "young")


async def test_a_change_by_one_is_seen_by_the_other_at_once(two: tuple[Rig, Rig]) -> None:
    first, second = two
    for number in range(70, 76):
        await asyncio.gather(grams(first), grams(second))
        await ingest((first, second)[number % 2].app, {"id": "lime", "text": TEXT.format(number)})
        assert await grams(first) == await grams(second) == TEXT.format(number)


async def test_without_redis_requests_go_on_and_nothing_old_comes_back(
    two: tuple[Rig, Rig], redis_server: RedisServer
) -> None:
    first, second = two
    assert await grams(first) == await grams(second) == TEXT.format(67)
    redis_server.kill()
    await ingest(first.app, {"id": "lime", "text": TEXT.format(99)})
    assert await grams(first) == await grams(second) == TEXT.format(99)
    assert await headers(second, LIME) == ("miss", None)
    assert sample(second.app, "hartonomous_redis_up") == 0
    await redis_server.start()
    await eventually_hit(first)
    await eventually_hit(second)
    assert await grams(first) == await grams(second) == TEXT.format(99)
    assert sample(second.app, "hartonomous_redis_up") == 1


async def test_who_only_ingests_tells_the_others_when_redis_is_back(
    two: tuple[Rig, Rig], redis_server: RedisServer
) -> None:
    first, second = two
    assert await grams(first) == await grams(second) == TEXT.format(67)
    redis_server.hang()
    await grams(first)  # notices that Redis is away
    await ingest(first.app, {"id": "lime", "text": TEXT.format(99)})
    redis_server.go_on()
    ends = asyncio.get_running_loop().time() + WAIT_S
    while await grams(second) != TEXT.format(99):
        assert asyncio.get_running_loop().time() < ends, "the second one still answers from before"
        await asyncio.sleep(0.05)


async def eventually_hit(rig: Rig) -> None:
    for _ in range(200):
        if (await headers(rig, LIME))[0] == "hit":
            return
        await asyncio.sleep(0.1)
    raise AssertionError("answers are not kept again")


@pytest.fixture
async def shared(redis_server: RedisServer) -> AsyncIterator[SharedCache]:
    cache = SharedCache(Redis(url=redis_server.url), Metrics())
    yield cache
    await cache.close()


async def test_a_value_has_the_time_that_it_was_given(shared: SharedCache) -> None:
    await shared.put("key", b"\x00value", 60)
    found = await shared.get("key")
    assert found is not None
    assert found[0] == b"\x00value"
    assert 59 < found[1] <= 60
    assert await shared.get("other") is None


async def test_a_stamp_that_is_gone_is_made_anew_and_known_to_all(
    shared: SharedCache, redis_server: RedisServer
) -> None:
    other = SharedCache(Redis(url=redis_server.url), Metrics())
    stamps = {await shared.current("docs")}
    assert await other.current("docs") in stamps
    await other.advance("docs")
    stamps.add(await shared.current("docs"))
    await redis_server.command("FLUSHALL")
    new = await asyncio.gather(*(cache.current("docs") for cache in (shared, other) * 5))
    assert len(set(new)) == 1
    stamps |= set(new)
    await redis_server.command("DEL", "hartonomous:generation:docs")
    stamps.add(await other.current("docs"))
    assert len(stamps) == 4
    assert None not in stamps
    await other.close()


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_while_redis_is_away_only_one_asks_it_and_what_is_owed_comes_first(redis_server: RedisServer) -> None:
    clock, metrics = Clock(), Metrics()
    cache = SharedCache(Redis(url=redis_server.url, timeout_s=2.0), metrics, clock)
    before = await cache.current("docs")
    redis_server.kill()
    await cache.advance("docs")
    assert metrics.registry.get_sample_value("hartonomous_redis_up") == 0
    await redis_server.start()
    assert before is not None
    epoch, _, stamp = before.partition(".")
    for name, value in (("epoch", epoch), ("generation:docs", stamp)):  # an old snapshot
        await redis_server.command("SET", f"hartonomous:{name}", value)
    assert [await cache.current("docs") for _ in range(3)] == [None] * 3
    clock.now += 2
    after = await cache.current("docs")
    assert after is not None
    assert after != before
    assert metrics.registry.get_sample_value("hartonomous_redis_up") == 1
    await cache.close()


async def test_a_redis_that_hangs_costs_its_timeout_once() -> None:
    taken = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        taken += 1
        await reader.read()

    server = Accepting(silent)
    port = server.start("127.0.0.1")
    clock = Clock()
    cache = SharedCache(Redis(url=f"redis://127.0.0.1:{port}/0", timeout_s=0.2), Metrics(), clock)
    assert [await cache.current("docs") for _ in range(50)] == [None] * 50
    assert taken == 1
    clock.now += 2
    assert await cache.current("docs") is None
    assert taken == 2
    await cache.close()
    await server.stop()


async def test_a_redis_that_cannot_be_reached_at_the_start_is_no_reason_not_to_start(rigs: RigMaker) -> None:
    nowhere: Any = merged(ON, {"redis": {"url": "redis://127.0.0.1:9/0"}})
    async with rigs.make(**nowhere) as rig:
        rig.generative.on(CHAT, says("A lime weighs some grams."))
        await ingest(rig.app, {"id": "lime", "text": TEXT.format(67)})
        assert await grams(rig) == TEXT.format(67)
        assert await headers(rig, LIME) == ("miss", None)
        await eventually(lambda: sample(rig.app, "hartonomous_redis_up") == 0)


async def test_a_reindex_by_a_command_beside_the_servers_is_noticed(two: tuple[Rig, Rig]) -> None:
    first, second = two
    await grams(first)
    assert await headers(second, LIME) == ("hit", "young")
    async with AsyncExitStack() as stack:
        storage = open_storage(first.config, Metrics(), stack)
        mover = Mover(storage.pools["qdrant"])
        copier = Copier(storage.vectors, mover, storage.ingestor)
        plan = Plan(first.config.rag.default_collection, Chunking(max_tokens=16, overlap_tokens=0), force=True)
        await Reindexer(storage.embedding, storage.schema, mover, copier).run(plan, call(300), lambda _: None)
    assert await headers(second, LIME) == ("miss", None)
