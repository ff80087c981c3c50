"""What the running application counts: use by owner, first tokens, ingests, what answers rest on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from hartonomous.keys import METRICS
from tests.parsing.pdf_writer import text_pdf
from tests.service.application import RunningApp, eventually
from tests.service.fault_backend import DEFAULT, after
from tests.service.keyed import Key, asking, auth_section, keyed
from tests.service.rag import CHAT, Rig, RigMaker, ask, ask_streamed, events_of, ingest, sample, says

FIRST_TOKEN = "hartonomous_http_first_token_seconds_count"


def tenant(app: RunningApp, name: str, **labels: str) -> float:
    return sample(app, f"hartonomous_tenant_{name}_total", **labels)


def outcome(rig: Rig, name: str) -> float:
    return sample(rig.app, "hartonomous_answers_total", outcome=name)


async def test_tokens_of_every_kind_of_work_are_counted_to_their_owner_without_any_limit(rigs: RigMaker) -> None:
    async with keyed(rigs) as it:
        it.rig.generative.on(CHAT, says("A lime weighs some grams."))
        name = it.keys.a.collection
        counted = 0.0

        def taken() -> float:
            nonlocal counted
            before, counted = counted, tenant(it.a, "tokens", owner=it.keys.a.id)
            return counted - before

        reported = (await ingest(it.a, "A lime weighs 67 grams.", collection=name))["usage"]["embedding_tokens"]
        assert 0 < reported == taken()
        question = {"query": "What does a lime weigh?", "collection": name}
        _, answer = await it.a.post("/rag/query", question)
        assert 0 < answer["usage"]["total_tokens"] == taken()
        async with it.a.session.post(it.a.url + "/rag/query", json={**question, "stream": True}) as streamed:
            assert events_of(await streamed.text())[-1][1]["usage"]["total_tokens"] == taken()
        _, answer = await it.a.post("/rag/batch-query", {"queries": [question, {**question, "top_k": 1}]})
        assert sum(item["result"]["usage"]["total_tokens"] for item in answer["results"]) == taken()
        _, answer = await it.a.post("/v1/rerank", {"query": "lime", "documents": ["a lime", "a plum"]})
        assert 0 < answer["usage"]["total_tokens"] == taken()
        _, answer = await it.a.post("/v1/embeddings", {"input": "a lime", "model": "any"})
        assert 0 < answer["usage"]["total_tokens"] == taken()
        assert tenant(it.b, "tokens", owner=it.keys.b.id) == 0


async def test_requests_and_bytes_are_counted_to_the_owner_of_the_key(rigs: RigMaker) -> None:
    async with keyed(rigs) as it:
        body = b'{"query": "lime", "collection": "%s"}' % it.keys.b.collection.encode()
        for app in (it.a, it.b):
            headers = {"Content-Type": "application/json"}
            async with app.session.post(app.url + "/rag/search", data=body, headers=headers) as response:
                await response.read()
        assert tenant(it.a, "requests", owner=it.keys.a.id, status="4xx") == 1
        assert tenant(it.a, "received_bytes", owner=it.keys.a.id) == len(body)
        assert tenant(it.b, "received_bytes", owner=it.keys.b.id) == len(body)
        async with it.rig.app.session.get(it.rig.app.url + "/rag/collections") as response:
            assert response.status == 401
        owners = {key.id for key in it.keys}
        assert await owners_of(it.operator) == owners


async def test_a_limits_refusals_are_counted_to_the_owner(rigs: RigMaker) -> None:
    key = Key("limited", ("query",), ("*",), options={"limits": {"requests_per_s": 0.001, "burst": 1}})
    async with keyed(rigs, more=(key,)) as it, asking(it.rig.app, key) as app:
        statuses = [(await app.get("/v1/models/none"))[0] for _ in range(3)]
        assert statuses == [404, 429, 429]
        assert tenant(app, "refusals", owner=key.id, limit="too_many_requests") == 2


async def test_an_owner_whose_key_a_reload_takes_away_has_no_series_any_more(rigs: RigMaker, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    async with keyed(rigs, file) as it:
        written = it.rig.config.model_dump(mode="json", exclude_none=True)
        kept = [key.entry for key in it.keys if key.id != it.keys.b.id]
        written["auth"] = auth_section() | {"keys": [{name: _listed(entry[name]) for name in entry} for entry in kept]}
        file.write_text(yaml.safe_dump(written), encoding="utf-8")
        assert it.keys.b.id in await owners_of(it.operator)
        await _reload(it.operator)
        assert await owners_of(it.operator) == {key.id for key in it.keys} - {it.keys.b.id}


async def test_a_service_that_a_reload_takes_out_is_not_down_any_more(rigs: RigMaker, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    async with rigs.make(file, health={"interval_s": 0.2}) as rig:
        written = rig.config.model_dump(mode="json", exclude_none=True)
        await rig.reranking.stop()
        await eventually(lambda: _up(rig) == 0, "the service is seen to be down")
        without = {**written["backends"]}
        del without["reranking"]
        file.write_text(yaml.safe_dump({**written, "backends": without}), encoding="utf-8")
        await _reload(rig.app)
        assert _up(rig) is None
        file.write_text(yaml.safe_dump(written), encoding="utf-8")
        await _reload(rig.app)
        await eventually(lambda: _up(rig) == 0, "it is down again")
        await rig.reranking.start()
        await eventually(lambda: _up(rig) == 1, "the service is up again")


async def _reload(app: RunningApp) -> None:
    status, answer = await app.post("/admin/config/reload", None)
    assert status == 200, answer


def _up(rig: Rig) -> float | None:
    registry = rig.app.app[METRICS].registry
    return registry.get_sample_value("hartonomous_backend_up", {"service": "reranking"})


async def test_the_first_token_of_every_stream_is_timed_once(rig: Rig) -> None:
    rig.generative.on(CHAT, says("Limes are green."))
    await ingest(rig.app, "Limes are green.")
    await ask_streamed(rig.app, {"query": "lime?"})
    assert sample(rig.app, FIRST_TOKEN, route="/rag/query") == 1
    for model in ("any", f"rag:{rig.config.rag.default_collection}"):
        body = {"model": model, "messages": [{"role": "user", "content": "lime?"}], "stream": True}
        async with rig.app.session.post(rig.app.url + CHAT, json=body) as response:
            await response.read()
    assert sample(rig.app, FIRST_TOKEN, route=CHAT) == 2
    await ask(rig.app, "/rag/query", {"query": "lime?"})
    assert sample(rig.app, FIRST_TOKEN, route="/rag/query") == 1, "an answer in one piece has no first token"
    assert sample(rig.app, "hartonomous_generation_first_token_seconds_count") == 3


async def test_answers_are_counted_by_what_they_rest_on(rig: Rig) -> None:
    await ingest(rig.app, "Limes are green.")
    rig.generative.on(CHAT, says("Limes are green."))
    await ask(rig.app, "/rag/query", {"query": "Which colour have limes?"})
    assert outcome(rig, "grounded") == 1
    rig.generative.on(CHAT, says("Limes are green. Quantum chromodynamics explains hadrons."))
    await ask(rig.app, "/rag/query", {"query": "Which colour have limes?"})
    assert outcome(rig, "partly_grounded") == 1
    nothing = {"must": [{"key": "metadata.there", "match": {"value": "not"}}]}
    await ask(rig.app, "/rag/query", {"query": "Which colour have limes?", "filter": nothing})
    assert outcome(rig, "nothing_found") == 1
    await rig.generative.stop()
    await ask(rig.app, "/rag/query", {"query": "Which colour have limes?", "on_failure": "sources"})
    assert outcome(rig, "without_generation") == 1
    await rig.generative.start()
    assert sample(rig.app, "hartonomous_answer_citations_count") == 2


async def test_ingests_are_counted_with_their_chunks_tokens_and_failures(rig: Rig) -> None:
    documents = [{"id": "lime", "text": "Limes are green."}, {"id": "none", "text": " "}]
    _, answer = await ask(rig.app, "/rag/ingest", {"documents": documents})
    assert sample(rig.app, "hartonomous_ingest_request_documents_sum") == 2
    assert sample(rig.app, "hartonomous_ingest_document_chunks_sum") == 1
    assert sample(rig.app, "hartonomous_ingest_document_duration_seconds_count") == 2
    assert sample(rig.app, "hartonomous_ingest_failures_total", type="invalid_request_error") == 1
    tokens = answer["usage"]["embedding_tokens"]
    assert 0 < tokens == sample(rig.app, "hartonomous_ingest_embedding_tokens_total")
    await ask(rig.app, "/rag/ingest", {"documents": documents[:1]})
    assert sample(rig.app, "hartonomous_ingest_document_chunks_count") == 1, "what is unchanged has no new chunks"


async def test_reading_a_file_is_timed_by_its_format(rig: Rig) -> None:
    form = aiohttp.FormData()
    form.add_field("file", text_pdf("Limes are green."), filename="lime.pdf", content_type="application/pdf")
    async with rig.app.session.post(rig.app.url + "/rag/ingest", data=form) as response:
        assert response.status == 200
    assert sample(rig.app, "hartonomous_parsing_duration_seconds_count", format="pdf") == 1


async def test_who_waits_for_a_turn_is_timed_and_who_need_not_wait_is_not(rigs: RigMaker) -> None:
    wait = "hartonomous_backend_queue_wait_seconds_count"
    async with rigs.make(backends={"generative": {"concurrency": 1}}) as rig:
        gate = asyncio.Event()
        rig.generative.on(CHAT, after(DEFAULT, gate))
        asked = [asyncio.create_task(rig.app.post(CHAT, {"messages": [], "stream": False})) for _ in range(3)]
        await eventually(lambda: rig.app.runtime.pools["generative"].admission.waiting == 2, "two wait")
        assert sample(rig.app, "hartonomous_backend_slots", service="generative") == 1
        assert sample(rig.app, "hartonomous_backend_queue_limit", service="generative") == 256
        gate.set()
        await asyncio.gather(*asked)
        assert sample(rig.app, wait, service="generative") == 2
        assert sample(rig.app, wait, service="qdrant") == 0


async def owners_of(app: RunningApp) -> set[str]:
    """Return the owners that /metrics names."""
    async with app.session.get(app.url + "/metrics") as response:
        lines = (await response.text()).splitlines()
    return {line.partition('owner="')[2].partition('"')[0] for line in lines if 'owner="' in line}


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
