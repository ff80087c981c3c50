"""The fifth floor: who may come in.

Without keys only this host is served: the socket listens on loopback (the configuration sees to it), and what a browser
or a local proxy would carry in from outside is refused, so that no web page can reach a keyless server by asking the
user's browser to do it (DNS rebinding, cross-site requests) and no proxy opens it by accident.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

from hartonomous.errors import PermissionDeniedError

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Via")
_OWN_SITE = frozenset(("same-origin", "none"))


@web.middleware
async def auth(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Let local callers in.

    Raises:
        PermissionDeniedError: the request came through a proxy, for another host, or from a web page.
    """
    headers = request.headers
    for name in _FORWARDED:
        if name in headers:
            raise _refused("came through a proxy")
    if not _is_loopback(_host_name(request.host)):
        raise _refused("names another host")
    origin = headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise _refused("came from a web page")
    if headers.get("Sec-Fetch-Site", "none") not in _OWN_SITE:
        raise _refused("came from a web page")
    return await handler(request)


def _refused(why: str) -> PermissionDeniedError:
    return PermissionDeniedError(f"Without keys only local requests are served; this one {why}.", code="local_only")


def _host_name(host: str) -> str:
    """Return the name or address of a `Host` header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
