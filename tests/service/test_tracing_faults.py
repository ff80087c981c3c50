"""What goes wrong, as spans show it, and what a collector that fails costs: spans."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import ssl
import time
from pathlib import Path

import aiohttp
import pytest

from tests.service import fault_backend as fault
from tests.service.application import WAIT_S, ConfigMaker, eventually, running
from tests.service.certificates import Files
from tests.service.collector import Collector, collecting
from tests.service.fault_backend import FaultBackend, json_reply
from tests.service.rag import CHAT, EMBEDDINGS, Rig, RigMaker, ask, ask_streamed, ingest, sample
from tests.service.serving import backends, serving
from tests.service.test_hedged_calls import RERANK, rank, warm
from tests.service.test_reload import Reloads
from tests.service.traces import LIME, QUERY, TEXT, TRACE_ID, named, parents, sampled, settings, tree

SPANS = "hartonomous_trace_spans_total"


def told(logged: io.StringIO, part: str) -> int:
    return sum(part in json.loads(line)["message"] for line in logged.getvalue().splitlines())


async def test_each_attempt_is_a_span_of_its_own(traced: Rig, collector: Collector) -> None:
    traced.embedding.on(EMBEDDINGS, fault.reset(), fault.DEFAULT)
    assert (await ask(traced.app, "/rag/search", LIME, headers=sampled()))[0] == 200
    spans = await collector.whole("POST /rag/search")
    tries = [span for span in spans if span.name == "embeddings"]
    assert {span.parent_id for span in tries} == {named(spans, "embed").span_id}
    assert [span.span_id for span in tries] == parents(traced.embedding, EMBEDDINGS)
    assert [span.failed for span in tries] == [True, False]
    assert [span.attributes.get("http.request.resend_count") for span in tries] == [None, 1]
    assert [span.attributes.get("error.type") for span in tries] == ["broken", None]
    assert not spans[0].failed


async def test_of_a_call_that_is_sent_twice_both_are_spans(
    make_config: ConfigMaker, faulty: FaultBackend, collector: Collector
) -> None:
    async with FaultBackend() as fast:
        urls = ({"url": faulty.url, "weight": 1_000}, fast.url)
        config = make_config(
            backends={"reranking": {"urls": urls}}, health={"interval_s": 1000.0}, tracing=settings(collector)
        )
        async with running(config) as app:
            await warm(app, faulty)
            faulty.on(RERANK, fault.hang())
            await eventually(lambda: len(collector.spans) >= 50)
            collector.spans.clear()
            assert await rank(app) == 200
            spans = await collector.whole("POST /v1/rerank")
    first, second = (span for span in spans if span.kind == "client")
    assert first.parent_id == second.parent_id == spans[0].span_id
    assert [first.attributes["hartonomous.hedged"], second.attributes["hartonomous.hedged"]] == [False, True]
    assert [first.failed, second.failed] == [False, False]
    assert first.attributes["error.type"] == first.attributes["hartonomous.outcome"] == "cancelled"
    assert fast.calls(RERANK)[0].headers["traceparent"].split("-")[2] == second.span_id
    assert str(second.attributes["server.port"]) == fast.url.rpartition(":")[2]


async def test_who_leaves_ends_the_spans_of_the_request(traced: Rig, collector: Collector) -> None:
    traced.generative.on(CHAT, fault.hang())
    asking = asyncio.create_task(ask(traced.app, QUERY, LIME, headers=sampled()))
    await eventually(lambda: traced.generative.calls(CHAT))
    asking.cancel()
    await asyncio.wait({asking})
    spans = await collector.whole("POST /rag/query")
    await eventually(lambda: any(span.name == "chat" for span in collector.of(TRACE_ID)))
    for span in (spans[0], named(spans, "generate"), named(spans, "chat")):
        assert (span.failed, span.attributes["error.type"]) == (False, "cancelled")


async def test_a_failure_is_an_error_of_every_span_that_it_ends(traced: Rig, collector: Collector) -> None:
    traced.generative.on(CHAT, json_reply({"error": {"message": "broken"}}, 500))
    assert (await ask(traced.app, QUERY, LIME, headers=sampled()))[0] == 502
    spans = await collector.whole("POST /rag/query")
    assert [named(spans, name).failed for name in ("POST /rag/query", "generate", "chat", "embed")] == [
        True,
        True,
        True,
        False,
    ]
    assert spans[0].attributes["error.type"] == "502"


async def test_a_stream_that_breaks_is_an_error_of_its_request(traced: Rig, collector: Collector) -> None:
    traced.generative.on(CHAT, fault.stream(fault.sse(["One ", "two "])[:-1], end="reset"))
    status, events = await ask_streamed(traced.app, LIME, headers=sampled())
    assert (status, events[-1][0]) == (200, "error")
    spans = await collector.whole("POST /rag/query")
    assert [named(spans, name).failed for name in ("POST /rag/query", "generate", "chat")] == [True, True, True]


async def test_equal_questions_at_once_have_one_generation_and_a_link_to_it(
    rigs: RigMaker, collector: Collector
) -> None:
    async with rigs.make(tracing=settings(collector), rag={"cache": {"answers": {"enabled": True}}}) as rig:
        await ingest(rig.app, TEXT)
        release = asyncio.Event()
        rig.generative.on(CHAT, fault.after(fault.DEFAULT, release))
        first = asyncio.create_task(ask(rig.app, QUERY, LIME, headers=sampled()))
        await eventually(lambda: rig.generative.calls(CHAT))
        second = asyncio.create_task(ask(rig.app, QUERY, LIME))
        await eventually(lambda: sample(rig.app, "hartonomous_cache_requests_total", cache="answers", outcome="joined"))
        release.set()
        assert [status for status, _ in (await first, await second)] == [200, 200]
        await eventually(lambda: sum(span.name == "POST /rag/query" for span in collector.spans) == 2)
    made = collector.of(TRACE_ID)
    (joined,) = (span for span in collector.spans if span.name == "POST /rag/query" and span.trace_id != TRACE_ID)
    assert joined.links == [made[0].span_id]
    assert ".generate" in tree(made)
    assert not [span for span in collector.of(joined.trace_id) if span.name == "generate"]


async def test_a_collector_that_is_not_there_costs_spans_and_one_line(
    logged: io.StringIO, rigs: RigMaker, unused_tcp_port: int
) -> None:
    dead = {"endpoint": f"http://127.0.0.1:{unused_tcp_port}", "interval_s": 0.05, "timeout_s": 0.2}
    async with rigs.make(tracing=dead) as rig:
        await ingest(rig.app, TEXT)
        await eventually(lambda: sample(rig.app, SPANS, outcome="dropped"))
        lost = sample(rig.app, SPANS, outcome="dropped")
        assert (await ask(rig.app, QUERY, LIME))[0] == 200
        await eventually(lambda: sample(rig.app, SPANS, outcome="dropped") > lost)
        assert sample(rig.app, SPANS, outcome="exported") == 0
    assert told(logged, "spans do not reach the collector") == 1
    records = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert not [record for record in records if record.get("logger", "").startswith("opentelemetry")]


async def test_a_collector_that_comes_back_gets_the_next_spans(
    logged: io.StringIO, rigs: RigMaker, collector: Collector
) -> None:
    collector.status = 400
    async with rigs.make(tracing=settings(collector)) as rig:
        await ingest(rig.app, TEXT)
        await eventually(lambda: sample(rig.app, SPANS, outcome="dropped"))
        collector.status = 200
        assert (await ask(rig.app, "/rag/search", LIME))[0] == 200
        await collector.whole("POST /rag/search")
        await eventually(lambda: told(logged, "spans reach the collector again"))
        await eventually(lambda: sample(rig.app, SPANS, outcome="exported") == len(collector.spans), "equal counts")


async def test_a_collector_that_hangs_holds_up_no_request_and_no_stop(rigs: RigMaker, collector: Collector) -> None:
    collector.may_answer.clear()
    async with contextlib.AsyncExitStack() as stack:
        rig = await stack.enter_async_context(rigs.make(tracing=settings(collector, max_queue=16, timeout_s=60.0)))
        await ingest(rig.app, TEXT)
        await eventually(lambda: collector.headers, "the collector to be asked")
        for _ in range(5):
            assert (await ask(rig.app, QUERY, LIME))[0] == 200
        await eventually(lambda: sample(rig.app, SPANS, outcome="dropped"))
        assert sample(rig.app, SPANS, outcome="exported") == 0
        async with asyncio.timeout(WAIT_S):  # of the 60 that it may take to export
            await stack.aclose()
    collector.may_answer.set()


async def test_a_server_stops_in_seconds_beside_a_collector_that_hangs(
    collector: Collector, faulty: FaultBackend, tmp_path: Path
) -> None:
    collector.may_answer.clear()
    sections = {"tracing": settings(collector, timeout_s=60.0), "backends": backends(faulty.url)}
    async with serving(tmp_path, **sections) as served, aiohttp.ClientSession(served.url) as session:
        body = {"messages": [{"role": "user", "content": "Hello"}]}
        async with session.post(CHAT, json=body) as response:
            assert response.status == 200
        await eventually(lambda: collector.headers, "the collector to be asked")
        async with session.post(CHAT, json=body) as response:
            assert response.status == 200
        began = time.monotonic()
        served.stop()
        assert await served.exit_code() == 0  # waits for half of the 60 s that it may take to export
    assert time.monotonic() - began > 2.5
    assert not [line for line in served.lines if line["level"] == "ERROR"]


async def test_a_collector_over_tls_is_known_by_its_authority(rigs: RigMaker, tmp_path: Path) -> None:
    files = Files(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    async with collecting(context) as collector:
        known = settings(collector, tls={"ca": str(files.client_ca)})
        async with rigs.make(tracing=known) as rig:
            await ingest(rig.app, TEXT)
            await collector.whole("POST /rag/ingest")
        async with rigs.make(tracing=settings(collector)) as rig:
            assert (await ask(rig.app, "/rag/search", LIME))[0] == 200
            await eventually(lambda: sample(rig.app, SPANS, outcome="dropped"))
            assert sample(rig.app, SPANS, outcome="exported") == 0


async def test_each_start_is_an_instance_of_its_own(rigs: RigMaker, collector: Collector) -> None:
    for _ in range(2):
        async with rigs.make(tracing=settings(collector, service_name="of-the-tests")) as rig:
            await ingest(rig.app, TEXT)
    resources = [span.resource for span in collector.spans]
    assert len({resource["service.instance.id"] for resource in resources}) == 2
    assert {resource["service.name"] for resource in resources} == {"of-the-tests"}


async def test_what_has_ended_is_sent_before_the_server_stops(rigs: RigMaker, collector: Collector) -> None:
    async with rigs.make(tracing=settings(collector, interval_s=3600.0)) as rig:
        await ingest(rig.app, TEXT)
        assert (await ask(rig.app, QUERY, LIME, headers=sampled()))[0] == 200
        assert collector.spans == []
    assert "POST /rag/query" in tree(collector.of(TRACE_ID))


async def test_a_reload_turns_tracing_on_and_elsewhere_and_off(
    rigs: RigMaker, collector: Collector, tmp_path: Path
) -> None:
    file = tmp_path / "hartonomous.yaml"
    async with rigs.make(file) as rig, collecting() as other:
        reloads = Reloads(rig, file)
        await ingest(rig.app, TEXT)
        (tmp_path / "key").write_text("collector-key-of-the-tests", encoding="utf-8")
        key = {"x-api-key": f"file:{tmp_path / 'key'}"}
        changed = await reloads.to(tracing=settings(collector, headers=key))
        assert set(changed) == {"tracing.endpoint", "tracing.headers", "tracing.interval_s"}
        assert (await ask(rig.app, "/rag/search", LIME))[0] == 200
        await collector.whole("POST /rag/search")
        assert {headers["x-api-key"] for headers in collector.headers} == {"collector-key-of-the-tests"}
        assert await reloads.to(tracing={"endpoint": other.url}) == ["tracing.endpoint"]
        assert (await ask(rig.app, "/rag/search", LIME, headers=sampled()))[0] == 200
        await other.whole("POST /rag/search")
        count = len(collector.spans)
        reloads.written["tracing"].pop("endpoint")
        await reloads.to()
        assert rig.app.runtime.tracer is None
        assert (await ask(rig.app, "/rag/search", LIME))[0] == 200
        assert len(collector.spans) == count


@pytest.fixture
def unused_tcp_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
