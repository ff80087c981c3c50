"""Bytes to JSON and back: the one place that knows orjson.

orjson refuses NaN, Infinity, invalid UTF-8, lone surrogates and nesting beyond 1,024 levels by itself; a number
that overflows to infinity (`1e400`) it refuses as well. An integer beyond 64 bits becomes the nearest double. Of
duplicate keys the last one wins.
"""

from __future__ import annotations

from typing import Any

import orjson

from hartonomous.errors import HartonomousError, InvalidRequestError, ValidationFailedError

JSON = "application/json"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"

MAX_CONTAINERS = 1_000_000
"""The most objects and lists that a request may have: those of 16 MiB would hold the loop up for seconds."""

dumps = orjson.dumps
Written = orjson.Fragment
"""A part of what is encoded that is JSON already."""
INDENTED = orjson.OPT_INDENT_2


def canonical(value: Any) -> bytes:
    """Encode so that equal values have equal bytes, whatever the order of their keys; dataclasses are objects."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


class NotJsonError(ValueError):
    """The bytes are not strict JSON."""


def loads(data: bytes | bytearray | memoryview | str) -> Any:
    """Parse strict JSON; raise `NotJsonError` on anything else (for answers of backends and files)."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise NotJsonError(str(error)) from error


def loads_request(data: bytes) -> Any:
    """Parse the body of a request.

    Raises:
        InvalidRequestError: it is no JSON; says where it breaks.
        ValidationFailedError: it has too many objects and lists, counted with the closing brackets in its texts.
    """
    if len(data) > MAX_CONTAINERS and data.count(b"}") + data.count(b"]") > MAX_CONTAINERS:
        raise ValidationFailedError(f"The body has more than {MAX_CONTAINERS} objects and lists.")
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"The body is not valid JSON (line {error.lineno}, column {error.colno}).") from error


def media_type(header: str | None) -> str:
    """Return the media type that a `Content-Type` names, in small letters; "" where there is none.

    aiohttp's own `content_type` reads the parameters as well, and raises an IndexError at some of them.
    """
    return (header or "").partition(";")[0].strip().lower()


def error_body(error: HartonomousError, request_id: str) -> bytes:
    """Encode the body of an error response, OpenAI's shape with our request id beside it."""
    return dumps({"error": error.as_dict(), "request_id": request_id})
