"""Rows 22, 23 and 24 of the fault table, over the application: flapping circuits, the one probe, no storms."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hartonomous.clients.breaker import Breaker
from hartonomous.log import logger
from tests.service import fault_backend as fault
from tests.service.application import WAIT_S, ConfigMaker, RunningApp, eventually, running
from tests.service.fault_backend import FaultBackend

CHAT = "/v1/chat/completions"
RERANK = "/v1/rerank"
BODY = {"messages": [{"role": "user", "content": "Hello"}], "query": "q", "documents": ["a", "b"]}
DOWN = fault.reply(500)


@asynccontextmanager
async def served(make_config: ConfigMaker, *backends: FaultBackend, **service: Any) -> AsyncIterator[RunningApp]:
    """The application with these addresses for chat and reranking; their health is not polled meanwhile."""
    settings = {"urls": tuple(backend.url for backend in backends), **service}
    config = make_config(backends={"reranking": settings, "generative": settings}, health={"interval_s": 1000.0})
    async with running(config) as app:
        await eventually(app.runtime.monitor.first_round.is_set, "the first poll")
        yield app


def quick(failures: int = 1, open_s: float = 0.02, max_open_s: float = 10.0) -> dict[str, float]:
    """Return the settings of a circuit that opens soon and for a short time."""
    return {"failures": failures, "open_s": open_s, "max_open_s": max_open_s}


def circuit(app: RunningApp, service: str = "generative", address: int = 0) -> Breaker:
    return app.runtime.pools[service].replicas[address].breaker


async def ask(app: RunningApp, path: str = CHAT, **fields: Any) -> tuple[int, Any, dict[str, str]]:
    async with app.session.post(app.url + path, json=BODY | fields) as response:
        return response.status, await response.json(), dict(response.headers)


async def opened(app: RunningApp, backend: FaultBackend) -> Breaker:
    """Let the circuit of the chat service open, and its time pass."""
    backend.on(CHAT, DOWN)
    assert (await ask(app))[0] == 502
    breaker = circuit(app)
    assert breaker.state == "open"
    await eventually(lambda: breaker.due, "a probe is due")
    backend.requests.clear()
    return breaker


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged of circuits and failures: the states of the circuits and "failed", one after the other."""
    states: list[str] = []

    def keep(message: Any) -> None:
        record = message.record
        if record["message"] == "circuit changed":
            states.append(record["extra"]["state"])
        elif record["level"].name == "WARNING" and "generative" in record["message"]:
            states.append("failed")

    sink = logger.add(keep, level="DEBUG")
    yield states
    logger.remove(sink)


async def test_row_22_a_flapping_backend_is_left_alone_for_longer_each_time_and_logs_changes_alone(
    make_config: ConfigMaker, faulty: FaultBackend, lines: list[str]
) -> None:
    times = []
    async with served(make_config, faulty, breaker=quick(2, 0.05)) as app:
        breaker = circuit(app)
        for _ in range(4):
            faulty.on(CHAT, DOWN)
            assert [(await ask(app))[0] for _ in range(2)] == [502, 502]
            times.append(breaker.retry_after_s)
            await eventually(lambda: breaker.due, "a probe is due")
            faulty.on(CHAT, fault.DEFAULT)
            assert (await ask(app))[0] == 200
        changes = 'hartonomous_breaker_changes_total{service="generative",state="open"}'
        assert await app.metric(changes) == 4
    assert all(open_s <= 0.05 * 2**number for number, open_s in enumerate(times))
    assert times[3] > 0.1  # at least half of 0.4 s, less what has passed since
    assert lines == ["failed", "open", "failed", "half-open", "closed"] * 4


async def test_an_open_circuit_answers_without_asking_the_backend_or_waiting_for_it(
    make_config: ConfigMaker, faulty: FaultBackend, lines: list[str]
) -> None:
    async with served(make_config, faulty, breaker=quick(open_s=200.0, max_open_s=300.0)) as app:
        faulty.on(CHAT, DOWN)
        assert (await ask(app))[0] == 502
        async with asyncio.timeout(WAIT_S):
            for _ in range(20):
                status, answer, headers = await ask(app)
                assert (status, answer["error"]["type"]) == (503, "backend_unavailable")
                assert 100 - WAIT_S <= int(headers["Retry-After"]) <= 200
        assert len(faulty.calls(CHAT)) == 1
        assert await app.metric('hartonomous_backend_refusals_total{reason="open",service="generative"}') == 20
        assert lines == ["open", "failed"]  # and no line for each that was refused
        address = f'{{address="{faulty.url}",service="generative"}}'
        assert await app.metric("hartonomous_breaker_state" + address) == 2


async def test_row_23_half_open_lets_one_probe_through(make_config: ConfigMaker, faulty: FaultBackend) -> None:
    async with served(make_config, faulty, breaker=quick()) as app:
        breaker = await opened(app, faulty)
        well = asyncio.Event()
        faulty.on(CHAT, fault.after(fault.DEFAULT, well))
        asking = [asyncio.create_task(ask(app)) for _ in range(50)]
        await eventually(lambda: sum(task.done() for task in asking) == 49, "the others are answered")
        assert (len(faulty.calls(CHAT)), breaker.state) == (1, "half-open")
        well.set()
        answers = await asyncio.gather(*asking)
        assert Counter(status for status, _, _ in answers) == {503: 49, 200: 1}
        assert {headers.get("Retry-After") for status, _, headers in answers if status == 503} == {"1"}
        assert {status for status, _, _ in await asyncio.gather(*(ask(app) for _ in range(20)))} == {200}
        assert len(faulty.calls(CHAT)) == 21


async def test_row_23_a_probe_that_fails_opens_the_circuit_again(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    async with served(make_config, faulty, breaker=quick(5, 0.05)) as app:
        faulty.on(CHAT, DOWN)
        assert [(await ask(app))[0] for _ in range(5)] == [502] * 5
        breaker = circuit(app)
        await eventually(lambda: breaker.due, "a probe is due")
        assert (await ask(app))[0] == 502
        assert (breaker.state, (await ask(app))[0]) == ("open", 503)
        assert len(faulty.calls(CHAT)) == 6


async def test_row_23_a_probe_whose_client_leaves_makes_the_next_caller_the_probe(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    async with served(make_config, faulty, breaker=quick()) as app:
        breaker = await opened(app, faulty)
        faulty.on(CHAT, fault.hang(), fault.DEFAULT)
        probe = asyncio.create_task(ask(app))
        await eventually(lambda: faulty.calls(CHAT), "the probe is under way")
        assert (await ask(app))[0] == 503
        probe.cancel()
        await eventually(lambda: breaker.admits, "the next may be the probe")
        assert breaker.state == "half-open"
        assert (await ask(app))[0] == 200
        assert circuit(app).state == "closed"


async def test_row_23_a_streamed_generation_as_the_probe_frees_the_circuit_with_its_headers(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    async with served(make_config, faulty, breaker=quick()) as app:
        breaker = await opened(app, faulty)
        faulty.on(CHAT, fault.stream(fault.sse(["one"], done=False), "hang"), fault.DEFAULT)
        async with app.session.post(app.url + CHAT, json=BODY | {"stream": True}) as response:
            assert await response.content.readany()
            assert breaker.state == "closed"
            assert {status for status, _, _ in await asyncio.gather(*(ask(app) for _ in range(5)))} == {200}


@pytest.mark.parametrize("failures", [1000, 5])
async def test_row_24_a_backend_that_fails_every_call_sees_little_more_than_what_it_is_offered(
    make_config: ConfigMaker, faulty: FaultBackend, failures: int
) -> None:
    offered = 400
    faulty.on(RERANK, DOWN)
    async with served(make_config, faulty, breaker=quick(failures, 0.1, 0.2), concurrency=16) as app:
        began = time.monotonic()
        crowd = asyncio.Semaphore(32)

        async def one() -> int:
            async with crowd:
                return (await ask(app, RERANK))[0]

        statuses = Counter(await asyncio.gather(*(one() for _ in range(offered))))
        seen = len(faulty.calls(RERANK))
        floor = 10 + time.monotonic() - began  # a window of retries at one a second
        assert set(statuses) <= {502, 503}
        assert seen <= 1.2 * offered + floor
        if failures == 1000:
            assert statuses[502] == offered
            assert seen > offered + 10  # there are retries
            refused = 'hartonomous_backend_retries_total{reason="refused",service="reranking"}'
            assert await app.metric(refused) > offered / 2
        else:
            assert seen < offered / 2  # the circuit keeps most of it away
            assert statuses[503] > offered / 2


async def test_one_dead_address_of_two_leaves_the_other_alone_and_no_caller_notices(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    faulty.on(RERANK, DOWN)
    async with FaultBackend() as well, served(make_config, faulty, well, breaker=quick(3, 20.0, 30.0)) as app:
        answers = [(await ask(app, RERANK))[0] for _ in range(30)]
        assert answers == [200] * 30
        assert (len(faulty.calls(RERANK)), len(well.calls(RERANK))) == (3, 30)
        assert [circuit(app, "reranking", address).state for address in (0, 1)] == ["open", "closed"]
