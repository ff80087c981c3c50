"""`POST /rag/batch-query`: order, one call for many, and failures that stay with their question."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.service.application import RunningApp, eventually
from tests.service.fault_backend import embeddings, json_reply, reply, stream
from tests.service.rag import CHAT, EMBEDDINGS, Rig, RigMaker, ask, check_named, ingest, sample, says

BATCH = "/rag/batch-query"
LIME = {"query": "What does a lime weigh?", "mode": "sparse", "rerank": False}


async def batch(app: RunningApp, queries: list[Any]) -> Any:
    status, answer = await ask(app, BATCH, {"queries": queries})
    assert status == 200, answer
    assert [item["index"] for item in answer["results"]] == list(range(len(queries)))
    assert answer["counts"] == counted(answer["results"])
    return answer


def counted(items: list[Any]) -> dict[str, int]:
    good = sum(item["status"] == 200 for item in items)
    return {"succeeded": good, "failed": len(items) - good}


async def lines(app: RunningApp, queries: list[Any]) -> tuple[list[Any], Any]:
    """Return the items of a streamed batch as they came, and the last line."""
    async with app.session.post(app.url + BATCH, json={"queries": queries, "stream": True}) as response:
        assert (response.status, response.content_type) == (200, "application/x-ndjson")
        *items, last = [json.loads(line) for line in (await response.text()).splitlines()]
    for item in items:
        check_named(app, "BatchItemView", item)
    assert last["counts"] == counted(items)
    return items, last


@pytest.fixture
async def fruit(rig: Rig) -> Rig:
    """A rig with two documents and a model that answers at once."""
    await ingest(
        rig.app,
        {"id": "lime", "text": "Limes are green. A lime weighs 67 grams."},
        {"id": "lemon", "text": "Lemons are yellow. A lemon weighs 120 grams."},
    )
    rig.generative.on(CHAT, says("A lime weighs 67 grams."))
    return rig


async def test_answers_stand_in_the_order_of_the_questions(fruit: Rig) -> None:
    queries = [{"query": f"question {number} on limes", "top_k": 1 + number % 2} for number in range(20)]
    answer = await batch(fruit.app, queries)
    assert answer["counts"] == {"succeeded": 20, "failed": 0}
    for query, item in zip(queries, answer["results"], strict=True):
        assert len(item["result"]["sources"]) == query["top_k"]
        assert set(item["result"]["timings_ms"]) == {"embed", "search", "rerank", "generate", "total"}
        assert item["result"]["request_id"] == answer["request_id"]


async def test_an_answer_is_the_one_that_a_single_query_gets(fruit: Rig) -> None:
    _, single = await ask(fruit.app, "/rag/query", LIME)
    (item,) = (await batch(fruit.app, [LIME]))["results"]
    changing = {"timings_ms", "request_id"}
    assert {key: item["result"][key] for key in single.keys() - changing} == {
        key: single[key] for key in single.keys() - changing
    }


async def test_questions_are_embedded_in_full_batches_and_searched_in_one_call_a_collection(rigs: RigMaker) -> None:
    async with rigs.make(backends={"embedding": {"batch_size": 64}}) as rig:
        await ingest(rig.app, {"id": "lime", "text": "Limes are green."})
        other = f"{rig.config.rag.default_collection}-b"
        await ingest(rig.app, {"id": "lemon", "text": "Lemons are yellow."}, collection=other)
        rig.generative.on(CHAT, says("Yes."))
        rig.embedding.requests.clear()
        rig.qdrant.requests.clear()
        queries: list[Any] = [{"query": f"green {number}", "rerank": False} for number in range(100)]
        queries += [{"query": "yellow", "rerank": False, "collection": other}] * 30
        answer = await batch(rig.app, queries)
        assert answer["counts"]["succeeded"] == 130
        sizes = sorted(len(call.json["input"]) for call in rig.embedding.calls(EMBEDDINGS))
        assert sizes == [37, 64], "equal questions are embedded once"
        searches = [call for call in rig.qdrant.requests if call.path.endswith("/query/batch")]
        assert sorted(len(call.json["searches"]) for call in searches) == [60, 200]
        assert await rig.app.delete(f"/rag/collections/{other}") == 204


async def test_256_questions_with_feedback_are_one_search_call_and_one_more(rigs: RigMaker) -> None:
    async with rigs.make(backends={"embedding": {"batch_size": 64}}) as rig:
        await ingest(rig.app, {"id": "lime", "text": "Limes are green."}, {"id": "plum", "text": "Plums are blue."})
        rig.generative.on(CHAT, says("Yes."))
        rig.embedding.requests.clear()
        rig.qdrant.requests.clear()
        queries: list[Any] = [
            {"query": f"green {number}", "rerank": False, "feedback": number % 4 == 0} for number in range(256)
        ]
        answer = await batch(rig.app, queries)
        assert answer["counts"]["succeeded"] == 256
        assert all(item["result"]["degraded"] == [] for item in answer["results"])
        assert [len(call.json["input"]) for call in rig.embedding.calls(EMBEDDINGS)] == [64] * 4
        calls = [call for call in rig.qdrant.requests if "/points/" in call.path]
        assert [len(call.json["searches"]) for call in calls] == [2 * 256 + 64, 64]


async def test_a_bad_question_fails_alone(fruit: Rig) -> None:
    cases: list[tuple[Any, int, str | None]] = [
        (LIME, 200, None),
        ({**LIME, "top_k": 0}, 422, "queries.1.top_k"),
        ({**LIME, "colour": "red"}, 422, "queries.2.colour"),
        ({}, 422, "queries.3.query"),
        ("lime", 422, "queries.4"),
        (None, 422, "queries.5"),
        ({**LIME, "collection": "nowhere"}, 404, "queries.6.collection"),
        ({**LIME, "filter": {"must": [{"key": "visible", "match": {"value": False}}]}}, 422, None),
        ({"query": "abcdefgh " * 900}, 422, "queries.8.query"),
        ({"query": "limes"}, 200, None),
        ({"query": "limes", "mode": "dense"}, 200, None),
    ]
    answer = await batch(fruit.app, [query for query, _, _ in cases])
    assert [item["status"] for item in answer["results"]] == [status for _, status, _ in cases]
    for item, (_, status, param) in zip(answer["results"], cases, strict=True):
        assert ("result" in item, "error" in item) == (status == 200, status != 200)
        if param is not None:
            assert item["error"]["param"] == param
    assert answer["counts"] == {"succeeded": 3, "failed": 8}


async def test_one_question_too_long_for_the_model_costs_few_calls_more(rigs: RigMaker) -> None:
    async with rigs.make(backends={"embedding": {"batch_size": 64}}) as rig:
        await ingest(rig.app, {"id": "lime", "text": "Limes are green."})
        rig.generative.on(CHAT, says("Yes."))
        rig.embedding.requests.clear()
        queries = [{"query": f"lime {number}", "rerank": False} for number in range(64)]
        queries[37] = {"query": "abcdefgh " * 900}
        answer = await batch(rig.app, queries)
        assert [item["index"] for item in answer["results"] if item["status"] != 200] == [37]
        # Found by halving in 13 calls, then shortened at most four times.
        assert 13 < len(rig.embedding.calls(EMBEDDINGS)) <= 17


async def test_a_generation_that_fails_fails_its_question_alone(fruit: Rig) -> None:
    async def one_fails(exchange: Any) -> None:
        bad = "bad" in exchange.request.json["messages"][-1]["content"]
        await (reply(500) if bad else says("A lime weighs 67 grams."))(exchange)

    fruit.generative.on(CHAT, one_fails)
    queries = [LIME, {**LIME, "query": "bad lime"}, {**LIME, "query": "bad lime", "on_failure": "sources"}, LIME]
    answer = await batch(fruit.app, queries)
    assert [item["status"] for item in answer["results"]] == [200, 502, 200, 200]
    assert answer["results"][2]["result"]["degraded"] == ["generation"]


async def test_stages_left_out_are_named_in_the_header(fruit: Rig) -> None:
    await fruit.embedding.stop()
    await fruit.reranking.stop()
    async with fruit.app.session.post(
        fruit.app.url + BATCH, json={"queries": [LIME, {"query": "lime"}, {"query": "lime", "mode": "dense"}]}
    ) as response:
        assert response.headers["X-Hartonomous-Degraded"] == "embedding,reranking"
        answer = await response.json()
    assert [item["status"] for item in answer["results"]] == [200, 200, 503]
    assert [item["result"]["degraded"] for item in answer["results"][:2]] == [[], ["embedding", "reranking"]]


async def test_a_failing_embedding_batch_degrades_its_own_questions_alone(rigs: RigMaker) -> None:
    async with rigs.make(backends={"embedding": {"batch_size": 2, "concurrency": 1}}) as rig:
        rig.generative.on(CHAT, says("Yes."))

        async def one_fails(exchange: Any) -> None:
            if "bad" in exchange.request.json["input"]:
                await reply(500)(exchange)
            else:
                await json_reply(embeddings(exchange.request.json))(exchange)

        rig.embedding.on(EMBEDDINGS, one_fails)
        await ingest(rig.app, {"id": "lime", "text": "Limes are green."})
        words = ["bad", "green", "limes", "lime"]
        answer = await batch(rig.app, [{"query": word, "rerank": False} for word in words])
        assert [item["result"]["degraded"] for item in answer["results"]] == [["embedding"], ["embedding"], [], []]


async def test_with_the_store_down_every_question_fails_by_itself(fruit: Rig) -> None:
    await fruit.qdrant.stop()
    answer = await batch(fruit.app, [LIME, {**LIME, "top_k": 0}, LIME])
    assert [item["status"] for item in answer["results"]] == [503, 422, 503]
    assert not fruit.generative.calls(CHAT)


async def test_streamed_each_outcome_is_a_line_and_the_counts_are_the_last(fruit: Rig) -> None:
    queries = [LIME, {**LIME, "top_k": 0}, *[LIME] * 5]
    whole = await batch(fruit.app, queries)
    items, last = await lines(fruit.app, queries)
    assert sorted(item["index"] for item in items) == list(range(7))
    assert last["counts"] == whole["counts"]
    by_index = {item["index"]: item for item in items}
    assert by_index[1]["error"] == whole["results"][1]["error"]
    assert by_index[6]["result"]["answer"] == whole["results"][6]["result"]["answer"]


async def test_streamed_a_line_is_sent_when_it_is_ready(fruit: Rig) -> None:
    gate = asyncio.Event()

    async def slow(exchange: Any) -> None:
        if "slow" in exchange.request.json["messages"][-1]["content"]:
            await gate.wait()
        await says("A lime weighs 67 grams.")(exchange)

    fruit.generative.on(CHAT, slow)
    body = {"queries": [{**LIME, "query": "slow lime"}, LIME], "stream": True}
    async with fruit.app.session.post(fruit.app.url + BATCH, json=body) as response:
        first = json.loads(await asyncio.wait_for(response.content.readline(), 10))
        assert (first["index"], gate.is_set()) == (1, False)
        gate.set()
        rest = [json.loads(line) for line in (await response.text()).splitlines()]
    assert rest[0]["index"] == 0
    assert rest[1]["counts"] == {"succeeded": 2, "failed": 0}


@pytest.mark.parametrize("streamed", [True, False])
async def test_when_the_client_leaves_every_generation_is_stopped(fruit: Rig, streamed: bool) -> None:
    fruit.generative.requests.clear()
    fruit.generative.on(CHAT, stream([b" "], "hang"))
    post = asyncio.create_task(ask(fruit.app, BATCH, {"queries": [LIME] * 12, "stream": streamed}))
    slots = fruit.app.runtime.pools["generative"].replicas[0].slots
    await eventually(lambda: len(fruit.generative.calls(CHAT)) == slots, "as many calls as the service takes at once")
    post.cancel()
    await asyncio.gather(post, return_exceptions=True)
    await eventually(lambda: all(call.closed.is_set() for call in fruit.generative.calls(CHAT)), "the backends' end")
    await eventually(
        lambda: sample(fruit.app, "hartonomous_backend_requests_in_flight", service="generative") == 0,
        "nothing in flight",
    )
    assert len(fruit.generative.calls(CHAT)) == slots


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"queries": []}, "queries"),
        ({"queries": [LIME] * 257}, "queries"),
        ({"queries": {}}, "queries"),
        ({}, "queries"),
        ({"queries": [LIME], "colour": 1}, "colour"),
        ({"queries": [LIME], "stream": 1}, "stream"),
        ([], None),
    ],
)
async def test_what_breaks_the_schema_is_refused_with_its_path(api: RunningApp, body: Any, param: str | None) -> None:
    status, answer = await ask(api, BATCH, body)
    assert (status, answer["error"]["param"]) == (422, param)


async def test_256_questions_are_taken_and_a_quarter_million_refused_at_once(fruit: Rig) -> None:
    answer = await batch(fruit.app, [LIME] * 256)
    assert answer["counts"] == {"succeeded": 256, "failed": 0}
    status, answer = await ask(fruit.app, BATCH, {"queries": [1] * 250_000})
    assert (status, answer["error"]["param"]) == (422, "queries")
