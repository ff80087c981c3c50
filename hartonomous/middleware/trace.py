"""The floor that records a request as a span, where spans are recorded (`tracing`): from its headers to the end of the
answer, also of a stream.

A span of a request that turns out to be nobody's never ends, and so is not sent: strangers, who need no more than a
`traceparent` for one, cannot fill the line in front of the collector.

It is named by the route's template, and says who asked and what came of it: names, numbers and ids, never what was
asked or answered. Whoever polls whether the server is well makes no spans.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from hartonomous import log, tracing
from hartonomous.core.trace import Span, Value
from hartonomous.keys import CALLER, NOTES, REQUEST_ID, SPAN, TRACE, is_somebodys
from hartonomous.middleware.access import method_of, template_of
from hartonomous.middleware.limited import address_of
from hartonomous.middleware.request_id import place_in

_POLLED = frozenset(("/health", "/ready", "/metrics"))


def is_polled(request: web.Request) -> bool:
    """Whether it asks whether the server is well, which is not recorded."""
    return request.path in _POLLED


async def traced(
    request: web.Request, tracer: tracing.Tracer, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Record the request."""
    place, span = tracer.begin(_name(request), request.get(TRACE), _asked(request))
    place_in(request, place)
    with log.about(**place.facts):
        if span is None:
            return await handler(request)
        request[SPAN] = span
        return await _recorded(request, handler, span)


async def _recorded(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]], span: Span
) -> web.StreamResponse:
    try:
        response = await handler(request)
    except BaseException as error:
        if is_somebodys(request):
            span.set(_found(request))
            tracing.ended(span, error)
        raise
    if is_somebodys(request):
        _end(request, response, span)
    return response


def _end(request: web.Request, response: web.StreamResponse, span: Span) -> None:
    span.set(_found(request))
    if request.transport is None:
        span.set(tracing.LEFT)
    else:
        span.set({"http.response.status_code": response.status})
        if response.status >= 500:
            span.fail(str(response.status))
    span.end()


def _name(request: web.Request) -> str:
    route = template_of(request)
    return method_of(request) if route == "unmatched" else f"{method_of(request)} {route}"


def _asked(request: web.Request) -> dict[str, Value]:
    """Return what is known of a request at its start, by the semantic conventions of HTTP servers."""
    route = template_of(request)
    known: dict[str, Value] = {
        "http.request.method": method_of(request) if method_of(request) != "other" else "_OTHER",
        "url.scheme": request.scheme,
        "network.protocol.version": f"{request.version.major}.{request.version.minor}",
        "hartonomous.request_id": request[REQUEST_ID],
    }
    if route != "unmatched":
        known["http.route"] = route
    if "{" not in route and route != "unmatched":
        known["url.path"] = route  # of others the path may hold what a caller calls a document
    return known


def _found(request: web.Request) -> dict[str, Value]:
    """Return what is known of a request at its end."""
    known: dict[str, Value] = {"client.address": address_of(request)}
    caller = request.get(CALLER)
    if caller is not None and caller.key_id is not None:
        known |= {"hartonomous.key.id": caller.key_id, "hartonomous.key.owner": caller.owner or caller.key_id}
    collection = request.get(NOTES, {}).get("collection")
    if isinstance(collection, str):
        known["hartonomous.collection"] = collection
    return known
