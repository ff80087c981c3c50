"""Reading a request's body: its type and size first, then strict JSON, then the schema.

A body over the limit is refused before it is read when its length is known, and at the limit when it is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar

from aiohttp import hdrs, web
from pydantic import BaseModel, ValidationError

from hartonomous import codec
from hartonomous.errors import (
    PayloadTooLargeError,
    RequestTimedOutError,
    UnsupportedMediaTypeError,
    ValidationFailedError,
)
from hartonomous.handlers.metering import received
from hartonomous.keys import RUNTIME
from hartonomous.middleware.expectation import invite
from hartonomous.middleware.request_id import call_of

Model = TypeVar("Model", bound=BaseModel)

# pydantic's kinds of errors in our own words; `{…}` is filled from the error's context.
_SENTENCES = {
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "value_error": "{error}",
}


async def read_bytes(request: web.Request) -> bytes:
    """Return the body of a JSON request, unparsed.

    Raises:
        UnsupportedMediaTypeError: not JSON by its type, or compressed.
        PayloadTooLargeError: beyond the limit.
        RequestTimedOutError: nothing more of it came for too long, or it is not complete at the deadline.
    """
    headers = request.headers
    told = headers.get(hdrs.CONTENT_TYPE, codec.JSON)
    if told != codec.JSON and codec.media_type(told) != codec.JSON:
        raise UnsupportedMediaTypeError(f"The body must be {codec.JSON}.")
    if hdrs.CONTENT_ENCODING in headers:
        refuse_compressed(request)
    limit = request[RUNTIME].config.server.max_body_bytes
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    data = await read_piece(request)
    if not request.content.at_eof():
        data = await _all(request, data, limit)
    if len(data) > limit:
        raise _too_large(limit)
    return data


async def _all(request: web.Request, data: bytes, limit: int) -> bytes:
    """Return a body that begins with `data`, as soon as it is too large the beginning of it."""
    pieces, size = [data], len(data)
    while data and size <= limit and not request.content.at_eof():
        data = await read_piece(request)
        pieces.append(data)
        size += len(data)
    return b"".join(pieces)


def _too_large(limit: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"The body is larger than {limit} bytes.")


def refuse_compressed(request: web.Request) -> None:
    """Raise UnsupportedMediaTypeError when the body is compressed."""
    if hdrs.CONTENT_ENCODING in request.headers and request.headers[hdrs.CONTENT_ENCODING].lower() != "identity":
        raise UnsupportedMediaTypeError("A compressed body is not taken.")


async def read_piece(request: web.Request) -> bytes:
    """Return the next bytes of the body, nothing at its end.

    Raises:
        RequestTimedOutError: none came for `server.body_timeout_s`, or the deadline passed.
        RateLimitedError: the key may not send as many.
    """
    content = request.content
    if content.is_eof():
        # The rest came with the headers, as small bodies do: a timer for what is there already would cost 15 us.
        if hdrs.EXPECT in request.headers:
            await invite(request)
        data = content.read_nowait()
    else:
        deadline = call_of(request).deadline
        try:
            async with asyncio.timeout(deadline.bound(request[RUNTIME].config.server.body_timeout_s)):
                await invite(request)
                data = await content.readany()
        except TimeoutError as error:
            raise timed_out() from error
    if (meter := received(request, len(data))) is not None:
        await meter.more()
    return data


def timed_out() -> RequestTimedOutError:
    """Return the error of a body that does not come."""
    return RequestTimedOutError("The body did not come in time.", headers={"Connection": "close"})


def media_type_of(request: web.Request) -> str:
    """Return the media type of the body; "" where the client names none."""
    return codec.media_type(request.headers.get(hdrs.CONTENT_TYPE))


async def read_json(request: web.Request) -> Any:
    """Return the parsed body; raises as `read_bytes`, and InvalidRequestError when it is not strict JSON."""
    return codec.loads_request(await read_bytes(request))


def validate(model: type[Model], value: Any, what: str = "The body") -> Model:
    """Return `value` as `model`; `what` it is stands in errors that are of all of it.

    Raises:
        ValidationFailedError: `param` is the path of the first bad field.
    """
    try:
        # `model_validate` looks for options that nobody gives it, for 0.6 us.
        validated: Model = model.__pydantic_validator__.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(shown(part) for part in first["loc"])
        sentence = _sentence(first["type"], first.get("ctx") or {})
        subject = "" if not path and first["type"] == "value_error" else f"{path or what} "
        raise ValidationFailedError(f"{subject}{sentence}.", param=path or None) from None
    return validated


def shown(part: int | str) -> str:
    """Return a part of a path: an unknown field's name is the caller's, of any length and with any characters."""
    text = str(part)[:64]
    return text if text.isprintable() else ascii(text)[1:-1]


def _sentence(kind: str, context: Mapping[str, Any]) -> str:
    if kind in {"too_short", "too_long"} and context.get("field_type") != "List":
        kind = f"string_{kind}"
    template = _SENTENCES.get(kind)
    return "is not valid" if template is None else template.format_map(context)
