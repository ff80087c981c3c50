"""A call to a backend as a span: every attempt by itself, also those that are repeated or sent twice.

Named by the semantic conventions: of generative models by operation and model, of the vector store by operation and
collection, else by method and path. A path holds names of collections and nothing that a caller has written.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from hartonomous import tracing
from hartonomous.clients.admission import Place
from hartonomous.clients.failures import Verdict
from hartonomous.clients.guard import Request
from hartonomous.core.call import lines
from hartonomous.core.trace import Span, Value
from hartonomous.services import ModelService, Service

_OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion", "/v1/embeddings": "embeddings"}


def begin(request: Request, place: Place, parent: Span, service: str, config: Service) -> bytes:
    """Begin the span of an attempt of a request that is recorded, as that of `place`; return the headers of the call.

    They are as they are sent. Their `traceparent` is the attempt's own.
    """
    name, known = _named(request.method, request.path.partition("?")[0], service, _model(config))
    sent: dict[str, Value] = {
        **known,
        **_address(place.replica.url),
        "url.full": place.replica.url + request.path.partition("?")[0],
        "hartonomous.service": service,
        "hartonomous.hedged": place.is_hedge,
    }
    if place.tries:
        sent["http.request.resend_count"] = place.tries
    place.span = parent.child(name, "client", sent)
    return lines({**request.call.headers, **place.span.context.headers})


def end(span: Span, outcome: str, status: int | None, found: Verdict | None) -> None:
    """End the span of an attempt; what nobody waited for any more has not failed."""
    span.set({"hartonomous.outcome": outcome})
    if status is not None:
        span.set({"http.response.status_code": status})
    if found is not None and found.kind == "cancelled":
        span.set(tracing.LEFT)
    elif found is not None:
        span.fail(str(status) if status is not None and status >= 400 else found.kind)
    span.end()


def _model(config: Service) -> str | None:
    return config.model if isinstance(config, ModelService) else None


@lru_cache(maxsize=1_024)
def _named(method: str, path: str, service: str, model: str | None) -> tuple[str, Mapping[str, Value]]:
    """Return the name of a call and what is known of it before it is sent."""
    known: dict[str, Value] = {"http.request.method": method}
    if (operation := _OPERATIONS.get(path)) is not None:
        known |= {"gen_ai.operation.name": operation, "gen_ai.provider.name": "llama.cpp"}
        if model is None:
            return operation, known
        return f"{operation} {model}", known | {"gen_ai.request.model": model}
    if service != "qdrant":
        return f"{method} {path}", known
    known["db.system.name"] = "qdrant"
    kind, collection, what = (*path[1:].split("/", 2), "", "")[:3]
    if kind != "collections" or collection in {"", "aliases"}:
        return f"{method} {path}", known
    operation = what or method
    known |= {"db.operation.name": operation, "db.collection.name": collection}
    return f"{operation} {collection.partition('@')[0]}", known  # a physical one, without its number


@lru_cache(maxsize=1_024)
def _address(url: str) -> dict[str, Value]:
    parts = urlsplit(url)
    port = parts.port or {"https": 443}.get(parts.scheme, 80)
    return {"server.address": parts.hostname or "", "server.port": port}
