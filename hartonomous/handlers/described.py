"""What operations have in common in the OpenAPI document: keys, headers, and the errors that any of them can answer."""

from __future__ import annotations

from typing import Any

from hartonomous.handlers.operations import Operation

REASONS = {
    400: "Not JSON, or a malformed header",
    401: "No key, or none that is known",
    403: "Not allowed: the scope, the collection, or where the request came from",
    404: "No such path, model, document or collection",
    405: "The path does not take this method",
    408: "The body did not come in time",
    409: "The collection was made by another embedding model",
    413: "The body is larger than the limit",
    415: "The body is not of a type that is taken",
    417: "Something else than 100-continue is expected",
    422: "Well-formed JSON that breaks the schema; `param` names the first bad field",
    429: "A limit of the caller, or too many wait for a backend already; `Retry-After` in whole seconds",
    500: "A bug of the server",
    502: "A backend answered nonsense",
    503: "A backend is not available; `Retry-After` in whole seconds",
    504: "The deadline passed",
    507: "The vector store is full; nothing was acknowledged",
}

_RATE = {"schema": {"type": "string"}, "description": "Of the limits of the caller, where there are any"}
HEADERS: dict[str, Any] = {
    "X-Request-ID": {
        "description": "The request's own id where it was well formed, else a fresh one",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
    },
    "Retry-After": {"description": "Whole seconds", "schema": {"type": "integer", "minimum": 0}},
    "WWW-Authenticate": {"description": "How to authenticate", "required": True, "schema": {"type": "string"}},
    "Allow": {"description": "The methods that the path takes", "required": True, "schema": {"type": "string"}},
    "RateLimit-Limit": _RATE,
    "RateLimit-Remaining": _RATE,
    "RateLimit-Reset": _RATE,
    "Server-Timing": {"description": "Milliseconds of each stage", "schema": {"type": "string"}},
    "X-Hartonomous-Degraded": {"description": "The stages that were left out", "schema": {"type": "string"}},
}
_RATES = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")

FAILURES_TELL = {
    401: ("WWW-Authenticate",),
    405: ("Allow",),
    429: ("Retry-After", *_RATES),
    503: ("Retry-After",),
}
"""Which headers the errors of a status have."""

REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "description": "Kept and sent back where it is well formed, else replaced.",
    "schema": {"type": "string"},
}
# No operation lists it: any of them takes it, and answers 504 where too little time was given.
PARAMETERS = {
    "X-Request-Timeout-Ms": {
        "name": "X-Request-Timeout-Ms",
        "in": "header",
        "description": "Lowers the server's own limit for this request.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999_999},
    }
}
SECURITY_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "hart_<id>_<secret><checksum>",
        "description": "The key; the header X-API-Key takes it as well, but not another one beside.",
    },
}


def security(*, has_keys: bool) -> list[dict[str, list[str]]]:
    """Return what a request must carry: a key, or nothing where none are configured.

    That a key may come in one of two headers is said in words: two schemes would be two that may come together.
    """
    return [{"bearer": []}] if has_keys else [{}, {"bearer": []}]


def references(*names: str) -> dict[str, Any]:
    """Return references to these headers."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def failures(operation: Operation) -> list[int]:
    """Return the statuses of errors that an operation can answer, in order."""
    statuses = {400, 403, 405, 417, 429, 500, *operation.errors}
    if operation.scope is not None:
        statuses.add(401)
    if operation.tag != "operations":
        statuses.add(503)  # the server may be shutting down
    if operation.request is not None:
        statuses |= {408, 413, 415}
    return sorted(statuses - {operation.status})
