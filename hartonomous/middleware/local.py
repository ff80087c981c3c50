"""Without keys only this host is served.

The socket listens on loopback (the configuration sees to it), and what a browser or a local proxy would carry in from
outside is refused, so that no web page can reach a keyless server by asking the user's browser to do it (DNS rebinding,
cross-site requests) and no proxy opens it by accident.
"""

from __future__ import annotations

import re

from aiohttp import hdrs, web

from hartonomous.core.addresses import is_loopback
from hartonomous.errors import PermissionDeniedError
from hartonomous.middleware.origins import is_closed, is_named

# What proxies add, in lower case; and whatever begins like X-Forwarded-For.
_FORWARDED = frozenset(
    ("forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip")
)
_FORWARDED_PREFIX = "x-forwarded"
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
_OWN_SITE = frozenset(("same-origin", "none"))


def check_local(request: web.Request) -> None:
    """Let local callers in.

    Raises:
        PermissionDeniedError: it came from another host, for another one, through a proxy, or from a web page.
    """
    if request.remote and not is_loopback(request.remote):  # "" is a socket of the file system, which is on this host
        raise _refused("came from another host")
    headers = request.headers
    if any(name in _FORWARDED or name.startswith(_FORWARDED_PREFIX) for name in map(str.lower, headers)):
        raise _refused("came through a proxy")
    if not _names_this_host(request):
        raise _refused("names another host")
    if is_named(request) and not is_closed(request, request.match_info):
        return  # a web page that was let in by its name; a form could send what has no body without asking
    if not all(_is_own(origin, request) for origin in headers.getall("Origin", ())):
        raise _refused("came from a web page")
    if not _OWN_SITE.issuperset(headers.getall("Sec-Fetch-Site", ())):
        raise _refused("came from a web page")


def is_local(request: web.Request) -> bool:
    """Whether `check_local` lets it in."""
    try:
        check_local(request)
    except PermissionDeniedError:
        return False
    return True


def _names_this_host(request: web.Request) -> bool:
    """Whether the `Host` header does, and the target where that is a whole URL."""
    host = request.headers.get(hdrs.HOST)
    if not request.raw_path.startswith("/") and not is_loopback(request.url.host or ""):
        return False
    if host is None:
        return True  # HTTP/1.0, as health checks speak it and no browser does
    found = _HOST.fullmatch(host)
    return found is not None and is_loopback(found[1] or found[2])


def _is_own(origin: str, request: web.Request) -> bool:
    return origin.lower() in {f"http://{request.host}".lower(), f"https://{request.host}".lower()}


def _refused(why: str) -> PermissionDeniedError:
    return PermissionDeniedError(f"Without keys only local requests are served; this one {why}.", code="local_only")
