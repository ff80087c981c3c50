"""What a backend call inherits from the request it serves: an id, a deadline, a priority, headers to pass on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import IntEnum

from msgspec import Struct, field
from msgspec.structs import replace

from hartonomous.core.access import NOTHING, Grant
from hartonomous.core.cachecontrol import ANYTHING, CacheControl
from hartonomous.core.deadline import Deadline
from hartonomous.core.trace import Span, TraceContext


class Priority(IntEnum):
    """Whose turn it is first where calls wait for a backend: somebody waits for a query, nobody watches an ingest."""

    QUERY = 0
    BATCH = 1
    INGEST = 2


def lines(headers: Mapping[str, str]) -> bytes:
    """Return headers as they are sent. Raises ValueError where one would begin another line."""
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if not text.count("\r") == text.count("\n") == len(headers) or "\0" in text:
        raise ValueError("a header cannot hold a line break")
    return text.encode()


class Call(Struct, eq=False):  # made several times for each request: a dataclass is made in Python
    """The context of one request, given to pipelines and clients.

    `headers` go to every backend: `X-Request-ID`, and `traceparent` where there is a trace. `grant` is what the
    caller may see, nothing unless it is said: answers are shared only between callers with the same one. `cache` says
    which stored answers the caller takes. `wanted` is set where the work goes on for others when the caller who began
    it has no time left: by then that one wants it. `trace` is the one that the request belongs to, `span` the piece of
    it that is under way where pieces are recorded (`hartonomous.tracing`). It does not change: what others need is a
    copy.
    """

    request_id: str
    deadline: Deadline
    headers: Mapping[str, str] = field(default_factory=dict)
    grant: Grant = NOTHING
    cache: CacheControl = ANYTHING
    wanted: Deadline | None = None
    priority: Priority = Priority.QUERY
    trace: TraceContext | None = None
    span: Span | None = None
    _sent: tuple[Mapping[str, str], bytes] | None = None

    def __enter__(self) -> Call:
        """Begin a block of work for it of which nothing is recorded."""
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def sent(self) -> bytes:
        """The headers as they are sent, written out once for a request. Raises ValueError as `lines`."""
        if self._sent is None or self._sent[0] is not self.headers:
            self._sent = self.headers, lines(self.headers)
        return self._sent[1]

    @property
    def exemplar(self) -> dict[str, str] | None:
        """What a histogram keeps beside a measurement of this request; None where its trace is not recorded."""
        return None if self.trace is None else self.trace.exemplar

    @property
    def facts(self) -> dict[str, str]:
        """What records of the log say of the work for this request."""
        return {"request_id": self.request_id} | ({} if self.trace is None else self.trace.facts)

    def for_all(self, limit_s: float) -> Call:
        """Return the call of work that others wait for as well: it has so many seconds."""
        return self.within(Deadline(limit_s), self.deadline)

    def share(self, part: float, most_s: float = math.inf) -> Call:
        """Return the call of a stage that can be left out: it has a part (0..1) of what time is left, or `most_s`."""
        return self.within(Deadline(min(most_s, (self.wanted or self.deadline).remaining * part)), self.wanted)

    def of_priority(self, priority: Priority) -> Call:
        """Return the same call with another priority."""
        return replace(self, priority=priority)

    def within(self, deadline: Deadline, wanted: Deadline | None) -> Call:
        """Return the call of work with another deadline, which is `wanted` until then if that is another one."""
        _ = self.sent  # once for all
        return Call(
            self.request_id,
            deadline,
            self.headers,
            self.grant,
            self.cache,
            wanted,
            self.priority,
            self.trace,
            self.span,
            self._sent,
        )
