"""The second floor: one log record and one set of metrics for each request.

The route's template stands in both, never the path that a caller chose. The record is written when the answer is
complete, also when the caller left (status 499, as nginx counts it).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from hartonomous.keys import METRICS, REQUEST_ID
from hartonomous.log import logger

_CLIENT_LEFT = 499
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


@web.middleware
async def access(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Count and log the request."""
    metrics = request.app[METRICS]
    started = time.perf_counter()
    status = _CLIENT_LEFT
    metrics.in_flight.inc()
    try:
        response = await handler(request)
        if request.transport is not None:
            status = response.status
        return response
    finally:
        took = time.perf_counter() - started
        metrics.in_flight.dec()
        route = _template(request)
        method = request.method if request.method in _METHODS else "other"
        metrics.route_latency(route).observe(took)
        metrics.route_requests(route, method, str(status)).inc()
        logger.bind(
            request_id=request[REQUEST_ID],
            method=method,
            route=route,
            status=status,
            duration_ms=round(took * 1000, 2),
            remote=request.remote,
        ).info("request")


def _template(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return "unmatched" if resource is None else resource.canonical
