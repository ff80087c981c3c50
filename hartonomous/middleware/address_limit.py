"""The floor before `auth`: what one address may do, whoever is there, and how many wrong keys it may try.

Who has tried too many is told so instead of 401. A right key works all the same: nobody guesses one of 256 bits, and
whoever tries must not lock the neighbours out who share the address. A request without a key is no try.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from hartonomous.errors import AuthenticationError
from hartonomous.keys import STATE
from hartonomous.limiting.limiter import name_of
from hartonomous.middleware.auth import key_of
from hartonomous.middleware.limited import address_of, within

_NEVER = frozenset(("/health", "/ready"))


@web.middleware
async def address_limit(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Hold the request against what its address may do.

    Raises:
        RateLimitedError: it does too much, or has tried too many wrong keys.
    """
    limiter = request.app[STATE].current.limiter
    try:
        if not limiter.limits_addresses or request.path in _NEVER:
            return await handler(request)
        policy = limiter.address
        meter = await limiter.enter(name_of(address_of(request)), policy, None)
        return await (handler(request) if policy.concurrent is None else within(request, handler, meter, policy))
    except AuthenticationError:
        if key_of(request):
            await limiter.failed(address_of(request))
        raise
