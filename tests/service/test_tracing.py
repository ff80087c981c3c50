"""Spans as a collector gets them: one tree for each request, with the ids that logs, audit trail and backends have."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import pytest

from hartonomous.keys import TRAIL
from tests.service.application import eventually
from tests.service.collector import Collector, Found
from tests.service.fault_backend import json_reply
from tests.service.keyed import keyed
from tests.service.rag import CHAT, EMBEDDINGS, Rig, RigMaker, ask, ask_streamed, ingest
from tests.service.test_reload import Reloads
from tests.service.traces import LIME, QUERY, SPAN_ID, TEXT, TRACE_ID, named, parents, sampled, settings, tree

SECRETS = ("lime", "grams", "weigh")


def check_whole(spans: list[Found]) -> None:
    """See that it is one tree, in which nothing of a question or a text stands."""
    (root,) = (span for span in spans if span.kind == "server")
    ids = {span.span_id for span in spans}
    assert len(ids) == len(spans)
    assert all(span.parent_id in ids for span in spans if span is not root)
    assert all(root.started <= span.started <= span.ended for span in spans)
    assert not [text for text in SECRETS if text in repr(spans)]


async def test_a_query_is_one_tree_whose_ids_the_backends_have(traced: Rig, collector: Collector) -> None:
    status, answer = await ask(traced.app, QUERY, LIME, headers=sampled())
    assert (status, answer["request_id"]) == (200, "mine")
    spans = await collector.whole("POST /rag/query")
    check_whole(spans)
    assert {span.trace_id for span in spans} == {TRACE_ID}
    assert not [span for span in spans if span.failed or "error.type" in span.attributes]
    collection = traced.config.rag.default_collection
    assert [name for name in tree(spans) if "/tokenize" not in name and "/apply-template" not in name] == [
        "POST /rag/query",
        ".embed",
        "..embeddings",
        ".search",
        f"..points/query/batch {collection}",
        ".rerank",
        "..POST /v1/rerank",
        ".generate",
        "..chat",
    ]
    assert parents(traced.embedding, EMBEDDINGS) == [named(spans, "embeddings").span_id]
    assert parents(traced.reranking, "/v1/rerank") == [named(spans, "POST /v1/rerank").span_id]
    assert parents(traced.generative, CHAT) == [named(spans, "chat").span_id]
    (call,) = traced.generative.calls(CHAT)
    assert (call.headers["tracestate"], call.headers["X-Request-ID"]) == ("a=1,b@c=2", "mine")
    assert {span.state for span in spans} == {"a=1,b@c=2"}


async def test_a_request_and_its_calls_are_described_by_the_conventions(traced: Rig, collector: Collector) -> None:
    _, answer = await ask(traced.app, QUERY, LIME, headers=sampled())
    spans = await collector.whole("POST /rag/query")
    root, chat = spans[0], named(spans, "chat")
    assert (root.kind, root.parent_id, root.failed) == ("server", SPAN_ID, False)
    assert root.attributes == {
        "http.request.method": "POST",
        "http.route": QUERY,
        "url.path": QUERY,
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "http.response.status_code": 200,
        "client.address": "127.0.0.1",
        "hartonomous.request_id": "mine",
        "hartonomous.collection": traced.config.rag.default_collection,
    }
    assert chat.kind == "client"
    assert chat.attributes["gen_ai.operation.name"] == "chat"
    assert chat.attributes["gen_ai.usage.input_tokens"] == answer["usage"]["prompt_tokens"]
    assert chat.attributes["gen_ai.usage.output_tokens"] == answer["usage"]["completion_tokens"]
    assert chat.attributes["gen_ai.response.finish_reasons"] == [answer["finish_reason"]]
    assert chat.attributes["url.full"] == traced.generative.url + CHAT
    assert chat.attributes["hartonomous.outcome"] == "2xx"
    assert root.resource["service.name"] == "hartonomous"
    assert {"service.version", "service.instance.id"} <= set(root.resource)


async def test_a_streamed_answer_lasts_to_the_end_of_its_stream(traced: Rig, collector: Collector) -> None:
    status, events = await ask_streamed(traced.app, LIME, headers=sampled())
    assert (status, events[-1][0]) == (200, "done")
    spans = await collector.whole("POST /rag/query")
    check_whole(spans)
    assert named(spans, "chat").ended <= named(spans, "generate").ended <= spans[0].ended


async def test_a_batch_has_one_search_and_a_generation_each(traced: Rig, collector: Collector) -> None:
    queries = [LIME, {"query": "Do dogs bark?"}, {"query": "Who is there?"}]
    status, answer = await ask(traced.app, "/rag/batch-query", {"queries": queries}, headers=sampled())
    assert (status, answer["counts"]["failed"]) == (200, 0)
    spans = await collector.whole("POST /rag/batch-query")
    check_whole(spans)
    names = tree(spans)
    assert [names.count(name) for name in (".embed", ".search", ".rerank", ".generate", "..chat")] == [1, 1, 3, 3, 3]
    chats = {span.span_id: span.parent_id for span in spans if span.name == "chat"}
    assert set(parents(traced.generative, CHAT)) == set(chats)
    assert set(chats.values()) == {span.span_id for span in spans if span.name == "generate"}


async def test_an_ingest_shares_calls_which_are_linked_to_every_document_in_them(
    traced: Rig, collector: Collector
) -> None:
    documents = [
        {"id": "one", "text": "Figs are sweet."},
        {"id": "two", "text": "<p>Kale is green.</p>", "format": "html"},
    ]
    status, _ = await ask(traced.app, "/rag/ingest", {"documents": documents}, headers=sampled())
    assert status == 200
    spans = await collector.whole("POST /rag/ingest")
    check_whole(spans)
    assert tree(spans).count(".document") == 2
    assert [tree(spans).count(f"..{stage}") for stage in ("parse", "chunk", "embed", "store", "publish")] == [
        1,
        2,
        2,
        2,
        2,
    ]
    waiting = {span.span_id for span in spans if span.name == "embed"}
    calls = [span for span in spans if span.name == "embeddings"]
    assert {span.parent_id for span in calls} | {link for span in calls for link in span.links} == waiting
    assert set(parents(traced.embedding, EMBEDDINGS)) == {span.span_id for span in calls}


async def test_requests_that_share_a_call_keep_their_own_traces(traced: Rig, collector: Collector) -> None:
    """Two ingests in one embedding call: it is a span of the first one, with a link to the other's."""
    ids = [f"{number:032x}" for number in (1, 2)]

    async def take(trace_id: str) -> None:
        headers = {"traceparent": f"00-{trace_id}-{SPAN_ID}-01", "X-Request-ID": trace_id}
        body = {"documents": [{"id": trace_id, "text": f"Document {trace_id}."}]}
        assert (await ask(traced.app, "/rag/ingest", body, headers=headers))[0] == 200

    await asyncio.gather(*map(take, ids))
    await eventually(lambda: sum(span.name == "POST /rag/ingest" for span in collector.spans) == 2)
    spans = [span for trace_id in ids for span in collector.of(trace_id)]
    assert {span.trace_id for span in collector.spans} == set(ids)
    owners = {span.span_id: span.trace_id for span in spans}
    for call in traced.embedding.calls(EMBEDDINGS):
        _, trace_id, span_id, _ = call.headers["traceparent"].split("-")
        assert owners[span_id] == trace_id == call.headers["X-Request-ID"]
    for span in spans:
        assert span.parent_id == SPAN_ID or owners[span.parent_id] == span.trace_id
    waiting = {span.span_id for span in spans if span.name == "embed"}
    calls = [span for span in spans if span.name == "embeddings"]
    assert {span.parent_id for span in calls} | {link for span in calls for link in span.links} == waiting


async def test_every_line_of_a_request_and_its_audit_line_have_its_ids(
    logged: io.StringIO, rigs: RigMaker, collector: Collector
) -> None:
    async with keyed(rigs, tracing=settings(collector)) as it:
        body = {"documents": [{"id": "a", "text": TEXT}], "collection": it.keys.a.collection}
        status, _ = await ask(it.a, "/rag/ingest", body, headers={**it.keys.a.headers, **sampled()})
        assert status == 200
        spans = await collector.whole("POST /rag/ingest")
        audited = [json.loads(record.line) for record in it.rig.app.app[TRAIL].kept.all()[0]]
    root = spans[0]
    assert root.attributes["hartonomous.key.id"] == root.attributes["hartonomous.key.owner"] == it.keys.a.id
    records = [json.loads(line) for line in logged.getvalue().splitlines()]
    (access,) = (one for one in records if one["message"] == "request" and one["request_id"] == "mine")
    assert (access["trace_id"], access["span_id"]) == (TRACE_ID, root.span_id)
    about = [one for one in records if one.get("trace_id") == TRACE_ID]
    assert {one["request_id"] for one in about} == {"mine"}
    assert [line["trace_id"] for line in audited if line["request_id"] == "mine"] == [TRACE_ID]


async def test_what_is_logged_of_a_failure_has_the_ids_and_what_is_logged_of_nobody_has_none(
    logged: io.StringIO, traced: Rig
) -> None:
    traced.generative.on(CHAT, json_reply({"error": {"message": "broken"}}, 500))
    assert (await ask(traced.app, QUERY, LIME, headers=sampled()))[0] == 502
    records = [json.loads(line) for line in logged.getvalue().splitlines()]
    about = [one for one in records if one.get("trace_id") == TRACE_ID]
    assert {one["request_id"] for one in about} == {"mine"}
    assert "request" in {one["message"] for one in about}
    assert not [one for one in records if one["message"] == "backend health changed" and "request_id" in one]


async def test_what_a_reload_has_begun_is_not_logged_as_its_work(
    logged: io.StringIO, rigs: RigMaker, tmp_path: Path
) -> None:
    file = tmp_path / "hartonomous.yaml"
    async with rigs.make(file, health={"interval_s": 0.1}) as rig:
        await Reloads(rig, file).to(health={"interval_s": 0.05})
        await eventually(rig.app.runtime.monitor.first_round.is_set)
        rig.generative.on("/health", json_reply({}, 503))
        await eventually(lambda: '"state":"down"' in logged.getvalue() or '"status":"down"' in logged.getvalue())
    records = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert not [one for one in records if one["message"] == "backend health changed" and "request_id" in one]
    (reloaded,) = (one for one in records if one["message"] == "the configuration was read again")
    (access,) = (one for one in records if one["message"] == "request")
    assert reloaded["request_id"] == access["request_id"]


async def test_what_the_caller_does_not_want_recorded_is_not(traced: Rig, collector: Collector) -> None:
    assert (await ask(traced.app, QUERY, LIME, headers=sampled("00")))[0] == 200
    assert (await ask(traced.app, "/rag/search", LIME))[0] == 200
    await collector.whole("POST /rag/search")
    assert collector.of(TRACE_ID) == []
    (call,) = traced.generative.calls(CHAT)
    version, trace_id, _, flags = call.headers["traceparent"].split("-")
    assert (version, trace_id, flags, call.headers["tracestate"]) == ("00", TRACE_ID, "00", "a=1,b@c=2")


async def test_of_requests_without_a_trace_a_share_is_recorded(rigs: RigMaker, collector: Collector) -> None:
    async with rigs.make(tracing=settings(collector, sample_ratio=0.0)) as rig:
        await ingest(rig.app, TEXT)
        assert (await ask(rig.app, QUERY, LIME))[0] == 200
        assert rig.generative.calls(CHAT)[0].headers["traceparent"].endswith("-00")
        assert (await ask(rig.app, QUERY, LIME, headers=sampled()))[0] == 200
        spans = await collector.whole("POST /rag/query")
    assert {span.trace_id for span in collector.spans} == {TRACE_ID} == {spans[0].trace_id}


async def test_without_tracing_a_callers_trace_goes_on_as_it_is(rig: Rig) -> None:
    await ingest(rig.app, TEXT)
    later = {"traceparent": f"cc-{TRACE_ID}-{SPAN_ID}-03-more", "tracestate": "a=1,b@c=2"}
    assert (await ask(rig.app, QUERY, LIME, headers=later))[0] == 200
    (call,) = rig.generative.calls(CHAT)
    assert {name: call.headers[name] for name in later} == later
    assert (await ask(rig.app, QUERY, LIME))[0] == 200
    assert "traceparent" not in rig.generative.calls(CHAT)[1].headers


async def test_the_environment_can_turn_the_sdk_off_and_a_callers_trace_goes_on(
    monkeypatch: pytest.MonkeyPatch, rigs: RigMaker, collector: Collector
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "True")
    async with rigs.make(tracing=settings(collector)) as rig:
        await ingest(rig.app, TEXT)
        assert (await ask(rig.app, QUERY, LIME, headers=sampled()))[0] == 200
        (call,) = rig.generative.calls(CHAT)
        assert call.headers["traceparent"] == sampled()["traceparent"]
        assert (await ask(rig.app, QUERY, LIME))[0] == 200
        assert "traceparent" not in rig.generative.calls(CHAT)[1].headers
    assert collector.headers == []


async def test_the_environment_adds_to_what_is_sent_and_decides_neither_what_nor_where(
    monkeypatch: pytest.MonkeyPatch, rigs: RigMaker, collector: Collector
) -> None:
    for name, value in {
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=tests,service.name=other",
        "OTEL_SERVICE_NAME": "other",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-more=1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_TRACES_SAMPLER": "always_off",
    }.items():
        monkeypatch.setenv(name, value)
    async with rigs.make(tracing=settings(collector)) as rig:
        await ingest(rig.app, TEXT)
        spans = await collector.whole("POST /rag/ingest")
    resource = spans[0].resource
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("hartonomous", "tests")
    assert collector.headers[0]["x-more"] == "1"


async def test_what_strangers_send_is_not_recorded_whatever_they_say(rigs: RigMaker, collector: Collector) -> None:
    async with keyed(rigs, tracing=settings(collector)) as it:
        assert (await ask(it.rig.app, QUERY, LIME, headers=sampled()))[0] == 401
        async with it.rig.app.session.get(it.rig.app.url + "/openapi.json", headers=sampled()) as response:
            assert response.status == 200
        openmetrics = {"Accept": "application/openmetrics-text; version=1.0.0", **it.keys.operator.headers}
        async with it.operator.session.get(it.rig.app.url + "/metrics", headers=openmetrics) as response:
            text = await response.text()
        assert 'route="/rag/query"' in text
        assert TRACE_ID not in text
        body = {**LIME, "collection": it.keys.b.collection}
        assert (await ask(it.a, "/rag/search", body, headers=it.keys.a.headers))[0] == 403
        await collector.whole("POST /rag/search")
    assert TRACE_ID not in {span.trace_id for span in collector.spans}


async def test_polls_make_no_spans(traced: Rig, collector: Collector) -> None:
    for path in ("/health", "/ready", "/metrics"):
        async with traced.app.session.get(traced.app.url + path) as response:
            await response.read()
    assert (await ask(traced.app, "/rag/search", LIME))[0] == 200
    await collector.whole("POST /rag/search")
    assert not [span for span in collector.spans if span.name.startswith("GET /")]


async def test_measurements_carry_the_trace_as_their_exemplar(traced: Rig) -> None:
    assert (await ask_streamed(traced.app, LIME, headers=sampled()))[0] == 200
    text = await metrics(traced, "application/openmetrics-text; version=1.0.0")
    exemplar = f'# {{trace_id="{TRACE_ID}"}}'
    for name in (
        "hartonomous_http_request_duration_seconds",
        "hartonomous_http_first_token_seconds",
        "hartonomous_stage_duration_seconds",
        "hartonomous_backend_request_duration_seconds",
        "hartonomous_generation_first_token_seconds",
    ):
        assert [row for row in text.splitlines() if row.startswith(f"{name}_bucket") and exemplar in row], name
    assert TRACE_ID not in await metrics(traced, "text/plain")


async def test_a_callers_trace_is_an_exemplar_without_any_tracing_of_ours(rig: Rig) -> None:
    await ingest(rig.app, TEXT)
    assert (await ask(rig.app, QUERY, LIME, headers=sampled("00")))[0] == 200
    assert TRACE_ID not in await metrics(rig, "application/openmetrics-text; version=1.0.0")
    assert (await ask(rig.app, QUERY, LIME, headers=sampled()))[0] == 200
    assert f'trace_id="{TRACE_ID}"' in await metrics(rig, "application/openmetrics-text; version=1.0.0")


async def metrics(rig: Rig, media: str) -> str:
    async with rig.app.session.get(rig.app.url + "/metrics", headers={"Accept": media}) as response:
        return await response.text()
