"""The floor that knows who comes in: a key's caller, or a local one where there are no keys (`middleware.local`).

No key, an unknown one and one that was revoked are answered alike. What a path needs stands in its `Guard`; a path that
there is not needs a key as well, so that nobody can look around.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from hartonomous.core import apikey
from hartonomous.core.access import LOCAL, NOBODY, Caller
from hartonomous.errors import AuthenticationError, InvalidRequestError
from hartonomous.keys import CALLER, GUARDS, STATE, Guard
from hartonomous.middleware.audit import note
from hartonomous.middleware.local import check_local, is_local

_KEY_HEADER = "X-API-Key"
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_OPEN = Guard(None)


@web.middleware
async def auth(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Know who comes in.

    Raises:
        AuthenticationError: no key, or none that is known.
        PermissionDeniedError: without keys, the request is not a local one.
        InvalidRequestError: it carries different keys.
    """
    # What holds now, not when the request began: a key that was revoked is dead at once.
    try:
        request[CALLER] = identified(request)
    except AuthenticationError:
        note(request, claimed_key=apikey.id_of(key_of(request)))
        raise
    return await handler(request)


def identified(request: web.Request) -> Caller:
    """Return whose request it is now. Raises what `auth` raises."""
    state = request.app[STATE]
    runtime = state.current
    if not state.needs_keys:
        check_local(request)
        return LOCAL
    guard = request.app[GUARDS].get(request.match_info.handler) or _guard_of_error(request)
    if guard is not None and guard.scope is None:
        return NOBODY
    if guard is not None and guard.scope == "metrics" and runtime.config.auth.metrics_on_loopback and is_local(request):
        return NOBODY
    caller = state.caller(key_of(request))
    if caller is None:
        raise AuthenticationError("A valid API key is required.", headers=_CHALLENGE)
    return caller


def _guard_of_error(request: web.Request) -> Guard | None:
    """Return the guard of a path that is open to all and has no such method: who may see the path may see that.

    Of every other path that has none, and of those that there are not, there is no guard.
    """
    if not isinstance(request.match_info.http_exception, web.HTTPMethodNotAllowed):
        return None
    guards = request.app[GUARDS]
    for resource in request.app.router.resources():
        if resource.canonical == request.path:
            found = [guards.get(route.handler) for route in resource]
            return _OPEN if found and all(guard is not None and guard.scope is None for guard in found) else None
    return None


def key_of(request: web.Request) -> str:
    """Return the key that the request carries, "" without one. An `Authorization` of another scheme has none."""
    headers = request.headers
    authorizations, given = headers.getall(hdrs.AUTHORIZATION, ()), set(headers.getall(_KEY_HEADER, ()))
    for value in authorizations:
        scheme, _, key = value.partition(" ")
        if scheme.lower() == "bearer":
            given.add(key.strip())
    given.discard("")
    if len(given) > 1 or len(set(authorizations)) > 1:
        raise InvalidRequestError("The request carries different keys.", code="different_keys")
    return given.pop() if given else ""
