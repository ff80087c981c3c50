"""Two addresses of which one is slow: the other answers, for a few calls more; and a limit that is found out."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hartonomous.core import adaptive
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from tests.service import fault_backend as fault
from tests.service.application import WAIT_S, ConfigMaker, RunningApp, eventually, running
from tests.service.fault_answers import ranking
from tests.service.fault_backend import Behaviour, Exchange, FaultBackend

CHAT = "/v1/chat/completions"
RERANK = "/v1/rerank"
BODY = {"query": "q", "documents": ["a", "b"]}
WARM = 25
HEDGES = 'hartonomous_backend_hedges_total{service="%s"}'


def ranks_after(delay_s: float) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await fault.json_reply(ranking(exchange.request.json), delay_s=delay_s)(exchange)

    return behave


def addresses(first: FaultBackend, *others: FaultBackend) -> tuple[Any, ...]:
    """Return the addresses for a configuration: the first is asked when none is busy."""
    return {"url": first.url, "weight": 1_000}, *(other.url for other in others)


@asynccontextmanager
async def served(make_config: ConfigMaker, *backends: FaultBackend, **service: Any) -> AsyncIterator[RunningApp]:
    """The application with these addresses for chat and reranking; their health is not polled meanwhile."""
    settings = {"urls": addresses(*backends), **service}
    config = make_config(backends={"reranking": settings, "generative": settings}, health={"interval_s": 1000.0})
    async with running(config) as app:
        await eventually(app.runtime.monitor.first_round.is_set, "the first poll")
        yield app


async def rank(app: RunningApp) -> int:
    return (await app.post(RERANK, BODY))[0]


async def warm(app: RunningApp, backend: FaultBackend) -> None:
    """Let the service's latency be known: three calls of 50 ms are its slowest twentieth."""
    backend.on(RERANK, *[ranks_after(0.05)] * 3, fault.DEFAULT)
    assert [await rank(app) for _ in range(WARM)] == [200] * WARM


async def test_what_a_slow_address_does_not_answer_another_one_does(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    async with FaultBackend() as fast, served(make_config, faulty, fast) as app:
        await warm(app, faulty)
        assert fast.calls(RERANK) == []
        faulty.on(RERANK, fault.hang())
        assert await rank(app) == 200
        assert len(fast.calls(RERANK)) == 1
        async with asyncio.timeout(WAIT_S):
            await faulty.calls(RERANK)[-1].closed.wait()
        assert await app.metric(HEDGES % "reranking") == 1
        assert [replica.active for replica in app.runtime.pools["reranking"].replicas] == [0, 0]
        assert [replica.breaker.state for replica in app.runtime.pools["reranking"].replicas] == ["closed"] * 2


async def test_no_more_than_one_call_in_twenty_is_sent_twice(make_config: ConfigMaker, faulty: FaultBackend) -> None:
    async with FaultBackend() as fast, served(make_config, faulty, fast, concurrency=64) as app:
        await warm(app, faulty)
        faulty.on(RERANK, ranks_after(0.3))
        assert await asyncio.gather(*(rank(app) for _ in range(40))) == [200] * 40
        offered = WARM + 40
        extra = len(faulty.calls(RERANK)) + len(fast.calls(RERANK)) - offered
        # One that is answered in that moment is counted, and no longer sent.
        assert 1 <= extra <= await app.metric(HEDGES % "reranking") <= 0.05 * offered


async def test_where_hedging_is_off_or_the_other_address_is_busy_nothing_is_sent_twice(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    slow = ranks_after(0.1)
    async with FaultBackend() as fast:
        async with served(make_config, faulty, fast) as app:
            await warm(app, faulty)
            other = app.runtime.pools["reranking"].replicas[1]
            other.active = other.slots
            faulty.on(RERANK, slow)
            assert await rank(app) == 200
            other.active = 0
            assert await app.metric(HEDGES % "reranking") == 0
            assert fast.calls(RERANK) == []
        faulty.on(RERANK, fault.DEFAULT)
        off = make_config(
            backends={"reranking": {"urls": addresses(faulty, fast), "hedging": False}}, health={"interval_s": 1000.0}
        )
        async with running(off) as app:
            await warm(app, faulty)
            faulty.on(RERANK, slow)
            assert await rank(app) == 200
            assert fast.calls(RERANK) == []


async def test_a_generation_is_never_sent_twice(make_config: ConfigMaker, faulty: FaultBackend) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    async with FaultBackend() as fast, served(make_config, faulty, fast) as app:
        generative = app.runtime.generative
        for _ in range(WARM):
            await generative.chat(body, Call("test", Deadline(10.0)))
        faulty.on(CHAT, fault.json_reply(fault.completion(["Hello"]), delay_s=0.1))
        await generative.chat(body, Call("test", Deadline(10.0)))
        assert (await app.post(CHAT, body))[0] == 200
        assert fast.calls(CHAT) == []
        assert await app.metric(HEDGES % "generative") == 0


async def test_an_adaptive_limit_grows_while_calls_are_quick_and_shrinks_when_they_get_slow(
    make_config: ConfigMaker, faulty: FaultBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptive, "_ROUND", 8)
    working = itertools.count()
    limits: list[int] = []
    async with served(make_config, faulty, concurrency=6, adaptive_concurrency=True) as app:
        replica = app.runtime.pools["reranking"].replicas[0]
        leave = asyncio.Event()

        async def caller() -> None:
            while not leave.is_set():
                assert await rank(app) == 200
                limits.append(replica.limit)
                assert replica.active <= 6
                next(working)

        assert replica.limit == 1
        faulty.on(RERANK, ranks_after(0.02))
        async with asyncio.TaskGroup() as callers:
            for _ in range(12):
                callers.create_task(caller())
            await eventually(lambda: replica.limit >= 4, "the limit has grown")
            faulty.on(RERANK, ranks_after(0.08))
            await eventually(lambda: replica.limit <= 2, "the limit has shrunk")
            leave.set()
        assert min(limits) >= 1
        assert max(limits) <= 6
