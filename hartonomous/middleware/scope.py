"""The floor behind `key_limit`: whether the scope that a path needs is among the caller's.

It comes so late that refusals are within a key's limits as well: 401, then 429, then 403.
"""

from __future__ import annotations

from aiohttp import web

from hartonomous.core.access import NOBODY, Caller
from hartonomous.errors import HartonomousError
from hartonomous.keys import Guard, guard_of
from hartonomous.middleware.auth import identified


def check_scope(caller: Caller, guard: Guard | None) -> None:
    """Let through who may do what is asked. Raises PermissionDeniedError: the key lacks the scope."""
    if guard is not None and guard.scope is not None and guard.scope not in caller.scopes and caller is not NOBODY:
        caller.check(guard.scope)


def caller_now(request: web.Request) -> Caller:
    """Return as whom a request that was let in would be now, with what that one may do and see now.

    What goes on for long asks again and again: it ends when a reload takes the right to it. Raises what `auth.know`
    and `check_scope` raise.
    """
    caller = identified(request)
    check_scope(caller, guard_of(request))
    return caller


def is_let_in(request: web.Request) -> bool:
    """Whether a request that was let in would be now."""
    try:
        caller_now(request)
    except HartonomousError:
        return False
    return True
