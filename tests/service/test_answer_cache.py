"""Kept answers: who gets them, who does not, what makes them unreachable, and one call for all who ask at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest

from hartonomous.pipelines import keying
from tests.service.application import WAIT_S, eventually, merged
from tests.service.fault_backend import DEFAULT, hang, reply, reset, sse, stream
from tests.service.rag import CHAT, EMBEDDINGS, Rig, RigMaker, ask, ask_streamed, ingest, sample, says

QUERY = "/rag/query"
ON: dict[str, Any] = {"rag": {"cache": {"answers": {"enabled": True}}}}
LIME = {"query": "What does a lime weigh?", "rerank": False}
SAID = "A lime weighs 67 grams."


@pytest.fixture
async def kept(rigs: RigMaker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """A rig that keeps answers, with a document and a model that answers at once.

    A busy machine has time to find out the models: who cannot in a moment goes without the kept answers.
    """
    monkeypatch.setattr(keying, "_LOOK_S", 30.0)
    async with rigs.make(**ON) as rig:
        await ingest(rig.app, {"id": "lime", "text": "Limes are green. A lime weighs 67 grams."})
        forget_collections(rig)
        rig.generative.on(CHAT, says(SAID))
        forget_requests(rig)
        yield rig


def forget_collections(rig: Rig) -> None:
    """Let the next question look what the collection is like: how many points it had is part of the key, also when
    that was seen up to two seconds ago, before they were written."""
    rig.app.runtime.schema._known.clear()


def forget_requests(rig: Rig) -> None:
    for backend in (rig.embedding, rig.reranking, rig.generative, rig.qdrant):
        backend.requests.clear()


def cost(rig: Rig) -> tuple[int, int, int]:
    """Return how often the services were asked to embed, to search and to generate."""
    searches = [call for call in rig.qdrant.requests if call.path.endswith("/query/batch")]
    return len(rig.embedding.calls(EMBEDDINGS)), len(searches), len(rig.generative.calls(CHAT))


async def headers(rig: Rig, body: Any, path: str = QUERY, **sent: str) -> tuple[str | None, str | None]:
    """Return what an answer says of the cache: its state, and whether its age is below a minute ("young")."""
    names = {name.replace("_", "-"): value for name, value in sent.items()}
    async with rig.app.session.post(rig.app.url + path, json=body, headers=names) as response:
        assert response.status == 200, await response.text()
        await response.read()
        age = response.headers.get("Age")
        return response.headers.get("X-Hartonomous-Cache"), "young" if age is not None and 0 <= int(age) < 60 else age


def outcomes(rig: Rig) -> dict[str, float]:
    name = "hartonomous_cache_requests_total"
    return {end: sample(rig.app, name, cache="answers", outcome=end) for end in ("hit", "miss", "joined")}


def but_cost(answer: Any) -> Any:
    return {name: value for name, value in answer.items() if name not in {"timings_ms", "request_id"}}


def gated(gate: asyncio.Event, text: str = SAID) -> Any:
    """Let the model answer when the gate is open."""

    async def behave(exchange: Any) -> None:
        await gate.wait()
        await says(text)(exchange)

    return behave


async def test_the_second_answer_is_the_first_ones_with_its_own_id_and_cost(kept: Rig) -> None:
    _, first = await ask(kept.app, QUERY, LIME)
    forget_requests(kept)
    _, second = await ask(kept.app, QUERY, LIME)
    assert but_cost(second) == but_cost(first)
    assert second["answer"].startswith("A lime weighs 67 grams")
    assert second["sources"]
    assert set(second["timings_ms"]) == {"total"}
    assert second["request_id"] != first["request_id"]
    assert cost(kept) == (0, 0, 0)
    assert await headers(kept, LIME) == ("hit", "young")
    assert outcomes(kept) == {"hit": 2, "miss": 1, "joined": 0}
    assert sample(kept.app, "hartonomous_cache_entries", cache="answers") == 1


async def test_streamed_and_whole_share_an_answer(kept: Rig) -> None:
    for first_is_streamed in (True, False):
        body = {**LIME, "top_k": 1 + first_is_streamed}
        if first_is_streamed:
            await ask_streamed(kept.app, body)
        _, whole = await ask(kept.app, QUERY, body)
        forget_requests(kept)
        _, events = await ask_streamed(kept.app, body)
        assert cost(kept) == (0, 0, 0)
        assert [name for name, _ in events] == ["sources", "delta", "done"]
        assert events[0][1]["sources"] == whole["sources"]
        assert events[1][1]["text"] == whole["answer"]
        assert but_cost(events[2][1]) == {name: value for name, value in but_cost(whole).items() if name != "sources"}
        assert set(events[2][1]["timings_ms"]) == {"total"}
        assert await headers(kept, {**body, "stream": True}) == ("hit", "young")


async def test_a_rag_model_goes_through_the_cache(kept: Rig) -> None:
    name = f"rag:{kept.config.rag.default_collection}"
    body = {"model": name, "messages": [{"role": "user", "content": LIME["query"]}]}
    assert await headers(kept, body, CHAT) == ("miss", None)
    assert await headers(kept, {**body, "stream": True}, CHAT) == ("hit", "young")
    assert await headers(kept, body, CHAT, Cache_Control="no-store") == ("miss", None)
    assert cost(kept)[2] == 2


async def test_a_batch_searches_only_what_is_not_kept(kept: Rig) -> None:
    await ask(kept.app, QUERY, LIME)
    forget_requests(kept)
    queries = [LIME, {**LIME, "query": "Are limes green?"}, LIME, {**LIME, "query": "Are limes green?"}]
    for generations in (1, 0):
        forget_requests(kept)
        _, answer = await ask(kept.app, "/rag/batch-query", {"queries": queries})
        assert [item["status"] for item in answer["results"]] == [200] * 4
        assert cost(kept) == (generations, generations, generations)
    await ask(kept.app, "/rag/batch-query", {"queries": queries})


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_hundred_equal_questions_at_once_are_one_search_and_one_generation(kept: Rig, streamed: bool) -> None:
    gate = asyncio.Event()
    kept.generative.on(CHAT, gated(gate))
    asked = [asyncio.create_task(_ask(kept, streamed and number % 2 == 0)) for number in range(100)]
    await eventually(lambda: outcomes(kept)["joined"] == 99)
    await eventually(lambda: kept.generative.calls(CHAT))
    gate.set()
    answers = await asyncio.gather(*asked)
    assert cost(kept) == (1, 1, 1)
    assert len({answer["answer"] for answer in answers}) == 1
    assert len({answer["request_id"] for answer in answers}) == 100
    assert sum("generate" in answer["timings_ms"] for answer in answers) == 1, "one request bore the cost"


async def _ask(rig: Rig, streamed: bool) -> Any:
    if not streamed:
        status, answer = await ask(rig.app, QUERY, LIME)
        assert status == 200, answer
        return answer
    status, events = await ask_streamed(rig.app, LIME)
    assert status == 200, events
    done = events[-1][1]
    assert "".join(data["text"] for name, data in events if name == "delta") == done["answer"]
    return done


async def test_without_the_cache_a_hundred_equal_questions_are_still_one_embedding_call(rigs: RigMaker) -> None:
    async with rigs.make() as rig:
        await ingest(rig.app, {"id": "lime", "text": "A lime weighs 67 grams."})
        rig.generative.on(CHAT, says(SAID))
        forget_requests(rig)
        gate = asyncio.Event()

        async def held(exchange: Any) -> None:
            await gate.wait()
            await DEFAULT(exchange)

        rig.embedding.on(EMBEDDINGS, held, DEFAULT)
        asked = [asyncio.create_task(_ask(rig, False)) for _ in range(100)]
        name = "hartonomous_cache_requests_total"
        await eventually(lambda: sample(rig.app, name, cache="embeddings", outcome="joined") == 99)
        gate.set()
        await asyncio.gather(*asked)
        assert cost(rig) == (1, 100, 100)
        assert await headers(rig, LIME, Cache_Control="no-cache") == (None, None)


async def test_row_37_the_first_of_a_hundred_leaves_and_the_others_are_answered(kept: Rig) -> None:
    gate = asyncio.Event()
    kept.generative.on(CHAT, gated(gate))
    first = asyncio.create_task(_ask(kept, True))
    await eventually(lambda: kept.generative.calls(CHAT))
    others = [asyncio.create_task(_ask(kept, number % 2 == 0)) for number in range(99)]
    await eventually(lambda: outcomes(kept)["joined"] == 99)
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    gate.set()
    assert len(await asyncio.gather(*others)) == 99
    assert cost(kept) == (1, 1, 1)


async def test_when_the_last_one_leaves_the_model_is_stopped_and_nothing_is_kept(kept: Rig) -> None:
    kept.generative.on(CHAT, stream(sse(["A lime "], done=False)[:2], "hang"))
    asked = [asyncio.create_task(_ask(kept, True)) for _ in range(3)]
    await eventually(lambda: outcomes(kept)["joined"] == 2)
    await eventually(lambda: kept.generative.calls(CHAT))
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    (call,) = kept.generative.calls(CHAT)
    await asyncio.wait_for(call.closed.wait(), WAIT_S)
    kept.generative.on(CHAT, says(SAID))
    assert await headers(kept, LIME) == ("miss", None)


async def test_a_short_deadline_is_its_callers_alone(kept: Rig) -> None:
    gate = asyncio.Event()
    kept.generative.on(CHAT, gated(gate))
    hasty = asyncio.create_task(ask(kept.app, QUERY, LIME, headers={"X-Request-Timeout-Ms": "1000"}))
    await eventually(lambda: kept.generative.calls(CHAT))
    patient = asyncio.create_task(_ask(kept, False))
    status, _ = await hasty
    assert status == 504
    gate.set()
    assert (await patient)["answer"]
    assert cost(kept) == (1, 1, 1)


async def test_a_stage_that_can_be_left_out_takes_its_share_of_the_callers_time(kept: Rig) -> None:
    kept.reranking.on("/v1/rerank", hang())
    body, hasty = {**LIME, "rerank": True}, {"X-Request-Timeout-Ms": "3000"}
    status, answer = await ask(kept.app, QUERY, body, headers=hasty)
    assert (status, answer["degraded"]) == (200, ["reranking"])


async def test_a_generation_that_broke_off_leaves_the_sources_to_who_asked_for_them(kept: Rig) -> None:
    kept.generative.on(CHAT, stream(sse(["A lime weighs"], done=False), "reset"))
    status, answer = await ask(kept.app, QUERY, {**LIME, "on_failure": "sources"})
    assert (status, answer["degraded"], answer["answer"]) == (200, ["generation"], "")
    assert [source["document_id"] for source in answer["sources"]] == ["lime"]
    assert (await ask(kept.app, QUERY, LIME))[0] == 502


async def test_row_36_of_100_equal_requests_when_an_entry_expires_one_reaches_the_backends(
    rigs: RigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keying, "_LOOK_S", 30.0)
    short = merged(ON, {"rag": {"cache": {"answers": {"ttl_s": 0.5}}}})
    async with rigs.make(**short) as rig:
        await ingest(rig.app, {"id": "lime", "text": "A lime weighs 67 grams."})
        forget_collections(rig)
        rig.generative.on(CHAT, says(SAID))
        await _ask(rig, False)
        gate = asyncio.Event()
        rig.generative.on(CHAT, gated(gate))
        forget_requests(rig)
        loads = [asyncio.create_task(_ask_until(rig, gate)) for _ in range(100)]
        await eventually(lambda: outcomes(rig)["joined"] == 99, "all wait for the one call")
        await eventually(lambda: rig.generative.calls(CHAT))
        assert cost(rig)[1:] == (1, 1)
        gate.set()
        await asyncio.gather(*loads)


async def _ask_until(rig: Rig, gate: asyncio.Event) -> None:
    while not gate.is_set():
        await _ask(rig, False)


@pytest.mark.parametrize("fault", [reply(500), reset(), stream(sse(["A lime "], done=False), "reset")])
async def test_row_38_an_error_is_never_kept_and_reaches_all_who_wait(kept: Rig, fault: Any) -> None:
    gate = asyncio.Event()

    async def behave(exchange: Any) -> None:
        await gate.wait()
        await fault(exchange)

    kept.generative.on(CHAT, behave)
    asked = [asyncio.create_task(ask(kept.app, QUERY, LIME)) for _ in range(10)]
    await eventually(lambda: outcomes(kept)["joined"] == 9)
    gate.set()
    assert {status for status, _ in await asyncio.gather(*asked)} == {502}
    kept.generative.on(CHAT, says(SAID))
    assert await headers(kept, LIME) == ("miss", None)
    assert await headers(kept, LIME) == ("hit", "young")


async def test_row_38_a_degraded_answer_is_never_kept(kept: Rig) -> None:
    kept.reranking.on("/v1/rerank", reply(500))
    body = {**LIME, "rerank": True}
    for _ in range(2):
        _, answer = await ask(kept.app, QUERY, body)
        assert answer["degraded"] == ["reranking"]
    down = {**LIME, "on_failure": "sources"}
    kept.generative.on(CHAT, reply(500))
    for _ in range(2):
        _, answer = await ask(kept.app, QUERY, down)
        assert answer["degraded"] == ["generation"]
    kept.generative.on(CHAT, says(SAID))
    kept.embedding.on(EMBEDDINGS, reply(500))
    for _ in range(2):
        _, answer = await ask(kept.app, QUERY, {**LIME, "query": "What do limes weigh?"})
        assert answer["degraded"] == ["embedding"]
    assert outcomes(kept)["hit"] == 0


async def test_the_callers_wishes_are_followed(kept: Rig) -> None:
    assert await headers(kept, LIME, Cache_Control="no-store") == ("miss", None)
    assert await headers(kept, LIME) == ("miss", None), "no-store: it was not written"
    assert await headers(kept, LIME, Cache_Control="max-age=60") == ("hit", "young")
    assert await headers(kept, LIME, Cache_Control="max-age=0") == ("miss", None)
    assert await headers(kept, LIME, Cache_Control="no-store") == ("miss", None), "and it is not read"
    kept.generative.on(CHAT, says("Limes are green."))
    assert await headers(kept, LIME, Cache_Control="no-cache") == ("miss", None)
    _, answer = await ask(kept.app, QUERY, LIME)
    assert answer["answer"].startswith("Limes are green"), "no-cache: it was written"
    for nonsense in ("max-age=x", "max-age", "=,;", "max-age=" + "9" * 5_000, '"no-store', "", "max-stale=5"):
        assert await headers(kept, LIME, Cache_Control=nonsense) == ("hit", "young"), nonsense


@pytest.mark.parametrize(
    "change",
    [
        {"query": "What does a lime weigh"},
        {"top_k": 2},
        {"mode": "sparse"},
        {"filter": {"must": [{"key": "document_id", "match": {"value": "lime"}}]}},
        {"system": "Be brief."},
        {"max_tokens": 7},
        {"temperature": 0.5},
        {"messages": [{"role": "user", "content": "Hello"}]},
        {"require_grounding": True},
        {"rerank": True},
        {"on_failure": "sources"},
        {"score_threshold": 0.0},
        {"feedback": True},
    ],
)
async def test_another_request_finds_another_answer(kept: Rig, change: dict[str, Any]) -> None:
    await headers(kept, LIME)
    assert await headers(kept, {**LIME, **change}) == ("miss", None)


@pytest.mark.parametrize("change", ["ingest", "replace", "attributes", "delete"])
async def test_after_a_change_the_next_answer_is_a_new_one(kept: Rig, change: str) -> None:
    question = {**LIME, "top_k": 10}
    _, before = await ask(kept.app, QUERY, question)
    lime = {"id": "lime", "text": "Limes are green. A lime weighs 67 grams."}
    if change == "ingest":
        await ingest(kept.app, {"id": "new", "text": "Another lime weighs 70 grams."})
    elif change == "replace":
        await ingest(kept.app, {"id": "lime", "text": "Limes are green. A lime weighs 99 grams."})
    elif change == "attributes":
        await ingest(kept.app, {**lime, "title": "On limes"})
    else:
        await ingest(kept.app, {"id": "other", "text": "Lemons weigh more than a lime."})
        await ask(kept.app, QUERY, question)
        name = kept.config.rag.default_collection
        assert await kept.app.delete(f"/rag/collections/{name}/documents/lime") == 204
    _, after = await ask(kept.app, QUERY, question)
    shown = [
        [(hit["document_id"], hit["text"], hit["title"]) for hit in answer["sources"]] for answer in (before, after)
    ]
    assert shown[0] != shown[1]


async def test_what_changes_nothing_keeps_the_answers(kept: Rig) -> None:
    await headers(kept, LIME)
    await ingest(kept.app, {"id": "lime", "text": "Limes are green. A lime weighs 67 grams."})
    assert await headers(kept, LIME) == ("hit", "young")


async def test_a_deleted_collection_has_no_answers(kept: Rig) -> None:
    await headers(kept, LIME)
    assert await kept.app.delete(f"/rag/collections/{kept.config.rag.default_collection}") == 204
    status, _ = await ask(kept.app, QUERY, LIME)
    assert status == 404


async def test_an_answer_that_was_begun_before_a_change_is_not_found_after_it(kept: Rig) -> None:
    gate = asyncio.Event()
    kept.generative.on(CHAT, gated(gate))
    old = asyncio.create_task(_ask(kept, False))
    await eventually(lambda: kept.generative.calls(CHAT))
    await ingest(kept.app, {"id": "lime", "text": "Limes are green. A lime weighs 99 grams."})
    gate.set()
    await old
    _, new = await ask(kept.app, QUERY, LIME)
    assert "99 grams" in new["sources"][0]["text"]
