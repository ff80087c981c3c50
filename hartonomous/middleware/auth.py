"""The floor that knows who comes in: a key's caller, or a local one where there are no keys (`middleware.local`).

No key, an unknown one and one that was revoked are answered alike. What a path needs stands in its `Guard`; a path that
there is not needs a key as well, so that nobody can look around.
"""

from __future__ import annotations

from aiohttp import hdrs, web
from multidict import istr

from hartonomous.core import apikey
from hartonomous.core.access import LOCAL, NOBODY, Caller
from hartonomous.errors import AuthenticationError, InvalidRequestError
from hartonomous.keys import CALLER, GUARDS, STATE, Guard, State, guard_of
from hartonomous.middleware.audit import note
from hartonomous.middleware.local import check_local, is_local

_KEY_HEADER = istr("X-API-Key")
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_OPEN = Guard(None)


def know(request: web.Request, state: State, guard: Guard | None) -> Caller:
    """Know who comes in.

    Raises:
        AuthenticationError: no key, or none that is known.
        PermissionDeniedError: without keys, the request is not a local one.
        InvalidRequestError: it carries different keys.
    """
    # What holds now, not when the request began: a key that was revoked is dead at once.
    try:
        caller = request[CALLER] = _identified(request, state, guard)
    except AuthenticationError:
        note(request, claimed_key=apikey.id_of(key_of(request)))
        raise
    return caller


def identified(request: web.Request) -> Caller:
    """Return whose request it is now. Raises what `know` raises."""
    return _identified(request, request.app[STATE], guard_of(request))


def _identified(request: web.Request, state: State, guard: Guard | None) -> Caller:
    if not state.needs_keys:
        check_local(request)
        return LOCAL
    if guard is None:
        guard = _guard_of_error(request)
    if guard is not None and (guard.scope is None or (guard.scope == "metrics" and _is_open_here(request, state))):
        return NOBODY
    caller = state.caller(key_of(request), request.protocol)
    if caller is None:
        raise AuthenticationError("A valid API key is required.", headers=_CHALLENGE)
    return caller


def _is_open_here(request: web.Request, state: State) -> bool:
    return state.current.config.auth.metrics_on_loopback and is_local(request)


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
    authorizations = headers.getall(hdrs.AUTHORIZATION, ())
    if len(authorizations) == 1 and _KEY_HEADER not in headers:
        return _bearers(authorizations[0])
    given = {*map(_bearers, authorizations), *headers.getall(_KEY_HEADER, ())} - {""}
    if len(given) > 1 or len(set(authorizations)) > 1:
        raise InvalidRequestError("The request carries different keys.", code="different_keys")
    return given.pop() if given else ""


def _bearers(authorization: str) -> str:
    if authorization.startswith("Bearer "):  # as nearly all write it
        return authorization[7:].strip()
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
