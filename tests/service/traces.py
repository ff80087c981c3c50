"""What tests of traces share: a rig that sends its spans to a collector, a caller's trace, and how a tree looks."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from hartonomous import log
from tests.service.application import eventually
from tests.service.collector import Collector, Found, collecting
from tests.service.fault_backend import FaultBackend
from tests.service.rag import Rig, RigMaker, ask, ingest

QUERY = "/rag/query"
LIME = {"query": "What does a lime weigh?"}
TEXT = "A lime weighs 67 grams."
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def sampled(flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-{flags}", "tracestate": "a=1,b@c=2", "X-Request-ID": "mine"}


def settings(collector: Collector, **more: Any) -> dict[str, Any]:
    """A section `tracing` that sends at once."""
    return {"endpoint": collector.url, "interval_s": 0.05, **more}


def tree(spans: list[Found]) -> list[str]:
    """Return the names of a trace's spans in their order, deeper ones with a dot for each span above them."""
    by_id = {span.span_id: span for span in spans}

    def depth(span: Found) -> int:
        return 0 if span.parent_id not in by_id else 1 + depth(by_id[span.parent_id])

    return ["." * depth(span) + span.name for span in spans]


def named(spans: list[Found], name: str) -> Found:
    (span,) = (span for span in spans if span.name == name)
    return span


def parents(backend: FaultBackend, path: str) -> list[str]:
    """Return the ids that the calls of a path had for their parents."""
    return [call.headers["traceparent"].split("-")[2] for call in backend.calls(path)]


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as made:
        yield made


@pytest.fixture
async def traced(rigs: RigMaker, collector: Collector) -> AsyncIterator[Rig]:
    """A rig with a text, whose clients know their models already."""
    async with rigs.make(tracing=settings(collector)) as rig:
        await ingest(rig.app, TEXT, "Dogs bark.")
        assert (await ask(rig.app, QUERY, {"query": "Do dogs bark?"}, headers={"traceparent": "none"}))[0] == 200
        await eventually(lambda: any(span.name == "POST /rag/query" for span in collector.spans))
        collector.spans.clear()
        for backend in (rig.embedding, rig.reranking, rig.generative, rig.qdrant):
            backend.requests.clear()
        yield rig


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """The log of the application."""
    text = io.StringIO()
    log.configure("DEBUG", text)
    yield text
    log.logger.remove()
