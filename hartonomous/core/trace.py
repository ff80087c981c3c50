"""The trace that a request belongs to, as its headers say it (W3C Trace Context, Level 1). Pure.

`traceparent` is read strictly: a version beyond 00 may say more behind what is known of it, which is not looked at; one
that is malformed, of version ff, or whose ids are zero is none at all, and then `tracestate` is none either. A
malformed `tracestate` is dropped by itself; one that is too long loses its long members first, then its last ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

PARENT = "traceparent"
STATE = "tracestate"

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KEY = r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_MEMBER = re.compile(rf"({_KEY})=[ -+\--<>-~]{{0,255}}[!-+\--<>-~]")
_MOST_MEMBERS = 32
# As many characters are passed on, of members up to a length; those beyond it go first.
_MOST_CHARACTERS = 512
_LONG_MEMBER = 128

Kind = Literal["internal", "client"]
Value = str | bool | int | float | Sequence[str]


@dataclass(slots=True, frozen=True)
class TraceContext:
    """A place in a trace: its id (32 hex digits) and a span's (16), whether it is recorded, what `tracestate` says.

    `given` is the caller's own header, which is passed on as it is where nothing of ours comes in between.
    """

    trace_id: str
    span_id: str
    is_sampled: bool
    state: str = ""
    given: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What a callee of this place is told."""
        parent = self.given or f"00-{self.trace_id}-{self.span_id}-{self.is_sampled:02x}"
        return {PARENT: parent, STATE: self.state} if self.state else {PARENT: parent}

    @property
    def facts(self) -> dict[str, str]:
        """What records of the log say of it."""
        return {"trace_id": self.trace_id, "span_id": self.span_id}

    @property
    def exemplar(self) -> dict[str, str] | None:
        """What a histogram keeps beside a measurement; None where no such trace is recorded."""
        return {"trace_id": self.trace_id} if self.is_sampled else None


class Span(Protocol):
    """A piece of work that is recorded (`hartonomous.tracing`)."""

    @property
    def context(self) -> TraceContext:
        """Its place."""

    def child(self, name: str, kind: Kind, attributes: Mapping[str, Value]) -> Span:
        """Begin a piece of it."""

    def link(self, other: TraceContext) -> None:
        """Say that it has to do with another one."""

    def linked(self, others: Sequence[TraceContext]) -> Span:
        """Return this span for work that is done for others as well: its children have links to them."""

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Add to what is known of it."""

    def fail(self, error_type: str) -> None:
        """Say that it has failed, and how."""

    def end(self) -> None:
        """End it, once."""


def read(parents: Sequence[str], states: Sequence[str] = ()) -> TraceContext | None:
    """Return what a request's headers of these names say; None where they say nothing that can be followed."""
    found = _PARENT.fullmatch(parents[0]) if len(parents) == 1 else None
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & 1), _state(states), parents[0])


def _state(values: Sequence[str]) -> str:
    """Return the members of a `tracestate` as one header; "" where it is malformed."""
    members = [member for member in (part.strip(" \t") for value in values for part in value.split(",")) if member]
    keys = {found[1] for member in members if (found := _MEMBER.fullmatch(member))}
    if len(members) > _MOST_MEMBERS or len(keys) != len(members):
        return ""
    if _length(members) > _MOST_CHARACTERS:
        members = [member for member in members if len(member) <= _LONG_MEMBER]
    while _length(members) > _MOST_CHARACTERS:
        members.pop()
    return ",".join(members)


def _length(members: Sequence[str]) -> int:
    return sum(map(len, members)) + len(members) - 1
