"""Addresses that come and go by a reload, under load: nothing fails, nothing is forgotten, nobody gets too much."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.service import fault_backend as fault
from tests.service.application import ConfigMaker, eventually
from tests.service.fault_backend import Exchange, FaultBackend
from tests.service.fleet import QUICK, RERANK, SELDOM, Busy, Fleet, fleet, weighted

CHAT = "/v1/chat/completions"
EVENTS = fault.sse(["a", "b", "c"])
SLOW_S = 0.01


def asked(*backends: FaultBackend, path: str = RERANK) -> list[int]:
    return [len(backend.calls(path)) for backend in backends]


def streams_when(go: asyncio.Event) -> fault.Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        await exchange.chunk(EVENTS[0])
        await go.wait()
        await exchange.chunk(b"".join(EVENTS[1:]))
        await exchange.raw(b"0\r\n\r\n")

    return behave


def slowly(delay_s: float) -> fault.Behaviour:
    async def behave(exchange: Exchange) -> None:
        await asyncio.sleep(delay_s)
        await fault.DEFAULT(exchange)

    return behave


async def chat(made: Fleet, *, stream: bool) -> tuple[int, bytes]:
    body = {"messages": [{"role": "user", "content": "Hello"}], "stream": stream}
    async with made.app.session.post(made.app.url + CHAT, json=body) as response:
        return response.status, await response.read()


@asynccontextmanager
async def load(one: Any, callers: int = 6) -> AsyncIterator[list[Any]]:
    """Let so many ask without a pause; yield what they were answered."""
    answers: list[Any] = []
    leave = asyncio.Event()

    async def caller() -> None:
        while not leave.is_set():
            answers.append(await one())

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
        yield answers
        leave.set()


async def more(answers: list[Any], count: int = 30) -> None:
    """Wait until so many more were answered."""
    wanted = len(answers) + count
    await eventually(lambda: len(answers) >= wanted, "more answers")


async def test_an_address_is_drained_by_a_reload_under_load(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    go, whole = asyncio.Event(), fault.json_reply(fault.completion(["Hello"]), delay_s=SLOW_S)
    async with FaultBackend() as stays:
        service = {"urls": (weighted(faulty, 1), stays.url), "concurrency": 8}
        config = make_config(backends={"generative": service}, health=SELDOM)
        async with fleet(config, tmp_path / "c.yaml", "generative") as made:
            for backend in (faulty, stays):
                backend.on(CHAT, streams_when(go))
            streams = [asyncio.create_task(chat(made, stream=True)) for _ in range(4)]
            await eventually(lambda: asked(faulty, stays, path=CHAT) == [2, 2], "the streams have begun")
            for backend in (faulty, stays):
                backend.on(CHAT, whole)
            async with load(lambda: chat(made, stream=False)) as answers:
                await more(answers)
                leaving = made.replica(faulty)
                assert await made.reload(stays) == ["backends.generative.urls"]
                begun = leaving.entered  # whatever was on its way to it at this moment
                await more(answers)
                assert leaving.entered == begun
                await eventually(lambda: made.under_way(faulty) == 2, "the streams alone are left")
                assert asked(faulty, path=CHAT) == [begun]
                assert made.gauge("backend_address_weight", faulty) == 0
                await more(answers)
            go.set()
            assert await asyncio.gather(*streams) == [(200, b"".join(EVENTS))] * 4
            assert {status for status, _ in answers} == {200}
            assert made.under_way(faulty) is None
            assert made.gauge("backend_address_up", faulty) is None
            assert made.gauge("breaker_state", faulty) is None
            assert asked(faulty, path=CHAT) == [begun]
            polls = len(faulty.requests)
            await made.app.runtime.monitor._poll_service(made.pool)
            assert len(faulty.requests) == polls


async def test_an_address_without_weight_is_drained_and_stays_known(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    async with FaultBackend() as stays:
        config = make_config(backends={"reranking": {"urls": (faulty.url, stays.url)}}, health=SELDOM)
        async with fleet(config, tmp_path / "c.yaml") as made:
            replica = made.replica(faulty)
            await made.reload(weighted(faulty, 0), stays)
            assert [await made.rank() for _ in range(6)] == [200] * 6
            assert asked(faulty, stays) == [0, 6]
            assert (made.under_way(faulty), made.gauge("backend_address_weight", faulty)) == (0, 0)
            assert made.gauge("backend_address_up", faulty) == 1
            await made.reload(faulty, stays)
            assert made.replica(faulty) is replica
            assert [await made.rank() for _ in range(6)] == [200] * 6
            assert asked(faulty, stays) in ([3, 9], [4, 8])


async def test_an_address_that_is_added_is_polled_before_it_gets_calls(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    async with FaultBackend() as good, FaultBackend() as loading:
        loading.on("/health", fault.reply(503))
        config = make_config(backends={"reranking": {"urls": (faulty.url,)}}, health=SELDOM)
        async with fleet(config, tmp_path / "c.yaml") as made, load(made.rank) as answers:
            await made.reload(faulty, good, loading)
            await more(answers)
            assert loading.requests
            assert asked(loading) == [0]
            assert asked(good) != [0]
            first = [request.path for request in good.requests]
            assert first.index("/health") < first.index(RERANK)
            assert made.gauge("backend_address_up", loading) == 0
        assert set(answers) == {200}


async def test_all_addresses_are_exchanged_under_load(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    """A request that began with the old configuration asks the new addresses."""
    go = asyncio.Event()
    async with FaultBackend() as second, FaultBackend() as third:
        for backend in (faulty, second, third):
            backend.on(RERANK, fault.DEFAULT)
        config = make_config(backends={"reranking": {"urls": (faulty.url,), "concurrency": 1}}, health=SELDOM)
        async with fleet(config, tmp_path / "c.yaml") as made:
            faulty.on(RERANK, fault.after(fault.DEFAULT, go))
            held = asyncio.create_task(made.rank())
            await eventually(lambda: asked(faulty) == [1], "one is held")
            waiting = [asyncio.create_task(made.rank()) for _ in range(4)]
            await eventually(lambda: made.pool.admission.waiting == 4, "the others wait in line")
            await made.reload(second, third)
            assert await asyncio.gather(*waiting) == [200] * 4
            assert (asked(faulty), sum(asked(second, third))) == ([1], 4)
            assert made.under_way(faulty) == 1
            go.set()
            assert await held == 200
            assert made.under_way(faulty) is None


async def test_no_address_gets_more_than_its_slots_over_fifty_reloads_under_load(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    slots = 2
    async with FaultBackend() as second, FaultBackend() as third:
        busy = {backend: Busy(slowly(SLOW_S)) for backend in (faulty, second, third)}
        for backend, behave in busy.items():
            backend.on(RERANK, behave)
        lists = [
            (faulty, second),
            (second, weighted(faulty, 5), third),
            (third,),
            (weighted(second, 0), faulty),
            (faulty, third, weighted(second, 3)),
        ]
        service = {"urls": (faulty.url, second.url), "concurrency": slots}
        async with fleet(make_config(backends={"reranking": service}, health=SELDOM), tmp_path / "c.yaml") as made:
            pool = made.pool
            async with load(made.rank, callers=12) as answers:
                for number in range(50):
                    await made.reload(*lists[(number + 1) % len(lists)])
                    assert made.pool is pool
                await more(answers)
            assert set(answers) == {200}
            assert [behave.most for behave in busy.values()] == [slots] * 3
            assert all(replica.is_idle for replica in pool.replicas)
            await made.reload(third)
            gauges = [made.under_way(backend) for backend in (faulty, second, third)]
            assert gauges == [None, None, 0]


async def test_what_is_known_of_an_address_survives_reloads(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    breaker = {"failures": 2, "open_s": 1_000.0, "max_open_s": 1_000.0}
    async with FaultBackend() as second, FaultBackend() as third:
        service = {"urls": (faulty.url, second.url), "breaker": breaker}
        async with fleet(make_config(backends={"reranking": service}, health=SELDOM), tmp_path / "c.yaml") as made:
            faulty.on(RERANK, fault.reply(500))
            assert [await made.rank() for _ in range(6)] == [200] * 6
            assert (made.replica(faulty).breaker.state, asked(faulty)) == ("open", [2])
            for urls in ((faulty, second, third), (third, weighted(faulty, 9)), (faulty, third), (second, faulty)):
                await made.reload(*urls)
                assert (made.replica(faulty).breaker.state, made.gauge("breaker_state", faulty)) == ("open", 2)
                assert [await made.rank() for _ in range(4)] == [200] * 4
            assert asked(faulty) == [2]


async def test_an_address_that_comes_back_before_its_last_call_has_ended_is_the_same_one(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    go = asyncio.Event()
    async with FaultBackend() as other:
        service = {"urls": (faulty.url,), "concurrency": 1}
        async with fleet(make_config(backends={"reranking": service}, health=SELDOM), tmp_path / "c.yaml") as made:
            faulty.on(RERANK, fault.after(fault.DEFAULT, go))
            held = asyncio.create_task(made.rank())
            await eventually(lambda: asked(faulty) == [1], "a call is held")
            replica = made.replica(faulty)
            await made.reload(other)
            polls = len(faulty.calls("/health"))
            await made.reload(other, faulty)
            assert made.replica(faulty) is replica
            assert len(faulty.calls("/health")) == polls + 1
            assert [await made.rank() for _ in range(4)] == [200] * 4
            assert (asked(faulty), made.under_way(faulty)) == ([1], 1)
            go.set()
            assert await held == 200
            assert made.under_way(faulty) == 0


async def test_a_reload_that_fails_changes_no_address(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{}")
    async with FaultBackend() as other:
        config = make_config(backends={"embedding": {"urls": (faulty.url,)}}, health=QUICK)
        async with fleet(config, tmp_path / "c.yaml", "embedding") as made:
            made.write(other, tokenizer=str(broken))
            assert (await made.ask_reload())[0] == 422
            assert [replica.url for replica in made.pool.replicas] == [faulty.url]
            assert made.pool.addresses.watched == list(made.pool.replicas)
            assert (made.under_way(faulty), made.under_way(other)) == (0, None)


async def test_a_hedge_never_goes_to_an_address_that_was_taken_away(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    async with FaultBackend() as gone, FaultBackend() as drained:
        urls = (weighted(faulty, 1_000), gone.url, drained.url)
        service = {"urls": urls, "first_byte_timeout_s": 5.0}
        async with fleet(make_config(backends={"reranking": service}, health=SELDOM), tmp_path / "c.yaml") as made:
            assert [await made.rank() for _ in range(30)] == [200] * 30  # it is known how long such calls take
            faulty.on(RERANK, fault.hang())
            assert await made.rank() == 200
            hedged = asked(gone, drained)
            assert sum(hedged) == 1
            faulty.on(RERANK, slowly(0.3))
            await made.reload(faulty, weighted(drained, 0))
            assert await made.rank() == 200
            assert asked(gone, drained) == hedged
            faulty.on(RERANK, fault.hang())
            await made.reload(faulty, drained)
            assert await made.rank() == 200
            assert sum(asked(gone, drained)) == 2


async def test_a_retry_never_goes_to_an_address_that_was_taken_away(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    go = asyncio.Event()
    async with FaultBackend() as gone, FaultBackend() as drained:
        service = {"urls": (weighted(faulty, 1_000), gone.url, drained.url), "hedging": False}
        async with fleet(make_config(backends={"reranking": service}, health=SELDOM), tmp_path / "c.yaml") as made:
            faulty.on(RERANK, fault.after(fault.reply(500), go), fault.DEFAULT)
            held = asyncio.create_task(made.rank())
            await eventually(lambda: asked(faulty) == [1], "the call is held")
            await made.reload(faulty, weighted(drained, 0))
            go.set()
            assert await held == 200
            assert asked(faulty, gone, drained) == [2, 0, 0]


async def test_with_other_settings_too_those_who_began_before_leave_a_removed_address_alone_as_well(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    go = asyncio.Event()
    async with FaultBackend() as stays:
        service = {"urls": (faulty.url, stays.url), "concurrency": 1, "hedging": False}
        async with fleet(make_config(backends={"reranking": service}, health=SELDOM), tmp_path / "c.yaml") as made:
            for backend in (faulty, stays):
                backend.on(RERANK, fault.after(fault.DEFAULT, go))
            calls = [asyncio.create_task(made.rank()) for _ in range(6)]
            await eventually(lambda: made.pool.admission.waiting == 4, "four wait in line")
            before = made.pool
            await made.reload(stays, idle_timeout_s=50.0)
            assert made.pool is not before
            assert (made.under_way(faulty), made.under_way(stays)) == (1, 1)
            go.set()
            assert await asyncio.gather(*calls) == [200] * 6
            assert asked(faulty, stays) == [1, 5]
            assert made.under_way(faulty) is None
            assert made.under_way(stays) == 0
