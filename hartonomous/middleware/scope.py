"""The floor behind `key_limit`: whether the scope that a path needs is among the caller's.

It comes so late that refusals are within a key's limits as well: 401, then 429, then 403.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from hartonomous.core.access import NOBODY, Caller
from hartonomous.errors import HartonomousError
from hartonomous.keys import CALLER, GUARDS
from hartonomous.middleware.auth import identified


@web.middleware
async def scope(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Let through who may do what is asked. Raises PermissionDeniedError: the key lacks the scope."""
    _check_scope(request, request[CALLER])
    return await handler(request)


def caller_now(request: web.Request) -> Caller:
    """Return as whom a request that was let in would be now, with what that one may do and see now.

    What goes on for long asks again and again: it ends when a reload takes the right to it. Raises what `auth` and
    `scope` raise.
    """
    caller = identified(request)
    _check_scope(request, caller)
    return caller


def is_let_in(request: web.Request) -> bool:
    """Whether a request that was let in would be now."""
    try:
        caller_now(request)
    except HartonomousError:
        return False
    return True


def _check_scope(request: web.Request, caller: Caller) -> None:
    guard = request.app[GUARDS].get(request.match_info.handler)
    if caller is not NOBODY and guard is not None and guard.scope is not None:
        caller.check(guard.scope)
