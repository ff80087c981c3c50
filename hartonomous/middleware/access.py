"""The second floor: one log record and one set of metrics for each request.

The route's template stands in both, never the path that a caller chose. The record is written when the answer is
complete, also when the caller left (status 499, as nginx counts it).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from hartonomous import log
from hartonomous.keys import CALLER, METRICS, REQUEST_ID, STARTED, exemplar_of
from hartonomous.middleware.limited import address_of

CLIENT_LEFT = 499
"""The status of a request whose client did not wait for the answer."""

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


@web.middleware
async def access(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Count and log the request."""
    metrics = request.app[METRICS]
    started = request[STARTED] = time.perf_counter()
    status = CLIENT_LEFT
    metrics.in_flight.inc()
    try:
        response = await handler(request)
        if request.transport is not None:
            status = response.status
        return response
    finally:
        took = time.perf_counter() - started
        metrics.in_flight.dec()
        route, method, caller = template_of(request), method_of(request), request.get(CALLER)
        metrics.route_latency(route).observe(took, exemplar_of(request))
        metrics.route_requests(route, method, str(status)).inc()
        if status >= 500:
            metrics.failure(str(status)).inc()
        if caller is not None and (tenant := metrics.tenants.of_key(caller.key_id)) is not None:
            tenant.requests[f"{status // 100}xx"] += 1
        fields = {
            "request_id": request[REQUEST_ID],
            "method": method,
            "route": route,
            "status": status,
            "duration_ms": round(took * 1000, 2),
            "remote": address_of(request),
            "key": None if caller is None else caller.key_id,
        }
        log.told(__name__, "request", fields)


def method_of(request: web.Request) -> str:
    """Return the method of a request, "other" for one that HTTP does not know."""
    return request.method if request.method in _METHODS else "other"


def template_of(request: web.Request) -> str:
    """Return the template of a request's route."""
    resource = request.match_info.route.resource
    return "unmatched" if resource is None else resource.canonical
