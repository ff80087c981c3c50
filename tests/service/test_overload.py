"""More than a backend can do: it does as much as ever, and whoever is too many is told at once, before it is asked."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from tests.service import fault_backend as fault
from tests.service.application import ConfigMaker, RunningApp, eventually, running
from tests.service.fault_backend import Exchange, FaultBackend

CHAT = "/v1/chat/completions"
EMBED = "/v1/embeddings"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
SLOTS = 4
SERVICE_S = 0.3


@asynccontextmanager
async def served(make_config: ConfigMaker, backend: FaultBackend, **service: Any) -> AsyncIterator[RunningApp]:
    """The application with this backend for chat and embeddings; its health is not polled meanwhile."""
    settings = {"urls": (backend.url,), **service}
    config = make_config(
        backends={"generative": settings, "embedding": {**settings, "batch_size": 1}}, health={"interval_s": 1000.0}
    )
    async with running(config) as app:
        await eventually(app.runtime.monitor.first_round.is_set, "the first poll")
        yield app


async def ask(app: RunningApp, **headers: str) -> tuple[int, dict[str, str], Any]:
    async with app.session.post(app.url + CHAT, json=BODY, headers=headers) as response:
        return response.status, dict(response.headers), await response.json()


async def test_the_fourth_caller_of_one_slot_and_a_line_of_two_is_told_to_come_again(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    go = asyncio.Event()
    async with served(make_config, faulty, concurrency=1, queue=2) as app:
        line = app.runtime.pools["generative"].admission
        line.service_time.observe(2.0)
        faulty.on(CHAT, fault.after(fault.DEFAULT, go))
        asking = [asyncio.create_task(ask(app)) for _ in range(3)]
        await eventually(lambda: line.waiting == 2, "two wait")
        status, headers, answer = await ask(app)
        error = answer["error"]
        assert (status, error["type"], error["code"]) == (429, "rate_limit_error", "queue_full")
        assert error["message"] == "Too many wait for the generative service."
        assert headers["Retry-After"] == "6"  # three of 2 s
        async with openai.AsyncOpenAI(base_url=app.url + "/v1", api_key="none", max_retries=0) as client:
            with pytest.raises(openai.RateLimitError, match="Too many wait"):
                await client.chat.completions.create(model="any", messages=[{"role": "user", "content": "Hello"}])
        assert await app.metric('hartonomous_backend_queue_length{priority="query",service="generative"}') == 2
        assert await app.metric('hartonomous_backend_refusals_total{reason="queue_full",service="generative"}') == 2
        assert len(faulty.calls(CHAT)) == 1
        go.set()
        assert [status for status, _, _ in await asyncio.gather(*asking)] == [200] * 3


async def test_a_query_is_served_before_the_ingest_that_came_before_it(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    async with served(make_config, faulty, concurrency=1) as app:
        pool = app.runtime.pools["embedding"]
        documents = [{"id": f"d{number}", "text": f"The lamp {number} burns oil."} for number in range(3)]
        assert (await app.post("/rag/ingest", {"documents": documents[:1]}))[0] == 200
        go = asyncio.Event()
        faulty.on(EMBED, fault.after(fault.DEFAULT, go))
        faulty.requests.clear()
        holding = asyncio.create_task(app.post(EMBED, {"input": "holds the slot"}))
        await eventually(lambda: faulty.calls(EMBED), "the slot is taken")
        ingesting = asyncio.create_task(app.post("/rag/ingest", {"documents": documents[1:]}))
        await eventually(lambda: pool.admission.waiting == 1, "the ingest waits")
        searching = asyncio.create_task(app.post("/rag/search", {"query": "Which oil?", "mode": "dense"}))
        await eventually(lambda: pool.admission.waiting == 2, "the query waits")
        go.set()
        statuses = [status for status, _ in await asyncio.gather(holding, ingesting, searching)]
        assert statuses == [200] * 3
        asked = [str(request.json["input"]) for request in faulty.calls(EMBED)]
        assert ["holds" in text or "Which" in text for text in asked] == [True, True, False, False]
        await app.delete(f"/rag/collections/{app.runtime.config.rag.default_collection}")


class Worker:
    """A backend that works on each call for a fixed time."""

    def __init__(self) -> None:
        self.working = self.most = self.begun = 0

    async def behave(self, exchange: Exchange) -> None:
        self.begun += 1
        self.working += 1
        self.most = max(self.most, self.working)
        try:
            await fault.json_reply(fault.completion(["Hello"]), delay_s=SERVICE_S)(exchange)
        finally:
            self.working -= 1


async def _paced(calls: int, every_s: float, ask_one: Callable[[], Awaitable[int]]) -> tuple[list[int], float]:
    """Begin a call every so many seconds; return what came of them, and the time that it took."""
    began = time.perf_counter()
    asking = []
    for number in range(calls):
        await asyncio.sleep(max(0.0, began + number * every_s - time.perf_counter()))
        asking.append(asyncio.ensure_future(ask_one()))
    return await asyncio.gather(*asking), time.perf_counter() - began


async def _one_after_the_other(calls: int, ask_one: Callable[[], Awaitable[int]]) -> tuple[list[int], float]:
    """Let as many ask as there are slots, each so many times; return what came of it, and the time that it took."""

    async def ask_all() -> list[int]:
        return [await ask_one() for _ in range(calls)]

    began = time.perf_counter()
    statuses = await asyncio.gather(*(ask_all() for _ in range(SLOTS)))
    return [status for each in statuses for status in each], time.perf_counter() - began


@pytest.mark.parametrize(
    ("queue", "timeout_ms", "refusal"),
    [(SLOTS, "10000", (429, "queue_full")), (1_000, "1800", (503, "overloaded"))],
    ids=["a full line", "a line too long for the deadline"],
)
async def test_goodput_stays_level_when_five_times_the_capacity_is_offered(
    make_config: ConfigMaker, faulty: FaultBackend, queue: int, timeout_ms: str, refusal: tuple[int, str]
) -> None:
    worker = Worker()
    faulty.on(CHAT, worker.behave)
    idle: list[int] = []
    seconds: defaultdict[int, list[float]] = defaultdict(list)
    async with served(make_config, faulty, concurrency=SLOTS, queue=queue) as app:
        replica = app.runtime.pools["generative"].replicas[0]

        async def one() -> int:
            began = time.perf_counter()
            status, headers, answer = await ask(app, **{"X-Request-Timeout-Ms": timeout_ms})
            seconds[status].append(time.perf_counter() - began)
            if status == refusal[0]:
                idle.append(SLOTS - replica.active)
                assert answer["error"]["code"] == refusal[1]
                assert int(headers["Retry-After"]) >= 1
            return status

        usual, usual_s = await _one_after_the_other(4, one)
        assert usual == [200] * SLOTS * 4
        worker.begun = 0
        offered, offered_s = await _paced(120, SERVICE_S / SLOTS / 5, one)
    served_calls = offered.count(200)
    assert served_calls / offered_s >= 0.8 * len(usual) / usual_s
    assert worker.most == SLOTS
    assert worker.begun == served_calls  # all that reached the backend was of use, nobody refused did
    assert offered.count(refusal[0]) == 120 - served_calls
    assert max(idle) == 0  # there was no slot for whoever was refused
    # Nobody waits in the line to be refused.
    assert statistics.median(seconds[refusal[0]]) < statistics.median(seconds[200]) / 3
