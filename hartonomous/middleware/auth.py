"""The floor that knows who comes in: a key's caller, or a local one where there are no keys (`middleware.local`).

No key, an unknown one and one that was revoked are answered alike. What a path needs stands in its `Guard`; a path that
there is not needs a key as well, so that nobody can look around.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from hartonomous.core import apikey
from hartonomous.core.access import LOCAL, NOBODY, Caller
from hartonomous.errors import AuthenticationError, HartonomousError, InvalidRequestError
from hartonomous.keys import CALLER, GUARDS, STATE, Guard, State
from hartonomous.middleware.audit import note
from hartonomous.middleware.local import check_local, is_local

_KEY_HEADER = "X-API-Key"
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_OPEN = Guard(None)


@web.middleware
async def auth(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Let in who may come in.

    Raises:
        AuthenticationError: no key, or none that is known.
        PermissionDeniedError: the key lacks the scope; without keys, the request is not a local one.
        InvalidRequestError: it carries different keys.
    """
    # What holds now, not when the request began: a key that was revoked is dead at once.
    request[CALLER] = _caller(request, request.app[STATE])
    return await handler(request)


def is_let_in(request: web.Request) -> bool:
    """Whether a request that was let in would be now: a long answer ends when a reload takes the right to it."""
    try:
        _caller(request, request.app[STATE])
    except HartonomousError:
        return False
    return True


def _caller(request: web.Request, state: State) -> Caller:
    runtime = state.current
    if not runtime.keyring:
        check_local(request)
        return LOCAL
    guard = request.app[GUARDS].get(request.match_info.handler) or _guard_of_error(request)
    scope = None if guard is None else guard.scope
    if guard is not None and scope is None:
        return NOBODY
    if scope == "metrics" and runtime.config.auth.metrics_on_loopback and is_local(request):
        return NOBODY
    key = key_of(request)
    caller = state.caller(key)
    if caller is None:
        note(request, claimed_key=apikey.id_of(key))
        raise AuthenticationError("A valid API key is required.", headers=_CHALLENGE)
    request[CALLER] = caller  # who is refused is known by name
    if scope is not None:
        caller.check(scope)
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
