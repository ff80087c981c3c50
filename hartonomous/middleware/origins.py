"""What a web page of a configured origin may send and read (`server.cors`), as aiohttp-cors asks for it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import hdrs, web
from aiohttp_cors import ResourceOptions
from aiohttp_cors.abc import AbstractRouterAdapter
from typing_extensions import override

from hartonomous.keys import GUARDS, STATE, Handler
from hartonomous.security import Cors

PREFLIGHT: web.AppKey[Handler] = web.AppKey("PREFLIGHT")
ALLOWED: web.AppKey[Callable[[web.Request, web.StreamResponse], Awaitable[object]]] = web.AppKey("ALLOWED")

_METHODS = ("GET", "HEAD", "POST", "DELETE")
# The last five are those of OpenAI's and Cohere's own clients.
_ALLOWED = (
    *(hdrs.ACCEPT, hdrs.AUTHORIZATION, hdrs.CACHE_CONTROL, hdrs.CONTENT_TYPE, hdrs.USER_AGENT),
    *("X-API-Key", "X-Request-ID", "X-Request-Timeout-Ms", "traceparent", "tracestate"),
    *("Idempotency-Key", "OpenAI-Beta", "OpenAI-Organization", "OpenAI-Project", "X-Client-Name"),
)
# What these clients say of themselves: another list with each of their versions.
_ALLOWED_PREFIXES = ("X-STAINLESS-", "X-FERN-")
_EXPOSED = (
    *("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", hdrs.RETRY_AFTER),
    *(hdrs.AGE, hdrs.WWW_AUTHENTICATE, "Server-Timing", "X-Request-ID"),
    *("X-Hartonomous-Cache", "X-Hartonomous-Degraded"),
)
_OPERATORS = ("/admin", "/metrics")


class EveryPath(AbstractRouterAdapter):
    """Tells aiohttp-cors what holds for a request; to it the router as a whole is one thing."""

    def __init__(self, app: web.Application) -> None:
        self._app = app

    @override
    def add_preflight_handler(self, routing_entity: object, handler: Handler, webview: bool = False) -> None:
        """Keep the library's answer to preflights for the middleware."""
        self._app[PREFLIGHT] = handler

    @override
    def set_config_for_routing_entity(self, routing_entity: object, config: object) -> None:
        """There is nothing to keep: the configuration has it."""

    @override
    def is_preflight_request(self, request: web.Request) -> bool:
        """Whether it is a preflight."""
        return preflighted(request) is not None

    @override
    def is_cors_enabled_on_request(self, request: web.Request) -> bool:
        """Whether the answer may be for a web page."""
        return not is_closed(request, request.match_info)

    @override
    async def get_preflight_request_config(
        self, preflight_request: web.Request, origin: str, requested_method: str
    ) -> Mapping[str, ResourceOptions]:
        """Return the options of each origin; raise KeyError for a method that no path takes."""
        if requested_method not in _METHODS:
            raise KeyError(requested_method)
        asked = preflight_request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "").upper().split(",")
        named = [name for one in asked if (name := one.strip(" \t")).startswith(_ALLOWED_PREFIXES)]
        return {
            origin: options._replace(allow_headers=options.allow_headers.union(named))
            for origin, options in _options(cors_of(preflight_request)).items()
        }

    @override
    def get_non_preflight_request_config(self, request: web.Request) -> Mapping[str, ResourceOptions]:
        """Return the options of each origin."""
        return _options(cors_of(request))


def cors_of(request: web.Request) -> Cors:
    """Return the configuration that serves now."""
    return request.app[STATE].current.config.server.cors


def preflighted(request: web.Request) -> str | None:
    """Return the method that is asked for by what the Fetch standard calls a CORS-preflight request; else None."""
    if request.method != hdrs.METH_OPTIONS or hdrs.ORIGIN not in request.headers:
        return None
    return request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_METHOD)


def is_named(request: web.Request) -> bool:
    """Whether a web page of a configured origin sent the request."""
    origins = request.headers.getall(hdrs.ORIGIN, ())
    return len(origins) == 1 and origins[0] in cors_of(request).origins


def is_closed(request: web.Request, match: web.UrlMappingMatchInfo) -> bool:
    """Whether what a request leads to is an operator's and so closed to web pages, also where it leads nowhere."""
    guard = request.app[GUARDS].get(match.handler)
    return request.path.startswith(_OPERATORS) or (guard is not None and guard.is_closed_to_pages)


@functools.lru_cache(maxsize=4)
def _options(configured: Cors) -> Mapping[str, ResourceOptions]:
    # No credentials: a key is a header that the page itself sends; what a browser sends by itself counts for nothing.
    options = ResourceOptions(  # type: ignore[no-untyped-call]  # it has no annotations
        expose_headers=_EXPOSED, allow_headers=_ALLOWED, max_age=configured.max_age_s
    )
    return dict.fromkeys(configured.origins, options)
