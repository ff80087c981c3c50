"""The floor behind `auth`: what one key, or all keys of one owner together, may use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from hartonomous.keys import CALLER, METER, STATE
from hartonomous.middleware.limited import body_bytes, within


@web.middleware
async def key_limit(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Hold the request against what its key may use; callers without a key have the limits of their address alone.

    Raises:
        RateLimitedError: a limit of the key is reached.
    """
    limiter = request.app[STATE].current.limiter
    limited = limiter.of_key(request[CALLER].key_id)
    if limited is None:
        return await handler(request)
    name, policy = limited
    meter = request[METER] = await limiter.enter(name, policy, body_bytes(request))
    return await within(request, handler, meter, policy)
