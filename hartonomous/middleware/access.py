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

CLIENT_LEFT = 499
"""The status of a request whose client did not wait for the answer."""

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class Records:
    """Counts and logs requests.

    Those that end in one round of the loop are written together in the next, when their answers are under way: the
    second to do the same takes half as long as the first, whose code and data the processor has to fetch.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
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
            self._loop.call_soon(self.write)
        took = time.perf_counter() - request[STARTED]
        self._ended.append((request, status, took, time.time(), address_of(request)))

    def write(self) -> None:
        """Count and log what has ended until now."""
        ended, self._ended = self._ended, []
        log.tell([self._counted(*one) for one in ended])

    def _counted(self, request: web.Request, status: int, took: float, now: float, address: str) -> KeptRecord:
        metrics = self._metrics
        metrics.in_flight.dec()
        route, method, key_id = template_of(request), method_of(request), request.get(CALLER, NOBODY).key_id
        facts = facts_of(request)
        metrics.route_latency(route).observe(took, exemplar_of(request) if len(facts) > 1 else None)
        metrics.route_requests(route, method, str(status)).inc()
        if status >= 500:
            metrics.failure(str(status)).inc()
        if (tenant := metrics.tenants.of_key(key_id)) is not None:
            tenant.requests[f"{status // 100}xx"] += 1
        fields = {
            "method": method,
            "route": route,
            "status": status,
            "duration_ms": int(took * 100_000 + 0.5) / 100,
            "remote": address,
            "key": key_id,
        }
        return log.record_of(__name__, "request", now, facts, fields)


def method_of(request: web.Request) -> str:
    """Return the method of a request, "other" for one that HTTP does not know."""
    return request.method if request.method in _METHODS else "other"


def template_of(request: web.Request) -> str:
    """Return the template of a request's route."""
    resource = request.match_info.route.resource
    return "unmatched" if resource is None else resource.canonical
