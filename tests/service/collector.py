"""A collector of spans of the tests' own: OTLP over HTTP, decoded by OpenTelemetry's own messages."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.service.application import eventually

ERROR = trace_pb2.Status.STATUS_CODE_ERROR


@dataclass(slots=True, frozen=True)
class Found:
    """A span as it was sent."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    failed: bool
    attributes: dict[str, Any]
    links: list[str]
    state: str
    started: int
    ended: int
    resource: dict[str, Any]


@dataclass(slots=True)
class Collector:
    """What came; `status` is what it answers, after `hangs` is set."""

    url: str = ""
    spans: list[Found] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    status: int = 200
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    def of(self, trace_id: str) -> list[Found]:
        """Return the spans of a trace, in the order they began."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.started)

    async def whole(self, name: str) -> list[Found]:
        """Wait for the span of a request by its name; return the spans of its trace."""

        def found() -> list[Found]:
            return [span for span in self.spans if (span.name, span.kind) == (name, "server")]

        await eventually(found, f"a span {name}")
        (root,) = found()
        return self.of(root.trace_id)

    async def _export(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.headers.append(dict(request.headers))
        await self.may_answer.wait()
        if self.status == 200:
            self.spans += _spans(ExportTraceServiceRequest.FromString(body))
        return web.Response(status=self.status)


def _spans(message: ExportTraceServiceRequest) -> Iterable[Found]:
    for of_resource in message.resource_spans:
        resource = _values(of_resource.resource.attributes)
        for scope in of_resource.scope_spans:
            for span in scope.spans:
                yield Found(
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    failed=span.status.code == ERROR,
                    attributes=_values(span.attributes),
                    links=[link.span_id.hex() for link in span.links],
                    state=span.trace_state,
                    started=span.start_time_unix_nano,
                    ended=span.end_time_unix_nano,
                    resource=resource,
                )


def _values(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return None if kind is None else getattr(value, kind)


@asynccontextmanager
async def collecting(tls: ssl.SSLContext | None = None) -> AsyncIterator[Collector]:
    """A collector that takes everything, over TLS with a context."""
    collector = Collector()
    collector.may_answer.set()
    app = web.Application()
    app.router.add_post("/v1/traces", collector._export)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    collector.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()
