"""What both limiting floors share: the caller's address, an answer that is sent within limits, what is said of them."""

from __future__ import annotations

from aiohttp import web
from multidict import istr

from hartonomous.core.addresses import Proxies
from hartonomous.errors import RateLimitedError
from hartonomous.keys import ADDRESS, METER
from hartonomous.limiting.policy import LIMIT

_FORWARDED_FOR = istr("X-Forwarded-For")


def locate(request: web.Request, proxies: Proxies) -> None:
    """Find out the caller's address, as far as it is known: the connection's, or what a trusted proxy says."""
    request[ADDRESS] = proxies.caller(request.remote, request.headers.getall(_FORWARDED_FOR, ()))


def address_of(request: web.Request) -> str:
    """Return the caller's address."""
    return request[ADDRESS]


def body_bytes(request: web.Request) -> int | None:
    """Return how long the body is: 0 where that is not said, None where there is none."""
    return (request.content_length or 0) if request.body_exists else None


async def sent(request: web.Request, response: web.StreamResponse) -> None:
    """Send an answer, where the place of its request is to be held as long as that takes."""
    try:
        await response.prepare(request)
        await response.write_eof()
    except ConnectionError:
        return  # aiohttp finds out itself


def add_limits(request: web.Request, response: web.StreamResponse) -> None:
    """Tell a key's holder how much is left."""
    meter = request.get(METER)
    if meter is not None and not (response.status == RateLimitedError.status and LIMIT in response.headers):
        response.headers.update(meter.headers)
