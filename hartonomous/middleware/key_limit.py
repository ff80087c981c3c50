"""The floor behind `auth`: what one key, or all keys of one owner together, may use."""

from __future__ import annotations

from collections.abc import Awaitable

from aiohttp import web

from hartonomous.core.access import Caller
from hartonomous.limiting.limiter import Limiter
from hartonomous.limiting.meter import Meter
from hartonomous.middleware.limited import body_bytes


def enter_by_key(request: web.Request, limiter: Limiter, caller: Caller) -> Meter | Awaitable[Meter] | None:
    """Hold the request against what its key may use; callers without a key have the limits of their address alone.

    Raises RateLimitedError, or awaiting does: a limit of the key is reached.
    """
    limited = limiter.of_key(caller.key_id)
    if limited is None:
        return None
    name, policy = limited
    return limiter.begin(name, policy, body_bytes(request))
