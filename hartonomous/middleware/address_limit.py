"""The floor before `auth`: what one address may do, whoever is there, and how many wrong keys it may try.

Who has tried too many is told so instead of 401. A right key works all the same: nobody guesses one of 256 bits, and
whoever tries must not lock the neighbours out who share the address. A request without a key is no try.
"""

from __future__ import annotations

from collections.abc import Awaitable

from aiohttp import web

from hartonomous.limiting.limiter import Limiter, name_of
from hartonomous.limiting.meter import Meter
from hartonomous.middleware.auth import key_of
from hartonomous.middleware.limited import address_of

_NEVER = frozenset(("/health", "/ready"))


def enter_by_address(request: web.Request, limiter: Limiter) -> Meter | Awaitable[Meter] | None:
    """Hold the request against what its address may do; None where that is not limited.

    Raises RateLimitedError, or awaiting does: it does too much.
    """
    if not limiter.limits_addresses or request.path in _NEVER:
        return None
    return limiter.begin(name_of(address_of(request)), limiter.address, None)


async def count_failed(request: web.Request, limiter: Limiter) -> None:
    """Count a key that was none. Raises RateLimitedError: the address has tried too many."""
    if key_of(request):
        await limiter.failed(address_of(request))
