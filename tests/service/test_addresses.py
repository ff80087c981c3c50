"""Several addresses of one service: shares by weight, one that dies, one with another model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hartonomous import log
from tests.service import fault_backend as fault
from tests.service.application import ConfigMaker, eventually
from tests.service.fault_answers import MODELS
from tests.service.fault_backend import FaultBackend
from tests.service.fleet import QUICK, RERANK, SELDOM, Fleet, fleet, weighted

EMBED = "/v1/embeddings"
MODEL: Any = MODELS["data"][0]


@pytest.fixture
def told() -> Iterator[list[Any]]:
    """The records of the log."""
    records: list[Any] = []
    sink = log.logger.add(lambda message: records.append(message.record), level="INFO", diagnose=False)
    yield records
    log.logger.remove(sink)


def lines(told: list[Any], backend: FaultBackend) -> list[tuple[str, str]]:
    """Return what was told of an address, and with which status."""
    records = [record for record in told if record["extra"].get("address") == backend.url]
    return [(record["message"], record["extra"].get("status", "")) for record in records]


def asked(*backends: FaultBackend, path: str = RERANK) -> list[int]:
    return [len(backend.calls(path)) for backend in backends]


async def test_calls_one_after_the_other_are_shared_out_by_weight(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    async with FaultBackend() as other, FaultBackend() as drained:
        urls = (weighted(faulty, 3), other.url, weighted(drained, 0))
        config = make_config(backends={"reranking": {"urls": urls, "hedging": False}}, health=SELDOM)
        async with fleet(config, tmp_path / "c.yaml") as made:
            assert [await made.rank() for _ in range(20)] == [200] * 20
            assert asked(faulty, other, drained) == [15, 5, 0]
            weights = [made.gauge("backend_address_weight", backend) for backend in (faulty, other, drained)]
            assert weights == [3, 1, 0]
            assert await made.reload(faulty, other) == ["backends.reranking.urls"]
            assert [await made.rank() for _ in range(10)] == [200] * 10
            assert asked(faulty, other, drained) == [20, 10, 0]


async def test_calls_side_by_side_are_shared_out_by_weight_up_to_the_slots_of_each(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    go = asyncio.Event()
    async with FaultBackend() as other:
        for backend in (faulty, other):
            backend.on(RERANK, fault.after(fault.DEFAULT, go))
        service = {"urls": (weighted(faulty, 3), weighted(other, 1)), "concurrency": 6, "hedging": False}
        async with fleet(make_config(backends={"reranking": service}, health=SELDOM), tmp_path / "c.yaml") as made:
            calls = [asyncio.create_task(made.rank()) for _ in range(8)]
            await eventually(lambda: sum(asked(faulty, other)) == 8, "the calls are held")
            assert asked(faulty, other) == [6, 2]
            assert (made.under_way(faulty), made.under_way(other)) == (6, 2)
            calls += [asyncio.create_task(made.rank()) for _ in range(4)]
            await eventually(lambda: sum(asked(faulty, other)) == 12, "these are held, too")
            assert asked(faulty, other) == [6, 6]
            go.set()
            assert await asyncio.gather(*calls) == [200] * 12
            assert (made.under_way(faulty), made.under_way(other)) == (0, 0)


async def test_an_address_that_dies_gets_no_calls_until_it_is_back_and_both_is_told(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path, told: list[Any]
) -> None:
    async with FaultBackend() as other:
        config = make_config(backends={"reranking": {"urls": (faulty.url, other.url)}}, health=QUICK)
        async with fleet(config, tmp_path / "c.yaml") as made:
            await eventually(lambda: made.gauge("backend_address_up", faulty) == 1, "it is up")
            await faulty.stop()
            assert [await made.rank() for _ in range(10)] == [200] * 10
            await eventually(lambda: lines(told, faulty), "it is told")
            assert lines(told, faulty) == [("an address's health changed", "down")]
            assert made.app.runtime.monitor.status("reranking") == "up"
            assert (made.gauge("backend_address_up", faulty), made.gauge("backend_address_up", other)) == (0, 1)
            before = asked(faulty)
            assert [await made.rank() for _ in range(10)] == [200] * 10
            assert asked(faulty) == before
            await faulty.start()
            await eventually(lambda: len(lines(told, faulty)) == 2, "that is told as well")
            assert lines(told, faulty)[1] == ("an address's health changed", "up")
            assert [await made.rank() for _ in range(4)] == [200] * 4
            assert asked(faulty) != before
            assert lines(told, other) == []


async def test_when_all_are_down_by_the_last_poll_they_are_asked_all_the_same(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    async with FaultBackend() as other:
        for backend in (faulty, other):
            backend.on("/health", fault.reply(503))
        config = make_config(backends={"reranking": {"urls": (faulty.url, other.url)}}, health=QUICK)
        async with fleet(config, tmp_path / "c.yaml") as made:
            assert made.app.runtime.monitor.status("reranking") == "down"
            assert [await made.rank() for _ in range(4)] == [200] * 4


def serves(backend: FaultBackend, name: str, dimension: int = fault.DIMENSION) -> None:
    """Let a backend say that it serves another model."""
    model = MODEL | {"id": f"/models/{name}", "meta": {"n_embd": dimension}}
    backend.on("/v1/models", fault.json_reply(MODELS | {"data": [model]}))


async def embed(made: Fleet, count: int) -> None:
    for number in range(count):
        status, answer = await made.app.post(EMBED, {"input": f"text {number}"})
        assert status == 200, answer


@pytest.mark.parametrize(("name", "dimension"), [("other", fault.DIMENSION), (fault.MODEL, 64)])
async def test_an_embedding_address_with_another_model_is_down_until_it_has_the_right_one(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path, told: list[Any], name: str, dimension: int
) -> None:
    async with FaultBackend() as wrong:
        serves(faulty, fault.MODEL)
        serves(wrong, name, dimension)
        config = make_config(backends={"embedding": {"urls": (faulty.url, wrong.url)}}, health=QUICK)
        async with fleet(config, tmp_path / "c.yaml", "embedding") as made:
            await embed(made, 6)
            assert asked(wrong, path=EMBED) == [0]
            assert made.gauge("backend_address_up", wrong) == 0
            assert made.app.runtime.monitor.status("embedding") == "up"
            (line,) = (record for record in told if "another model" in record["message"])
            assert line["level"].name == "WARNING"
            extra = line["extra"]
            assert (extra["service"], extra["address"]) == ("embedding", wrong.url)
            assert extra["model"] == f"{name} ({dimension} dimensions)"
            assert extra["others"] == f"{fault.MODEL} ({fault.DIMENSION} dimensions)"
            serves(wrong, fault.MODEL)
            await eventually(lambda: made.gauge("backend_address_up", wrong) == 1, "it has the right model")
            await embed(made, 6)
            assert asked(wrong, path=EMBED) != [0]
            assert [what for what, _ in lines(told, wrong)].count("an address serves the model of the others") == 1


async def test_another_model_does_not_take_over_while_the_address_with_the_right_one_is_away(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    async with FaultBackend() as wrong:
        serves(wrong, "other")
        config = make_config(backends={"embedding": {"urls": (faulty.url, wrong.url)}}, health=QUICK)
        async with fleet(config, tmp_path / "c.yaml", "embedding") as made:
            await faulty.stop()
            await eventually(lambda: made.app.runtime.monitor.status("embedding") == "down", "it is down")
            status, answer = await made.app.post(EMBED, {"input": "x"})
            assert (status, asked(wrong, path=EMBED)) == (503, [0]), answer
            assert await made.reload(wrong) == ["backends.embedding.urls"]  # the operator says that it is the one
            await embed(made, 2)
            assert asked(wrong, path=EMBED) == [2]
            await faulty.start()


async def test_an_address_that_is_added_has_no_say_in_which_model_is_the_right_one(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    async with FaultBackend() as wrong:
        serves(wrong, "other")
        config = make_config(backends={"embedding": {"urls": (faulty.url,)}}, health=SELDOM)
        async with fleet(config, tmp_path / "c.yaml", "embedding") as made:
            await embed(made, 1)
            await made.reload(weighted(wrong, 1_000), faulty)
            await embed(made, 6)
            assert asked(wrong, faulty, path=EMBED) == [0, 7]


async def test_where_a_model_is_configured_its_own_entry_counts_and_the_others_do_not(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    """As of a server of many models, whose first one is any."""
    async with FaultBackend() as other, FaultBackend() as wrong:
        others = [MODEL | {"id": "any"}, MODEL | {"id": "wanted"}]
        other.on("/v1/models", fault.json_reply(MODELS | {"data": others}))
        faulty.on("/v1/models", fault.json_reply(MODELS | {"data": others[1:]}))
        wrong.on("/v1/models", fault.json_reply(MODELS | {"data": [MODEL | {"id": "wanted", "meta": {"n_embd": 7}}]}))
        service = {"urls": (faulty.url, other.url, wrong.url), "model": "wanted"}
        async with fleet(
            make_config(backends={"embedding": service}, health=QUICK), tmp_path / "c.yaml", "embedding"
        ) as made:
            await embed(made, 6)
            assert asked(faulty, other, wrong, path=EMBED) == [3, 3, 0]


async def test_a_reranking_address_with_another_model_is_told_of_and_asked(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path, told: list[Any]
) -> None:
    async with FaultBackend() as other:
        serves(other, "other")
        config = make_config(backends={"reranking": {"urls": (faulty.url, other.url)}}, health=QUICK)
        async with fleet(config, tmp_path / "c.yaml") as made:
            assert [await made.rank() for _ in range(4)] == [200] * 4
            assert asked(faulty, other) == [2, 2]
            assert lines(told, other) == [("an address serves another model than the others", "")]


async def test_an_ingest_keeps_the_addresses_busy_that_a_reload_adds(
    make_config: ConfigMaker, faulty: FaultBackend, tmp_path: Path
) -> None:
    go = asyncio.Event()
    service = {"urls": (faulty.url,), "batch_size": 1, "concurrency": 4, "hedging": False}
    documents = [{"id": f"d{number}", "text": f"Text number {number}."} for number in range(40)]
    async with FaultBackend() as second, FaultBackend() as third:
        config = make_config(backends={"embedding": service}, health=SELDOM)
        async with fleet(config, tmp_path / "c.yaml", "embedding") as made:
            assert (await made.app.post("/rag/ingest", {"documents": documents[:1]}))[0] == 200
            await made.reload(faulty, second, third)
            before = sum(asked(faulty, second, third, path=EMBED))
            for backend in (faulty, second, third):
                backend.on(EMBED, fault.after(fault.DEFAULT, go))
            ingesting = asyncio.create_task(made.app.post("/rag/ingest", {"documents": documents}))
            await eventually(lambda: sum(asked(faulty, second, third, path=EMBED)) - before == 12, "all are busy")
            go.set()
            status, answer = await ingesting
            assert (status, len(answer["documents"])) == (200, 40)
            assert await made.app.delete(f"/rag/collections/{config.rag.default_collection}") == 204
