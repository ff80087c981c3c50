"""Limits counted in a real Redis by several processes, and by each alone while it is away."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from hartonomous.cache.redis_pool import CONNECTIONS
from hartonomous.config import Redis
from hartonomous.core.ratelimit import Rate
from hartonomous.limiting import shared
from hartonomous.limiting.policy import Asked, Entry, Kind, Refusal
from hartonomous.limiting.shared import SharedStore
from hartonomous.metrics import Metrics
from hartonomous.parts import Parts
from hartonomous.wiring import open_limiter
from tests.redis import RedisServer
from tests.service.application import WAIT_S, ConfigMaker, eventually

PROCESSES = 3
BURST = Asked(None, ((Kind.REQUESTS, Rate(0.001, 50.0), 1.0),))
PLACES = Asked(6, ())

StoreMaker = Callable[..., SharedStore]


@pytest.fixture
async def make_store(redis_server: RedisServer) -> AsyncIterator[StoreMaker]:
    """A maker of stores; each stands for a process."""
    async with AsyncExitStack() as stack:

        def make(life_s: float = 30.0, timeout_s: float = 5.0) -> SharedStore:
            config = Redis(url=redis_server.url, timeout_s=timeout_s)
            store = SharedStore(config, PROCESSES, Metrics(), life_s=life_s)
            stack.push_async_callback(store.close)
            return store

        yield make


async def enter_all(stores: list[SharedStore], name: str, asked: Asked, times: int) -> list[Entry | Refusal]:
    return await asyncio.gather(*(stores[number % len(stores)].enter(name, asked) for number in range(times)))


def admitted(found: list[Entry | Refusal]) -> list[Entry]:
    return [one for one in found if isinstance(one, Entry)]


async def count(redis: RedisServer, name: str) -> int:
    return int((await redis.command("ZCARD", f"hartonomous:limits:{{{name}}}:places"))[1:])


async def counted(redis: RedisServer, name: str, places: int) -> None:
    """Wait until there are so many places."""
    ends = asyncio.get_running_loop().time() + WAIT_S
    while await count(redis, name) != places:
        assert asyncio.get_running_loop().time() < ends
        await asyncio.sleep(0.005)


async def test_several_processes_admit_exactly_the_burst(make_store: StoreMaker) -> None:
    stores = [make_store() for _ in range(PROCESSES)]
    found = await enter_all(stores, "a", BURST, 200)
    assert len(admitted(found)) == 50
    refused = next(one for one in found if isinstance(one, Refusal))
    assert refused.quota.remaining == 0
    assert refused.wait_s > 1
    assert len(admitted(await enter_all(stores, "b", BURST, 10))) == 10


async def test_several_processes_admit_exactly_so_many_at_once(make_store: StoreMaker) -> None:
    stores = [make_store() for _ in range(PROCESSES)]
    entries = admitted(await enter_all(stores, "a", PLACES, 60))
    assert len(entries) == 6
    assert len({entry.place for entry in entries}) == 6


async def test_what_a_process_gives_back_the_others_can_use(make_store: StoreMaker, redis_server: RedisServer) -> None:
    first, second = make_store(), make_store()
    asked = Asked(1, ((Kind.BYTES, Rate(0.001, 100.0), 100.0),))
    entry = await first.enter("a", asked)
    assert isinstance(entry, Entry)
    assert isinstance(await second.enter("a", asked), Refusal)
    first.settle("a", entry.place, ((Kind.BYTES, Rate(0.001, 100.0), -100.0),))
    await first.close()
    assert isinstance(await second.enter("a", asked), Entry)


async def test_debts_made_by_one_process_hold_for_all(make_store: StoreMaker) -> None:
    first, second = make_store(), make_store()
    rate = Rate(0.001, 100.0)
    first.settle("a", None, ((Kind.TOKENS, rate, 150.0),))
    await first.close()
    refused = await second.enter("a", Asked(None, ((Kind.TOKENS, rate, 0.0),)))
    assert isinstance(refused, Refusal)
    assert 49_000 < refused.wait_s <= 50_001


async def test_real_processes_admit_exactly_the_burst(redis_server: RedisServer) -> None:
    program = f"""
import asyncio
from tests.limiting.test_shared import *
async def main():
    store = SharedStore(Redis(url={redis_server.url!r}, timeout_s=20.0), 3, Metrics())
    print(len(admitted(await enter_all([store], "a", BURST, 70))))
    await store.close()
asyncio.run(main())
"""
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
        for _ in range(PROCESSES)
    ]
    told = await asyncio.gather(*(process.communicate() for process in processes))
    assert sum(int(out) for out, _ in told) == 50


async def test_the_places_of_a_process_that_died_are_free_after_a_while(
    make_store: StoreMaker, redis_server: RedisServer
) -> None:
    dying, living = make_store(life_s=0.9), make_store(life_s=0.9)
    await enter_all([dying], "a", PLACES, 5)
    entry = await living.enter("a", PLACES)
    assert isinstance(entry, Entry)
    assert dying._renewing is not None
    dying._renewing.cancel()

    async def free() -> bool:
        found = await living.enter("a", PLACES)
        if isinstance(found, Entry):
            living.settle("a", found.place)
        return isinstance(found, Entry)

    ends = asyncio.get_running_loop().time() + 30
    while not await free():
        assert asyncio.get_running_loop().time() < ends
        await asyncio.sleep(0.05)
    assert await redis_server.command("ZSCORE", "hartonomous:limits:{a}:places", str(entry.place)) != b"$-1\r\n"


async def test_without_redis_each_process_counts_its_share_and_then_all_together_again(
    make_store: StoreMaker, redis_server: RedisServer
) -> None:
    stores = [make_store(timeout_s=2.0) for _ in range(PROCESSES)]
    under_way = await stores[0].enter("a", PLACES)
    assert isinstance(under_way, Entry)
    redis_server.kill()
    for store in stores:
        assert len(admitted(await enter_all([store], "b", BURST, 30))) == 16
        assert store.is_away
    # One of the two places of its share is taken by what began before.
    assert len(admitted(await enter_all([stores[0]], "a", PLACES, 5))) == 1
    assert len(admitted(await enter_all([stores[1]], "a", PLACES, 5))) == 2
    await redis_server.start()
    await eventually(lambda: not any(store.is_away for store in stores), "redis is found")
    assert await count(redis_server, "a") == 1
    assert len(admitted(await enter_all(stores, "c", BURST, 100))) == 50
    stores[0].settle("a", under_way.place)
    await stores[0].close()
    assert await count(redis_server, "a") == 0


async def test_a_redis_that_hangs_is_waited_for_once_and_not_by_everybody(
    make_store: StoreMaker, redis_server: RedisServer
) -> None:
    store = make_store(timeout_s=0.3)
    assert isinstance(await store.enter("a", BURST), Entry)
    redis_server.hang()
    try:
        await store.enter("a", BURST)
        assert store.is_away
        for _ in range(10):
            entering = store.enter("a", BURST)
            with pytest.raises(StopIteration):
                entering.send(None)  # without having waited for anything
    finally:
        redis_server.go_on()
    await eventually(lambda: not store.is_away, "redis is found")


async def test_a_caller_that_leaves_while_redis_decides_holds_no_place(
    make_store: StoreMaker, redis_server: RedisServer
) -> None:
    store = make_store()
    await store.enter("warm", BURST)
    for delay in range(40):
        entering = asyncio.create_task(store.enter("a", PLACES))
        for _ in range(delay):
            await asyncio.sleep(0)
        entering.cancel()
        await asyncio.wait({entering})
        if not entering.cancelled() and isinstance(found := entering.result(), Entry):
            store.settle("a", found.place)
    await eventually(lambda: not store._tasks, "all is settled")
    assert await count(redis_server, "a") == 0
    assert not store._places


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is looked for often."""
    monkeypatch.setattr(shared, "PAUSE_S", 0.05)


async def places(store: SharedStore, name: str, asked: Asked, times: int) -> list[str]:
    """Enter so often, and return the places that there were."""
    return [str(entry.place) for entry in admitted(await enter_all([store], name, asked, times))]


@pytest.mark.usefixtures("quick")
async def test_places_given_back_while_redis_stalls_are_free_when_it_is_back(
    make_store: StoreMaker, redis_server: RedisServer
) -> None:
    store = make_store(timeout_s=0.3)
    held = await places(store, "a", PLACES, 6)
    redis_server.hang()
    try:
        await store.enter("b", BURST)
        assert store.is_away
        for place in held:
            store.settle("a", place)
    finally:
        redis_server.go_on()
    await eventually(lambda: not store.is_away, "redis is found")
    assert await count(redis_server, "a") == 0
    assert len(await places(store, "a", PLACES, 6)) == 6
    assert not store._owed


@pytest.mark.usefixtures("quick")
async def test_what_redis_did_too_late_to_be_heard_holds_no_place(
    make_store: StoreMaker, redis_server: RedisServer
) -> None:
    """It lets a request in, and takes a place back, when nobody waits for its answers any more."""
    store = make_store(timeout_s=0.3)
    [held, lasting] = await places(store, "a", PLACES, 2)
    redis_server.hang()
    try:
        entering = asyncio.create_task(store.enter("a", PLACES))
        await eventually(lambda: store._tasks)
        store.settle("a", held)
        entry = await entering
        assert isinstance(entry, Entry)
        assert store.is_away
    finally:
        redis_server.go_on()
    await eventually(lambda: not store.is_away, "redis is found")
    assert await count(redis_server, "a") == 1
    store.settle("a", entry.place)
    store.settle("a", lasting)
    await eventually(lambda: not store._tasks, "all is settled")
    assert await count(redis_server, "a") == 0


@pytest.mark.parametrize("is_noticed", [True, False])
@pytest.mark.usefixtures("quick")
async def test_a_place_given_back_while_lost_ones_are_taken_again_does_not_come_back(
    make_store: StoreMaker, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, is_noticed: bool
) -> None:
    store = make_store(life_s=3.0)
    held = await places(store, "a", PLACES, 4)
    renew = store._renew

    async def renewed(keys: list[str], arguments: list[Any]) -> Any:
        if arguments[1] == "":
            store.settle("a", held.pop())
            await eventually(lambda: not store._tasks, "it is settled")
        return await renew(keys, arguments)

    monkeypatch.setattr(store, "_renew", renewed)
    if is_noticed:
        redis_server.kill()
        await store.enter("b", BURST)
        assert store.is_away
        await redis_server.start()
        await eventually(lambda: not store.is_away, "redis is found")
    else:
        assert await redis_server.command("FLUSHALL")
    await counted(redis_server, "a", 3)
    assert not store._owed


async def test_places_that_redis_forgot_unnoticed_are_taken_again(
    make_store: StoreMaker, redis_server: RedisServer
) -> None:
    store = make_store(life_s=1.5)
    held = await places(store, "a", PLACES, 6)
    await redis_server.command("FLUSHALL")
    await counted(redis_server, "a", 6)
    assert not await places(store, "a", PLACES, 4)
    for place in held:
        store.settle("a", place)
    await store.close()
    assert await count(redis_server, "a") == 0


@pytest.mark.usefixtures("quick")
async def test_a_redis_that_takes_nothing_is_away_and_asked_less_and_less_often(
    make_store: StoreMaker, redis_server: RedisServer
) -> None:
    store = make_store()
    await redis_server.command("CONFIG", "SET", "maxmemory", "1")
    assert isinstance(await store.enter("a", BURST), Entry)
    finding = store._finding
    await eventually(lambda: store._pause_s > 10 * shared.PAUSE_S or store._finding is not finding)
    assert store._finding is finding is not None
    assert store._metrics.limits_alone.value == 1
    await redis_server.command("CONFIG", "SET", "maxmemory", "0")
    await eventually(lambda: not store.is_away, "redis is found")
    assert store._pause_s > shared.PAUSE_S
    await store.enter("a", BURST)
    assert store._pause_s == shared.PAUSE_S


async def test_thousands_who_ask_at_once_do_not_take_a_healthy_redis_for_away(
    make_store: StoreMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is answered soon after its turn, though all together take longer than one may."""
    timeout_s, connections = 2.5, asyncio.Semaphore(CONNECTIONS)
    store = make_store(timeout_s=timeout_s)
    script = store._enter

    async def slower(keys: list[str], arguments: list[Any]) -> Any:
        async with connections:
            await asyncio.sleep(0.05)
            return await script(keys, arguments)

    monkeypatch.setattr(store, "_enter", slower)
    asked = Asked(5_000, ((Kind.REQUESTS, Rate(0.001, 1_500.0), 1.0),))
    began = asyncio.get_running_loop().time()
    assert len(admitted(await enter_all([store], "a", asked, 2_000))) == 1_500
    assert asyncio.get_running_loop().time() - began > timeout_s
    assert not store.is_away


@pytest.mark.usefixtures("quick")
async def test_an_unexpected_error_does_not_end_the_search_for_redis(
    make_store: StoreMaker, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()
    [place] = await places(store, "a", PLACES, 1)
    renew = store._renew
    errors = [ValueError("unexpected")]

    async def renewed(keys: list[str], arguments: list[Any]) -> Any:
        if errors:
            raise errors.pop()
        return await renew(keys, arguments)

    redis_server.kill()
    await store.enter("b", BURST)
    monkeypatch.setattr(store, "_renew", renewed)
    await redis_server.start()
    await eventually(lambda: not store.is_away, "redis is found")
    assert not errors
    assert await count(redis_server, "a") == 1
    store.settle("a", place)


@pytest.mark.usefixtures("quick")
async def test_a_store_that_was_replaced_does_not_leave_its_loss_in_the_metrics(
    redis_server: RedisServer, make_config: ConfigMaker
) -> None:
    parts, metrics = Parts(), Metrics()
    async with AsyncExitStack() as new, AsyncExitStack() as old:
        for stack, timeout_s in ((old, 1.0), (new, 2.0)):
            config = make_config(
                redis={"url": redis_server.url, "timeout_s": timeout_s}, limits={"address": {"requests_per_s": 5.0}}
            )
            limiter = open_limiter(config, metrics, parts, stack)
            if stack is old:
                replaced = limiter
        redis_server.kill()
        await replaced.enter("address 203.0.113.1", replaced.address, None)
        assert metrics.limits_alone.value == 1
        await old.aclose()
        assert metrics.limits_alone.value == 0
