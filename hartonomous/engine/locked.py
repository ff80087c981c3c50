"""The engine's key: with one, only who sends it is answered; how the process is stays open to all, as Qdrant has it."""

from __future__ import annotations

import hmac

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from pydantic import TypeAdapter, ValidationError

from hartonomous.engine.refusal import RefusedError
from hartonomous.fields import Secret

_OPEN = frozenset({"/", "/healthz", "/livez", "/readyz"})
_SECRET: TypeAdapter[Secret] = TypeAdapter(Secret)


def read_key(source: str) -> str:
    """Return the key that stands in the file of `file:PATH`.

    Raises:
        ValueError: it cannot be read, or there is none in it; or it stands in `source` itself, which is a command line
            that every user of the host can read.
    """
    if not source.startswith("file:"):
        raise ValueError("expected file: and the path of a file with the key")
    try:
        return _SECRET.validate_python(source).get_secret_value()
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def locked(key: str) -> Middleware:
    """Return what answers 401 to requests without the key, in `api-key` or as a bearer's, before their body is read."""
    expected = key.encode()

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in _OPEN and not hmac.compare_digest(_shown(request), expected):
            raise RefusedError(401, "Must provide an API key or an Authorization bearer token")
        return await handler(request)

    return check


def _shown(request: web.Request) -> bytes:
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    shown = request.headers.get("api-key") or (token.strip() if scheme.lower() == "bearer" else "")
    return shown.encode("utf-8", "surrogateescape")
