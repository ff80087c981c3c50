"""`POST /rag/search`: modes and scores, filters, what is refused, and what is answered while a backend is down."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from tests.service.application import RunningApp, eventually
from tests.service.fault_backend import DEFAULT, Exchange, hang, json_reply, reply
from tests.service.rag import EMBEDDINGS, Rig, RigMaker, ask, ingest, passed_on, sample

SEARCH = "/rag/search"
RERANK = "/v1/rerank"
FRUIT = [
    {
        "id": "lime",
        "text": "Limes are green and sour.",
        "source": "https://x/lime",
        "metadata": {"kind": "citrus", "n": 1},
    },
    {
        "id": "lemon",
        "text": "Lemons are yellow and sour.",
        "source": "https://x/lemon",
        "metadata": {"kind": "citrus", "n": 2},
    },
    {"id": "apple", "text": "Apples are red and sweet.", "title": "On apples", "metadata": {"kind": "pome", "n": 3}},
]


async def search(app: RunningApp, **body: Any) -> list[Any]:
    """Return the hits of a search that must succeed undegraded."""
    status, answer = await ask(app, SEARCH, body)
    assert (status, answer.get("degraded")) == (200, []), answer
    hits: list[Any] = answer["results"]
    assert all(0 <= hit["score"] <= 1 for hit in hits)
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    return hits


def ids(hits: list[Any]) -> list[str]:
    return [hit["document_id"] for hit in hits]


@pytest.fixture
async def fruit(api: RunningApp) -> RunningApp:
    """The application with three documents."""
    await ingest(api, *FRUIT)
    return api


async def test_hybrid_keeps_the_scores_of_both_searches_and_of_the_reranking(fruit: RunningApp) -> None:
    hits = await search(fruit, query="sour lemons", top_k=10)
    assert sorted(ids(hits)) == ["apple", "lemon", "lime"]
    scores = {hit["document_id"]: hit["scores"] for hit in hits}
    assert set(scores["lemon"]) == {"dense", "sparse", "rerank"}
    assert set(scores["apple"]) == {"dense", "rerank"}
    assert -1 <= scores["lemon"]["dense"] <= 1
    assert scores["lemon"]["sparse"] > scores["lime"]["sparse"] > 0
    assert all(hit["score"] == hit["scores"]["rerank"] for hit in hits)


async def test_without_reranking_the_fused_rank_is_the_score(fruit: RunningApp) -> None:
    hits = await search(fruit, query="yellow lemons", rerank=False)
    assert hits[0]["document_id"] == "lemon"
    assert all("rerank" not in hit["scores"] for hit in hits)
    both_first = hits[0]["scores"]["dense"] == max(hit["scores"]["dense"] for hit in hits)
    assert hits[0]["score"] == 1.0 if both_first else hits[0]["score"] < 1.0


async def test_dense_scores_are_the_cosine(fruit: RunningApp) -> None:
    hits = await search(fruit, query="yellow lemons", mode="dense", rerank=False)
    assert len(hits) == 3
    assert all(set(hit["scores"]) == {"dense"} for hit in hits)
    assert [hit["score"] for hit in hits] == [max(0.0, hit["scores"]["dense"]) for hit in hits]


async def test_sparse_finds_only_what_shares_a_word(fruit: RunningApp) -> None:
    hits = await search(fruit, query="yellow or green", mode="sparse", rerank=False)
    assert sorted(ids(hits)) == ["lemon", "lime"]
    for hit in hits:
        bm25 = hit["scores"]["sparse"]
        assert hit["score"] == pytest.approx(bm25 / (bm25 + 8))
    assert await search(fruit, query="the of and", mode="sparse") == []


async def test_a_hit_tells_where_it_comes_from(fruit: RunningApp) -> None:
    (hit,) = await search(fruit, query="apples", mode="sparse")
    assert (hit["title"], hit["source"], hit["metadata"]) == ("On apples", None, {"kind": "pome", "n": 3})
    assert hit["text"] == "Apples are red and sweet."[hit["start"] : hit["end"]]


FILTERS: list[tuple[Any, set[str]]] = [
    ({"must": [{"key": "metadata.kind", "match": {"value": "citrus"}}]}, {"lime", "lemon"}),
    ({"must_not": [{"key": "metadata.kind", "match": {"value": "citrus"}}]}, {"apple"}),
    ({"must": {"key": "metadata.n", "range": {"gte": 2}}}, {"lemon", "apple"}),
    ({"must": [{"key": "document_id", "match": {"any": ["lime", "apple"]}}]}, {"lime", "apple"}),
    ({"must": [{"key": "source", "match": {"value": "https://x/lime"}}]}, {"lime"}),
    (
        {"should": [{"key": "metadata.n", "match": {"value": 1}}, {"key": "metadata.n", "match": {"value": 3}}]},
        {"lime", "apple"},
    ),
    ({"must": [{"should": [{"key": "metadata.n", "match": {"value": 2}}]}]}, {"lemon"}),
    ({"must": [{"is_empty": {"key": "metadata.absent"}}]}, {"lime", "lemon", "apple"}),
    ({"must": [{"key": "metadata.kind", "match": {"value": "none"}}]}, set()),
    ({}, {"lime", "lemon", "apple"}),
    (None, {"lime", "lemon", "apple"}),
]


async def test_a_filter_narrows_what_is_found(fruit: RunningApp) -> None:
    for condition, found in FILTERS:
        for mode in ("hybrid", "dense"):
            hits = await search(fruit, query="sour fruit", mode=mode, filter=condition)
            assert set(ids(hits)) == found, condition


def deep(levels: int) -> Any:
    condition: Any = {"key": "metadata.n", "match": {"value": 1}}
    for _ in range(levels):
        condition = {"must": [condition]}
    return condition


REFUSED: list[Any] = [
    {"must": [{"key": "visible", "match": {"value": False}}]},
    {"should": [{"key": "visible", "match": {"value": False}}]},
    {"must_not": [{"key": "visible", "match": {"value": True}}]},
    {"must": [{"key": "sequence", "range": {"gt": 0}}]},
    {"must": [{"key": "content_hash", "match": {"value": "x"}}]},
    {"must": [{"is_empty": {"key": "visible"}}]},
    {"must": [{"has_id": [1]}]},
    {"must": [{"nested": {"key": "metadata", "filter": {}}}]},
    {"must": [{"key": "metadata.a", "match": {"value": 1}, "visible": True}]},
    {"any": []},
    {"must": "all"},
    {"must": [1]},
    deep(9),
    {"must": [{"key": "metadata.n", "match": {"value": 1}}] * 65},
]


async def test_a_filter_beyond_its_grammar_is_refused(fruit: RunningApp) -> None:
    for condition in REFUSED:
        status, answer = await ask(fruit, SEARCH, {"query": "fruit", "filter": condition})
        assert (status, answer["error"]["type"]) == (422, "invalid_request_error"), condition
        assert answer["error"]["param"].startswith("filter")


async def test_a_filter_of_a_thousand_levels_is_refused_before_anybody_is_asked(rig: Rig) -> None:
    await ingest(rig.app, *FRUIT)
    rig.embedding.requests.clear()
    levels = 500
    text = '{"query": "fruit", "filter": ' + '{"must":[' * levels + "{}" + "]}" * levels + "}"
    headers = {"Content-Type": "application/json"}
    async with rig.app.session.post(rig.app.url + SEARCH, data=text, headers=headers) as response:
        error = (await response.json())["error"]
    assert (response.status, error["param"][:6]) == (422, "filter")
    assert not rig.embedding.calls(EMBEDDINGS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("top_k", 0),
        ("top_k", -1),
        ("top_k", 101),
        ("top_k", 1e9),
        ("top_k", 10**9),
        ("top_k", 1.5),
        ("top_k", True),
        ("top_k", "5"),
        ("query", ""),
        ("query", " \t\n"),
        ("query", "a\x00b"),
        ("query", "x" * 8193),
        ("query", 5),
        ("query", None),
        ("mode", "magic"),
        ("rerank", "yes"),
        ("rerank", 1),
        ("feedback", None),
        ("score_threshold", 1.5),
        ("score_threshold", -0.1),
        ("score_threshold", "0.5"),
        ("filter", []),
        ("filter", "x"),
        ("collection", "../x"),
        ("collection", "%2e%2e"),
        ("collection", "x" * 10_000),
        ("limit", 5),
    ],
)
async def test_what_breaks_the_schema_is_refused_with_its_path(api: RunningApp, field: str, value: Any) -> None:
    status, answer = await ask(api, SEARCH, {"query": "fruit", field: value})
    assert (status, answer["error"]["param"]) == (422, field)


async def test_a_query_of_8192_characters_is_taken(fruit: RunningApp) -> None:
    hits = await search(fruit, query="sour " * 1638 + "!!", mode="sparse", rerank=False)
    assert sorted(ids(hits)) == ["lemon", "lime"]


async def test_a_question_too_long_for_the_model_is_422(fruit: RunningApp) -> None:
    status, answer = await ask(fruit, SEARCH, {"query": "abcdefgh " * 900})
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (422, "input_too_long", "query")


async def test_top_k_and_the_threshold_cut_the_answer(fruit: RunningApp) -> None:
    everything = await search(fruit, query="sour lemons", top_k=100)
    assert await search(fruit, query="sour lemons", top_k=2) == everything[:2]
    threshold = everything[1]["score"]
    above = await search(fruit, query="sour lemons", top_k=100, score_threshold=threshold)
    assert above == [hit for hit in everything if hit["score"] >= threshold]
    assert 2 <= len(above) <= 3
    assert await search(fruit, query="sour lemons", mode="sparse", rerank=False, score_threshold=1) == []


async def test_an_unknown_collection_is_404(api: RunningApp) -> None:
    for mode in ("hybrid", "dense", "sparse"):
        status, answer = await ask(api, SEARCH, {"query": "fruit", "mode": mode, "collection": "nowhere"})
        assert (status, answer["error"]["code"], answer["error"]["param"]) == (
            404,
            "collection_not_found",
            "collection",
        )


async def test_feedback_is_one_more_call_and_the_scores_are_those_of_the_question_as_asked(rig: Rig) -> None:
    await ingest(rig.app, *FRUIT)
    plain = await search(rig.app, query="yellow", rerank=False)
    rig.embedding.requests.clear()
    rig.qdrant.requests.clear()
    moved = await search(rig.app, query="yellow", rerank=False, feedback=True)
    assert len(rig.embedding.calls(EMBEDDINGS)) <= 1
    assert [call.path.rpartition("points/")[2] for call in rig.qdrant.requests] == ["query/batch"] * 2
    asked, again = (call.json["searches"] for call in rig.qdrant.requests)
    assert asked[0]["query"] != again[0]["query"]
    scores = [{hit["document_id"]: hit["scores"] for hit in hits} for hits in (plain, moved)]
    assert scores[0] == scores[1]


async def test_feedback_finds_nearer_what_was_found_and_needs_a_vector(rig: Rig) -> None:
    await ingest(rig.app, *FRUIT)
    plain = await search(rig.app, query="yellow", mode="dense", rerank=False)
    moved = await search(rig.app, query="yellow", mode="dense", rerank=False, feedback=True)
    own = [{hit["document_id"]: hit["score"] for hit in hits} for hits in (plain, moved)]
    assert all(own[0][name] < own[1][name] for name in own[0])
    assert ids(await search(rig.app, query="yellow", mode="sparse", feedback=True)) == ["lemon"]


async def test_when_the_second_search_fails_the_first_one_answers(rig: Rig) -> None:
    await ingest(rig.app, *FRUIT)
    plain = await search(rig.app, query="yellow", rerank=False)
    batch = f"/collections/{rig.config.rag.default_collection}/points/query/batch"
    rig.qdrant.on(batch, DEFAULT, reply(500))
    assert await degraded(rig, "feedback", query="yellow", rerank=False, feedback=True) == plain


@pytest.mark.parametrize("rule", ["relative", "dbsf"])
async def test_rankings_are_fused_by_the_configured_rule(rigs: RigMaker, rule: str) -> None:
    async with rigs.make(rag={"retrieval": {"fusion": {"rule": rule, "dense_weight": 0.0}}}) as rig:
        await ingest(rig.app, *FRUIT)
        hits = await search(rig.app, query="sour lemons", rerank=False, top_k=3)
        assert ids(hits)[:2] == ["lemon", "lime"]
        assert hits[0]["score"] == (1.0 if rule == "relative" else pytest.approx(0.5 + 0.5**0.5 / 6, abs=1e-3))
        assert hits[2]["score"] == 0


async def test_the_cost_of_each_stage_is_told(fruit: RunningApp) -> None:
    async with fruit.session.post(fruit.url + SEARCH, json={"query": "sour lemons"}) as response:
        answer = await response.json()
        header = response.headers["Server-Timing"]
        assert "X-Hartonomous-Degraded" not in response.headers
    told = {stage: float(value) for stage, value in re.findall(r"(\w+);dur=([0-9.]+)", header)}
    assert told == answer["timings_ms"]
    assert set(told) == {"embed", "search", "rerank", "total"}
    assert told["total"] >= max(told["embed"], told["search"], told["rerank"])


async def test_one_search_is_one_call_to_each_backend(rig: Rig) -> None:
    await ingest(rig.app, *FRUIT)
    await search(rig.app, query="warm up")
    backends = (rig.embedding, rig.reranking, rig.qdrant)
    for backend in backends:
        backend.requests.clear()
    await search(rig.app, query="sour lemons")
    asked = [request.path for backend in backends for request in backend.requests]
    # What the services say of themselves may be asked anew whenever it was seen some time ago.
    assert len([path for path in asked if path not in {"/props", "/v1/models", "/health"}]) == 3, asked
    assert all(backend.requests for backend in backends)


# Backends that fail.


async def degraded(rig: Rig, stage: str, **body: Any) -> list[Any]:
    """Return the hits of a search that must do without a stage, and say so in body, header and metric."""
    before = sample(rig.app, "hartonomous_degraded_answers_total", stage=stage)
    async with rig.app.session.post(rig.app.url + SEARCH, json=body) as response:
        answer = await response.json()
        assert response.status == 200
        assert response.headers["X-Hartonomous-Degraded"] == stage
    assert answer["degraded"] == [stage]
    assert sample(rig.app, "hartonomous_degraded_answers_total", stage=stage) == before + 1
    hits: list[Any] = answer["results"]
    return hits


@pytest.mark.parametrize(
    "behaviour",
    [
        json_reply({"results": []}),
        json_reply({"results": [{"index": 0, "relevance_score": 1.0}] * 3}),
        json_reply({"results": [{"index": index, "relevance_score": 1.0} for index in (0, 1, 3)]}),
        json_reply({"results": [{"index": index, "relevance_score": float("nan")} for index in range(3)]}),
        json_reply({"results": [{"index": index, "relevance_score": None} for index in range(3)]}),
        json_reply({"results": [{"relevance_score": 1.0 / place} for place in range(1, 4)]}),
        json_reply({"results": [{"index": index, "relevance_score": 0.5} for index in range(3)]}),
    ],
)
async def test_row_16_a_nonsensical_ranking_is_dropped_and_the_order_of_the_search_stays(
    rig: Rig, behaviour: Any
) -> None:
    await ingest(rig.app, *FRUIT)
    plain = await search(rig.app, query="sour lemons", rerank=False)
    rig.reranking.on(RERANK, behaviour)
    assert await degraded(rig, "reranking", query="sour lemons") == plain


@pytest.mark.parametrize(
    "behaviour", [None, reply(500), reply(503), reply(200, b"<html>"), json_reply({"error": "no"})]
)
async def test_row_17_when_reranking_is_down_the_order_of_the_search_stays(rig: Rig, behaviour: Any) -> None:
    await ingest(rig.app, *FRUIT)
    plain = await search(rig.app, query="sour lemons", rerank=False)
    if behaviour is None:
        await rig.reranking.stop()
    else:
        rig.reranking.on(RERANK, behaviour)
    assert await degraded(rig, "reranking", query="sour lemons") == plain
    status, answer = await ask(rig.app, "/rag/query", {"query": "sour lemons"})
    assert (status, answer["degraded"]) == (200, ["reranking"])


async def test_a_reranker_that_hangs_leaves_time_for_an_answer_without_it(rig: Rig) -> None:
    await ingest(rig.app, *FRUIT)
    rig.reranking.on(RERANK, hang())
    body, headers = {"query": "sour lemons"}, {"X-Request-Timeout-Ms": "4000"}
    status, answer = await ask(rig.app, "/rag/search", body, headers=headers)
    assert (status, answer["degraded"]) == (200, ["reranking"])


@pytest.mark.parametrize("known", [True, False])
async def test_row_27_when_embedding_is_down_hybrid_is_bm25_and_dense_is_503(rigs: RigMaker, known: bool) -> None:
    async with rigs.make() as rig:
        await ingest(rig.app, *FRUIT)
        sparse = await search(rig.app, query="sour lemons", mode="sparse", rerank=False)
    async with rigs.make() as rig:
        if known:
            await search(rig.app, query="warm up")
        await rig.embedding.stop()
        hits = await degraded(rig, "embedding", query="sour lemons", rerank=False)
        assert ids(hits) == ids(sparse)
        assert [hit["scores"] for hit in hits] == [hit["scores"] for hit in sparse]
        assert await search(rig.app, query="sour lemons", mode="sparse", rerank=False) == sparse
        async with rig.app.session.post(
            rig.app.url + SEARCH, json={"query": "sour lemons", "mode": "dense"}
        ) as response:
            assert response.status == 503
            assert (await response.json())["error"]["type"] == "backend_unavailable"
            assert int(response.headers["Retry-After"]) >= 1


async def test_nonsensical_vectors_of_a_question_are_no_answer(rig: Rig) -> None:
    await ingest(rig.app, *FRUIT)
    rig.embedding.on(EMBEDDINGS, json_reply({"data": [{"index": 0, "embedding": [1.0, 2.0]}]}))
    assert ids(await degraded(rig, "embedding", query="yellow", rerank=False)) == ["lemon"]
    status, answer = await ask(rig.app, SEARCH, {"query": "yellow", "mode": "dense"})
    assert (status, answer["error"]["type"]) == (502, "backend_error")


async def test_row_19_with_the_vector_store_down_there_is_no_answer(rig: Rig) -> None:
    await ingest(rig.app, *FRUIT)
    await rig.qdrant.stop()
    for mode in ("hybrid", "sparse", "dense"):
        status, answer = await ask(rig.app, SEARCH, {"query": "sour", "mode": mode})
        assert (status, answer["error"]["type"]) == (503, "backend_unavailable")
    await rig.qdrant.start()
    breaker = rig.app.runtime.pools["qdrant"].replicas[0].breaker
    await eventually(lambda: breaker.admits, "the circuit lets a probe through")
    assert len(await search(rig.app, query="sour")) == 3


@pytest.mark.parametrize("place", ["embedding", "qdrant"])
async def test_a_deadline_is_kept_whichever_backend_hangs(rig: Rig, place: str) -> None:
    await ingest(rig.app, *FRUIT)
    collection = rig.config.rag.default_collection
    paths = {"embedding": EMBEDDINGS, "qdrant": f"/collections/{collection}/points/query/batch"}
    getattr(rig, place).on(paths[place], hang())
    async with asyncio.timeout(10):  # the services' own limits are from 15 s on
        status, answer = await ask(rig.app, SEARCH, {"query": "sour"}, headers={"X-Request-Timeout-Ms": "300"})
    assert (status, answer["error"]["type"]) == (504, "timeout_error")


async def test_a_search_sees_one_version_while_a_document_is_replaced_under_feedback(rig: Rig, vector_url: str) -> None:
    """The second search of feedback comes after a new version was published, the first one before."""
    await ingest(rig.app, {"id": "a", "text": "lemons old version"})
    batch = f"/collections/{rig.config.rag.default_collection}/points/query/batch"
    asked = 0

    async def replace(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            await ingest(rig.app, {"id": "a", "text": "lemons new version"})
        await passed_on(vector_url)(exchange)

    rig.qdrant.on(batch, replace)
    hits = await search(rig.app, query="lemons", feedback=True, rerank=False)
    assert asked == 2
    assert {hit["text"] for hit in hits} == {"lemons new version"}
