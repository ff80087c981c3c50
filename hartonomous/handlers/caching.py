"""The answer cache as HTTP says it: a request's `Cache-Control`, an answer's `Age` and `X-Hartonomous-Cache`.

Where the cache is off neither is read nor written.
"""

from __future__ import annotations

from aiohttp import hdrs, web
from msgspec.structs import replace

from hartonomous.core.cachecontrol import parse
from hartonomous.core.call import Call
from hartonomous.keys import Runtime
from hartonomous.pipelines.answering import CachedResult, CachedSources
from hartonomous.pipelines.query import Event

CACHE_HEADER = "X-Hartonomous-Cache"

CACHE_CONTROL = {
    "name": "Cache-Control",
    "in": "header",
    "description": "Where answers are cached: no-store, no-cache, max-age=N. What is malformed is ignored.",
    "schema": {"type": "string"},
}
"""The header as OpenAPI describes it."""


def with_wishes(request: web.Request, runtime: Runtime, call: Call) -> Call:
    """Return the call with what the caller takes from the cache."""
    if not runtime.config.rag.cache.answers.enabled or hdrs.CACHE_CONTROL not in request.headers:
        return call
    return replace(call, cache=parse(",".join(request.headers.getall(hdrs.CACHE_CONTROL))))


def cache_headers(runtime: Runtime, event: Event) -> dict[str, str]:
    """Return what is said of an answer, or of the first event of a stream."""
    if not runtime.config.rag.cache.answers.enabled:
        return {}
    if isinstance(event, CachedResult | CachedSources):
        return {hdrs.AGE: str(int(event.age_s)), CACHE_HEADER: "hit"}
    return {CACHE_HEADER: "miss"}
