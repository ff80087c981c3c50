"""The second floor: one log record and one set of metrics for each request.

The route's template stands in both, never the path that a caller chose. The record is written when the answer is
complete, also when the caller left (status 499, as nginx counts it).
"""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from hartonomous import log
from hartonomous.core.access import NOBODY
from hartonomous.core.kept import KeptRecord
from hartonomous.keys import CALLER, STARTED, exemplar_of
from hartonomous.metrics import Metrics
from hartonomous.middleware.limited import address_of
from hartonomous.middleware.request_id import facts_of
from hartonomous.tally import Counter, Histogram

CLIENT_LEFT = 499
"""The status of a request whose client did not wait for the answer."""

_MESSAGE = "request"
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class _Row:
    """What is counted and said of all requests of a route that have one method and one status."""

    __slots__ = ("failures", "latency", "requests", "said", "status_class")

    def __init__(self, metrics: Metrics, route: str, method: str, status: int) -> None:
        self.latency: Histogram = metrics.route_latency(route)
        self.requests: Counter = metrics.route_requests(route, method, str(status))
        self.failures: Counter | None = metrics.failure(str(status)) if status >= 500 else None
        self.status_class = f"{status // 100}xx"
        self.said = log.members({"method": method, "route": route, "status": status})


class Records:
    """Counts and logs requests.

    Those that end in one round of the loop are written together, when their answers are under way: the second to do
    the same takes half as long as the first, whose code and data the processor has to fetch. That is in the round after
    the next one: what has come meanwhile goes on first, and has its backend at work while this is done.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._rows: dict[tuple[object, str, int], _Row] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: list[tuple[web.Request, int, float, float, str]] = []

    def begin(self, request: web.Request) -> None:
        """Count the request as under way."""
        request[STARTED] = time.perf_counter()
        self._metrics.in_flight.inc()

    def end(self, request: web.Request, status: int) -> None:
        """Count and log the request, which has ended."""
        if not self._ended:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._loop.call_soon, self.write)
        took = time.perf_counter() - request[STARTED]
        self._ended.append((request, status, took, time.time(), address_of(request)))

    def write(self) -> None:
        """Count and log what has ended until now."""
        ended, self._ended = self._ended, []
        log.tell([self._counted(*one) for one in ended])

    def _counted(self, request: web.Request, status: int, took: float, now: float, address: str) -> KeptRecord:
        row = self._row(request, status)
        self._metrics.in_flight.dec()
        key_id, facts = request.get(CALLER, NOBODY).key_id, facts_of(request)
        row.latency.observe(took, exemplar_of(request) if len(facts) > 1 else None)
        row.requests.inc()
        if row.failures is not None:
            row.failures.inc()
        if (tenant := self._metrics.tenants.of_key(key_id)) is not None:
            tenant.requests[row.status_class] += 1
        request_id = facts["request_id"]
        about = f',"request_id":"{request_id}"' if len(facts) == 1 else log.members(facts)
        # Ids, addresses and the ids of keys have no character that JSON escapes: to encode them takes 3 µs for 1.
        key = "null" if key_id is None else f'"{key_id}"'
        rest = f',"duration_ms":{int(took * 100_000 + 0.5) / 100},"remote":"{address}","key":{key}'
        return log.record_of(__name__, _MESSAGE, now, request_id, f"{about}{row.said}{rest}")

    def _row(self, request: web.Request, status: int) -> _Row:
        key = (request.match_info.route.resource, request.method, status)
        row = self._rows.get(key)
        if row is None:
            row = _Row(self._metrics, template_of(request), method_of(request), status)
            if request.method in _METHODS:  # the others are callers' inventions, and as many as they like
                self._rows[key] = row
        return row


def method_of(request: web.Request) -> str:
    """Return the method of a request, "other" for one that HTTP does not know."""
    return request.method if request.method in _METHODS else "other"


def template_of(request: web.Request) -> str:
    """Return the template of a request's route."""
    resource = request.match_info.route.resource
    return "unmatched" if resource is None else resource.canonical
