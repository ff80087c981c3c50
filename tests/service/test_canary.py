"""Health: a trial embedding now and then, slots that a service tells of, polls that cost nothing and hold no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.service import fault_backend as fault
from tests.service.application import ConfigMaker, RunningApp, eventually, running
from tests.service.fault_answers import PROPS
from tests.service.fault_backend import Exchange, FaultBackend, embeddings

EMBED = "/v1/embeddings"
BODY = {"input": "Hello"}
FAST = {"interval_s": 0.03, "timeout_s": 1.0, "canary_interval_s": 0.01}


@asynccontextmanager
async def served(
    make_config: ConfigMaker, backend: FaultBackend, health: dict[str, float] = FAST, **service: Any
) -> AsyncIterator[RunningApp]:
    """The application with this embedding service, whose polls follow one another quickly."""
    config = make_config(backends={"embedding": {"urls": (backend.url,), **service}}, health=health)
    async with running(config) as app:
        await eventually(lambda: not app.runtime.monitor.missing(), "everything is up")
        yield app


async def nulls(exchange: Exchange) -> None:
    """Answer as a server whose model is broken: nothing but nulls, with status 200."""
    answer = embeddings(exchange.request.json | {"encoding_format": "float"})
    answer["data"] = [item | {"embedding": [None] * fault.DIMENSION} for item in answer["data"]]
    await fault.json_reply(answer)(exchange)


def canaries(backend: FaultBackend) -> int:
    return sum(request.json["input"] == ["canary"] for request in backend.calls(EMBED))


async def more_polls(backend: FaultBackend, count: int = 5) -> None:
    polls = len(backend.calls("/health"))
    await eventually(lambda: len(backend.calls("/health")) >= polls + count, "more polls")


async def used(app: RunningApp) -> None:
    assert (await app.post(EMBED, BODY))[0] == 200


def status(app: RunningApp) -> str:
    return app.runtime.monitor.status("embedding")


@pytest.mark.parametrize("broken", [nulls, fault.reply(500), fault.reply(200, b"{}"), fault.hang()])
async def test_a_service_that_answers_polls_and_embeds_nothing_is_down_until_it_embeds_again(
    make_config: ConfigMaker, faulty: FaultBackend, broken: fault.Behaviour
) -> None:
    async with served(make_config, faulty, FAST | {"timeout_s": 0.2}) as app:
        await used(app)
        faulty.on(EMBED, broken)
        await eventually(lambda: status(app) == "down", "it is known to be down")
        ready, answer = await app.get("/ready")
        assert (ready, answer["reasons"]) == (503, ["embedding is down"])
        assert app.runtime.monitor.status("qdrant") == "up"
        faulty.on(EMBED, fault.DEFAULT)
        await eventually(lambda: status(app) == "up", "it is up again")
        assert (await app.get("/ready"))[0] == 200


async def test_a_service_that_nobody_uses_gets_no_canary_and_one_that_is_used_gets_one(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    async with served(make_config, faulty) as app:
        await more_polls(faulty)
        assert faulty.calls(EMBED) == []
        await used(app)
        await eventually(lambda: canaries(faulty) == 1, "the canary")
        await more_polls(faulty)
        assert canaries(faulty) == 1
        await used(app)
        await eventually(lambda: canaries(faulty) == 2, "another canary")


async def test_there_is_no_canary_before_its_time(make_config: ConfigMaker, faulty: FaultBackend) -> None:
    async with served(make_config, faulty, FAST | {"canary_interval_s": 1000.0}) as app:
        await used(app)
        await more_polls(faulty)
        assert canaries(faulty) == 0


async def test_a_sleeping_model_is_not_woken(make_config: ConfigMaker, faulty: FaultBackend) -> None:
    async with served(make_config, faulty) as app:
        faulty.on("/props", fault.json_reply(PROPS | {"is_sleeping": True}))
        await used(app)
        await more_polls(faulty)
        assert canaries(faulty) == 0
        assert status(app) == "up"
        faulty.on("/props", fault.DEFAULT)
        await eventually(lambda: canaries(faulty), "awake, it gets its canary")


async def test_a_canary_that_waits_behind_calls_says_nothing(make_config: ConfigMaker, faulty: FaultBackend) -> None:
    go = asyncio.Event()
    async with served(make_config, faulty, FAST | {"timeout_s": 0.1}) as app:
        faulty.on(EMBED, fault.after(fault.DEFAULT, go))
        asking = asyncio.create_task(app.post(EMBED, BODY))
        await eventually(lambda: canaries(faulty) >= 2, "canaries that time out")
        await more_polls(faulty, 2)
        assert status(app) == "up"
        go.set()
        assert (await asking)[0] == 200


async def test_the_circuit_of_the_embedding_service_closes_without_any_caller(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    breaker = {"failures": 1, "open_s": 0.05, "max_open_s": 0.1}
    async with served(make_config, faulty, FAST | {"canary_interval_s": 1000.0}, breaker=breaker) as app:
        circuit = app.runtime.pools["embedding"].replicas[0].breaker
        faulty.on(EMBED, fault.reply(503))
        assert (await app.post(EMBED, BODY))[0] == 503
        assert circuit.state == "open"
        await eventually(lambda: canaries(faulty) == 2, "canaries as probes")
        faulty.on(EMBED, fault.DEFAULT)
        await eventually(lambda: circuit.state == "closed", "the circuit is closed")
        assert len(faulty.calls(EMBED)) == 1 + canaries(faulty)  # one caller
        await used(app)


async def test_the_slots_that_a_generative_service_tells_of_are_taken_over_unless_configured(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    faulty.on("/props", fault.json_reply(PROPS | {"total_slots": 3}))
    health = {"interval_s": 0.03}
    async with running(make_config(backends={"generative": {"urls": (faulty.url,)}}, health=health)) as app:
        replica = app.runtime.pools["generative"].replicas[0]
        await eventually(lambda: replica.slots == 3, "its own slots")
        faulty.on("/props", fault.json_reply(PROPS | {"total_slots": 5}))
        await eventually(lambda: replica.slots == 5, "what it says now")
        for nonsense in (0, -1, True, "7", None):
            faulty.on("/props", fault.json_reply(PROPS | {"total_slots": nonsense}))
            await more_polls(faulty, 2)
            assert replica.slots == 5
    settings = {"urls": (faulty.url,), "concurrency": 2}
    async with running(make_config(backends={"generative": settings}, health=health)) as app:
        await more_polls(faulty, 3)
        assert app.runtime.pools["generative"].replicas[0].slots == 2


async def test_a_poll_that_hangs_delays_no_other_service(make_config: ConfigMaker, faulty: FaultBackend) -> None:
    async with FaultBackend() as hanging:
        hanging.on("/health", fault.hang())
        backends = {"embedding": {"urls": (hanging.url,)}, "generative": {"urls": (faulty.url,)}}
        async with running(make_config(backends=backends, health={"interval_s": 0.03, "timeout_s": 30.0})):
            await more_polls(faulty, 8)
            assert len(hanging.calls("/health")) == 1  # single flight
