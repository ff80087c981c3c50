"""Spans by OpenTelemetry's SDK, sent to a collector by OTLP over HTTP: the one file that imports it.

Spans that have ended wait in a bounded line for a thread of the SDK, which sends them in batches. Whatever the
collector does costs spans and nothing else: they are counted, and the log has one line when it begins and one when it
is over.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Thread
from urllib.parse import urlsplit

import requests
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan

from hartonomous import __version__
from hartonomous.config import Tracing
from hartonomous.core.trace import Kind, TraceContext, Value
from hartonomous.log import logger
from hartonomous.metrics import Metrics

_PATH = "/v1/traces"
_BATCH = 512
# What a stop waits for the last spans.
_LAST_S = 3.0
_EXPORTER_LOG = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
_KINDS: Mapping[Kind, SpanKind] = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT}
_NO_CONTEXT = Context()  # never the SDK's own idea of what is current


class OtlpSpan:
    """A span under way. `links` are given to its children."""

    __slots__ = ("_links", "_sdk", "_tracer", "context")

    def __init__(self, tracer: Tracer, sdk: SdkSpan, state: str, links: Sequence[Link] = ()) -> None:
        self._tracer = tracer
        self._sdk = sdk
        self._links = links
        self.context = _ours(sdk.get_span_context(), state)

    def child(self, name: str, kind: Kind, attributes: Mapping[str, Value]) -> OtlpSpan:
        """Begin a piece of it."""
        within = set_span_in_context(self._sdk, _NO_CONTEXT)
        sdk = self._tracer.start_span(name, within, _KINDS[kind], attributes, self._links)
        return OtlpSpan(self._tracer, sdk, self.context.state)

    def link(self, other: TraceContext) -> None:
        """Say that it has to do with another one."""
        self._sdk.add_link(_theirs(other))

    def linked(self, others: Sequence[TraceContext]) -> OtlpSpan:
        """Return this span for work that is done for others as well: its children have links to them."""
        return OtlpSpan(self._tracer, self._sdk, self.context.state, [Link(_theirs(other)) for other in others])

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Add to what is known of it."""
        self._sdk.set_attributes(attributes)

    def fail(self, error_type: str) -> None:
        """Say that it has failed, and how."""
        self._sdk.set_attribute("error.type", error_type)
        self._sdk.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        """End it, once."""
        self._sdk.end()


class OtlpTracer:
    """Records the spans of an application and sends them. Made inside a running loop; ended by `close`."""

    def __init__(self, config: Tracing, metrics: Metrics) -> None:
        self._line = _Line(config, metrics)
        sampler = ParentBased(TraceIdRatioBased(config.sample_ratio))
        self._provider = TracerProvider(sampler, _resource(config), shutdown_on_exit=False)
        self._provider.add_span_processor(self._line)
        self._tracer = self._provider.get_tracer("hartonomous", __version__)

    def begin(
        self, name: str, parent: TraceContext | None, attributes: Mapping[str, Value]
    ) -> tuple[TraceContext, OtlpSpan | None]:
        """Begin a request under the caller's trace or in one of its own; no span where it is not recorded."""
        within = _NO_CONTEXT if parent is None else set_span_in_context(NonRecordingSpan(_theirs(parent)), _NO_CONTEXT)
        sdk = self._tracer.start_span(name, within, SpanKind.SERVER, attributes)
        state = "" if parent is None else parent.state
        span = OtlpSpan(self._tracer, sdk, state)
        return span.context, span if sdk.is_recording() else None

    async def close(self) -> None:
        """Send what is left; it takes a few seconds at most."""
        done, loop = asyncio.Event(), asyncio.get_running_loop()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop has not waited
                loop.call_soon_threadsafe(done.set)

        # A daemon: at the end of the process nobody waits for a collector that hangs.
        Thread(target=shut_down, name="spans", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_S):
                await done.wait()
        self._line.give_up()


class _Line(SpanProcessor):
    """The bounded line in front of the SDK's own processor, which would not say what it has dropped.

    `_taken` is counted by who ends spans, `_left` by the thread that sends them.
    """

    def __init__(self, config: Tracing, metrics: Metrics) -> None:
        self._most = config.max_queue
        self._exporter = _Exporter(config, metrics)
        self._dropped = metrics.spans.labels("dropped")
        self._taken = 0
        self._batches = BatchSpanProcessor(
            self._exporter,
            max_queue_size=config.max_queue,
            schedule_delay_millis=config.interval_s * 1000,
            max_export_batch_size=min(_BATCH, config.max_queue),
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended, if there is room for it."""
        if self._exporter.is_over or self._taken - self._exporter.left >= self._most:
            self._dropped.inc()
            return
        self._taken += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        """Send what waits, and end the thread."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]  # the SDK has not annotated it

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what waits."""
        return self._batches.force_flush(timeout_millis)

    def give_up(self) -> None:
        """Count what is left as lost; it is not waited for any more."""
        self._dropped.inc(self._taken - self._exporter.left)
        self._exporter.give_up()


class _Exporter(SpanExporter):
    """Sends batches, in the SDK's thread, and counts what came of them."""

    def __init__(self, config: Tracing, metrics: Metrics) -> None:
        self.left = 0
        """The spans that wait no more."""
        self.is_over = False
        self._exported, self._dropped = metrics.spans.labels("exported"), metrics.spans.labels("dropped")
        self._otlp = _otlp_exporter(config)
        self._reaches = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        result = self._otlp.export(spans)
        if self.is_over:
            return result
        reaches = result is SpanExportResult.SUCCESS
        (self._exported if reaches else self._dropped).inc(len(spans))
        self.left += len(spans)
        if not reaches and self._reaches:
            logger.bind(cause=_REASON.latest).warning("spans do not reach the collector: they are dropped")
        elif reaches and not self._reaches:
            logger.info("spans reach the collector again")
        self._reaches = reaches
        return result

    def shutdown(self) -> None:
        """The SDK has no more to send."""
        self.give_up()

    def give_up(self) -> None:
        """Send nothing any more, and wait for no other attempt."""
        if not self.is_over:
            self.is_over = True
            self._otlp.shutdown()  # type: ignore[no-untyped-call]  # the SDK has not annotated it


class _Reason(logging.Filter):
    """Keeps the last word of OpenTelemetry's exporter, which has one for every attempt, and lets none into the log."""

    latest: str | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        self.latest = record.getMessage()
        return False


_REASON = _Reason()
_EXPORTER_LOG.addFilter(_REASON)


def _otlp_exporter(config: Tracing) -> OTLPSpanExporter:
    endpoint, tls = config.endpoint or "", config.tls
    session = requests.Session()
    session.trust_env = False  # no proxy and no password of the environment's
    return OTLPSpanExporter(
        endpoint=endpoint if urlsplit(endpoint).path else endpoint + _PATH,
        certificate_file=ssl.get_default_verify_paths().cafile if tls.ca is None else str(tls.ca),
        client_certificate_file=None if tls.certificate is None else str(tls.certificate),
        client_key_file=None if tls.key is None else str(tls.key),
        headers={name: value.get_secret_value() for name, value in config.headers.items()},
        timeout=config.timeout_s,
        compression=Compression.Gzip,
        session=session,
    )


def _resource(config: Tracing) -> Resource:
    """Return what this process says of itself."""
    return Resource.create(
        {
            "service.name": config.service_name,
            "service.version": __version__,
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}",
            "process.pid": os.getpid(),
            "host.name": socket.gethostname(),
        }
    )


def _ours(context: SpanContext, state: str) -> TraceContext:
    return TraceContext(f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled, state)


def _theirs(context: TraceContext) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.is_sampled else TraceFlags.DEFAULT)
    state = TraceState.from_header([context.state]) if context.state else TraceState()
    return SpanContext(
        int(context.trace_id, 16), int(context.span_id, 16), is_remote=True, trace_flags=flags, trace_state=state
    )
