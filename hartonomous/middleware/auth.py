"""The floor that knows who comes in: a key's caller, or a local one where there are no keys (`middleware.local`).

No key, an unknown one and one that was revoked are answered alike. What a path needs stands in its `Guard`; a path that
there is not needs a key as well, so that nobody can look around.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from hartonomous.core.access import LOCAL, NOBODY, Caller
from hartonomous.errors import AuthenticationError, InvalidRequestError
from hartonomous.keyring import Keyring
from hartonomous.keys import CALLER, GUARDS, STATE
from hartonomous.middleware.local import check_local

_KEY_HEADER = "X-API-Key"


@web.middleware
async def auth(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Let in who may come in.

    Raises:
        AuthenticationError: no key, or none that is known.
        PermissionDeniedError: the key lacks the scope; without keys, the request is not a local one.
    """
    request[CALLER] = _caller(request)
    return await handler(request)


def _caller(request: web.Request) -> Caller:
    keyring = request.app[STATE].current.keyring
    if not keyring:
        check_local(request)
        return LOCAL
    guard = request.app[GUARDS].get(request.match_info.handler)
    if guard is not None and guard.scope is None:
        return NOBODY
    caller = _keyed(request, keyring)
    if guard is not None and guard.scope is not None:
        caller.check(guard.scope)
    return caller


def _keyed(request: web.Request, keyring: Keyring) -> Caller:
    caller = keyring.caller(_key(request))
    if caller is None:
        raise AuthenticationError("A valid API key is required.", headers={hdrs.WWW_AUTHENTICATE: "Bearer"})
    return caller


def _key(request: web.Request) -> str:
    """Return the key that the request carries, "" without one."""
    given = request.headers.getall(_KEY_HEADER, [])
    for value in request.headers.getall(hdrs.AUTHORIZATION, ()):
        scheme, _, key = value.partition(" ")
        given = [*given, key.strip() if scheme.lower() == "bearer" else ""]
    if len(set(given)) > 1:
        raise InvalidRequestError("The request carries different keys.", code="different_keys")
    return given[0] if given else ""
