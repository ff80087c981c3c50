"""What an error must look like, by the table of the HTTP contract."""

from __future__ import annotations

from typing import Any

import orjson

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    502: "backend_error",
    503: "backend_unavailable",
    504: "timeout_error",
    507: "backend_error",
}
"""The type of the error of each status that a caller may see."""

UNLUCKY = frozenset({429, 502, 503, 504})
"""What the right request may be answered while backends fail."""

_FIELDS = {"message", "type", "param", "code"}


def wrong_with_error(status: int, body: bytes, request_id: str) -> str | None:
    """Return what is wrong with the body of an error, None if nothing is."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return f"no JSON: {body[:200]!r}"
    if not isinstance(value, dict) or not isinstance(value.get("error"), dict):
        return f"no error object: {body[:200]!r}"
    if value.get("request_id") != request_id:
        return f"request_id {value.get('request_id')!r}"
    return wrong_with_object(value["error"], status)


def wrong_with_object(error: Any, status: int | None = None) -> str | None:
    """Return what is wrong with an error object, whose status may be unknown."""
    if not isinstance(error, dict) or set(error) != _FIELDS or not error["message"]:
        return f"not OpenAI's shape: {error!r}"
    if error["type"] not in TYPES.values() or (status is not None and error["type"] != TYPES.get(status)):
        return f"the type {error['type']!r} with {status}: {error['message']}"
    return None
