"""Traces: what the rest of the code knows of them. Off, they cost a look at one attribute.

A span's parent comes with the `Call`, as deadlines do, and not from a context variable: work that several requests
share, generators that are read by others and tasks that outlive their caller would all find the wrong one there.

    with tracing.span(call, "rerank") as call:   # the call of what happens within
        await client.rerank(..., call)

`hartonomous.otlp` records spans and sends them, with OpenTelemetry's SDK, which only that file imports.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from hartonomous.core.call import Call
from hartonomous.core.trace import Span, TraceContext, Value
from hartonomous.errors import ConfigError, HartonomousError

if TYPE_CHECKING:
    from hartonomous.config import Tracing
    from hartonomous.metrics import Metrics

__all__ = [
    "LEFT",
    "Tracer",
    "attributed",
    "broken_off",
    "check",
    "ended",
    "is_on",
    "joint",
    "link",
    "open_tracer",
    "span",
]

LEFT: Mapping[str, Value] = {"error.type": "cancelled"}
"""What is said of work that nobody waited for any more."""
_NOTHING: Mapping[str, Value] = {}


class Tracer(Protocol):
    """Records the spans of an application."""

    def begin(
        self, name: str, parent: TraceContext | None, attributes: Mapping[str, Value]
    ) -> tuple[TraceContext, Span | None]:
        """Begin a request under the caller's trace or in one of its own; no span where it is not recorded."""

    async def close(self) -> None:
        """Send what is left; it takes a few seconds at most."""


def check(config: Tracing) -> None:
    """See that spans can be recorded, if they are to be.

    Raises:
        ConfigError: what records them is not installed.
    """
    if config.endpoint is None:
        return
    try:
        import hartonomous.otlp  # noqa: F401 - an extra, and dear: only who wants it imports it
    except ImportError as error:
        message = "tracing.endpoint: spans need the extra: pip install 'hartonomous[otlp]', make install OTLP=1"
        raise ConfigError(message, param="tracing.endpoint") from error


def is_on(config: Tracing) -> bool:
    """Whether spans are recorded: they have a collector, and the environment does not turn OpenTelemetry's SDK off."""
    return config.endpoint is not None and os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true"


def open_tracer(config: Tracing, metrics: Metrics) -> Tracer:
    """Return what records spans; `check` and `is_on` have been asked."""
    from hartonomous.otlp import OtlpTracer

    return OtlpTracer(config, metrics)


def span(call: Call, name: str, attributes: Mapping[str, Value] = _NOTHING) -> AbstractContextManager[Call]:
    """Record a block as a piece of the request, where that is recorded; within, use the call that is handed out."""
    return call if call.span is None else _Recorded(call, call.span, name, attributes)


def attributed(call: Call, attributes: Mapping[str, Value]) -> None:
    """Add to what is known of the block under way: never a text of a prompt or of a document."""
    if call.span is not None:
        call.span.set(attributes)


def link(call: Call, other: Span | None) -> None:
    """Say that the block under way gets what another request's is making."""
    if call.span is not None and other is not None:
        call.span.link(other.context)


def joint(calls: Sequence[Call]) -> Call:
    """Return the first of calls that are answered together, as the one in whose name that is recorded.

    Where the first is not recorded and another is, the ids are that one's; the recorded others are linked.
    """
    recorded = [call for call in calls if call.span is not None]
    if not recorded:
        return calls[0]
    leader, spans = recorded[0], dict.fromkeys(call.span for call in recorded if call.span is not None)
    first, *others = spans
    work = first.linked([other.context for other in others]) if others else first
    return replace(calls[0], request_id=leader.request_id, headers=leader.headers, trace=leader.trace, span=work)


def broken_off(call: Call, error: HartonomousError) -> None:
    """Say that an answer which had begun well has ended badly."""
    if call.span is not None:
        call.span.fail(error.error_code)


def ended(span: Span, error: BaseException | None) -> None:
    """End a span with what ended its work. Who has left has not failed."""
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        span.set(LEFT)
    elif error is not None:
        span.fail(error.error_code if isinstance(error, HartonomousError) else type(error).__qualname__)
    span.end()


class _Recorded:
    """A block that is."""

    __slots__ = ("_attributes", "_call", "_name", "_parent", "_span")

    def __init__(self, call: Call, parent: Span, name: str, attributes: Mapping[str, Value]) -> None:
        self._call = call
        self._parent = parent
        self._name = name
        self._attributes = attributes

    def __enter__(self) -> Call:
        self._span = self._parent.child(self._name, "internal", self._attributes)
        return replace(self._call, span=self._span)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended(self._span, error)
