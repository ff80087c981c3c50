"""What is refused before it has cost anything, because the process has its hands full (`core.overload`).

At five times as many requests as can be answered four of five are refused, so a refusal must be cheap: a request for
work whose bytes are all there is answered from them, without aiohttp's parser, objects and tasks (40 µs for 250). What
is not as plain as that goes the usual way, and is refused by the floor `drain`: the answer is the same, and so are the
log's line and the metrics. Only work is refused: who asks for health, metrics or administers is heard.

Requests are not left unread instead: the time that a caller gives would run while nobody knows of it, callers that go
away leave their requests behind, and who has several servers could not turn to another one.
"""

from __future__ import annotations

import asyncio
import re
import time

from aiohttp import web

from hartonomous import codec, log
from hartonomous.core.kept import KeptRecord
from hartonomous.keys import METRICS, STATE
from hartonomous.metrics import Metrics
from hartonomous.middleware.drain import overloaded
from hartonomous.middleware.request_id import new_id

_STATUS = "503"
_ACCESS = "hartonomous.middleware.access"
_LINE_END = b" HTTP/1.1\r\n"
_HEAD_END = b"\r\n\r\n"
# What decides where the request ends, who asks, and what the answer must say.
_HEADER = re.compile(
    rb"\r\n(content-length|x-request-id|x-forwarded-for|transfer-encoding|expect|upgrade|origin|connection)"
    rb":[ \t]*([^\r\n]*?)[ \t]*(?=\r\n)",
    re.IGNORECASE,
)
_PLAIN = frozenset((b"content-length", b"x-request-id", b"x-forwarded-for", b"connection"))
_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class _Refused:
    """What is counted and said of all that is refused of one route."""

    __slots__ = ("_counters", "_latency", "said")

    def __init__(self, metrics: Metrics, route: str) -> None:
        self._counters = (metrics.shed, metrics.route_requests(route, "POST", _STATUS), metrics.failure(_STATUS))
        self._latency = metrics.route_latency(route)
        self.said = log.members({"method": "POST", "route": route, "status": int(_STATUS), "duration_ms": 0.0})

    def count(self) -> None:
        """Count one."""
        for counter in self._counters:
            counter.inc()
        self._latency.observe(0.0)


class Shedder:
    """Refuses requests of one application's connections, where its `crowd` is one.

    What is refused in one round of the loop is logged together in the next.
    """

    def __init__(self, app: web.Application) -> None:
        self._state, self._metrics = app[STATE], app[METRICS]
        self.crowd = self._state.crowd
        self._routes = {
            f"POST {path}".encode(): path
            for route in app.router.routes()
            if (resource := route.resource) is not None and route.method == "POST"
            if "{" not in (path := resource.canonical) and not path.startswith("/admin/")
        }
        self._refused: dict[str, _Refused] = {}
        self._untold: list[KeptRecord] = []
        error = overloaded()
        self._before, self._after = codec.error_body(error, "@").split(b"@")
        length = len(self._before) + len(self._after)
        self._length = length
        self._head = (
            f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {codec.JSON}\r\nRetry-After: {error.retry_after}\r\n"
        ).encode()

    def looks_at(self, connection: web.RequestHandler) -> bool:
        """Whether nothing else is to be said than that something is refused: that the connection closes, and why."""
        return not self._state.stopping and connection not in self._state.surplus

    def answer(self, data: bytes, host: str) -> bytes | None:
        """Return the refusal of the request that `data` is, of a client at `host`; None where it is to be looked at.

        `data` is what comes on a connection between two requests.
        """
        path_end = data.find(_LINE_END)
        route = self._routes.get(data[: max(path_end, 0)].partition(b"?")[0])
        end = data.find(_HEAD_END) + len(_HEAD_END)
        if route is None or end < len(_HEAD_END):
            return None
        headers = _headers(data[path_end + len(_LINE_END) - 2 : end])
        if headers is None or headers.get(b"content-length") != b"%d" % (len(data) - end) or self.crowd.enter():
            return None
        given = headers.get(b"x-request-id", b"")
        request_id = given if _ID.fullmatch(given) else new_id().encode()
        self._tell(route, request_id.decode(), host, headers.get(b"x-forwarded-for"))
        return b"%bX-Request-ID: %b\r\nContent-Length: %d\r\n\r\n%b%b%b" % (
            self._head,
            request_id,
            self._length + len(request_id),
            self._before,
            request_id,
            self._after,
        )

    def _tell(self, route: str, request_id: str, host: str, forwarded: bytes | None) -> None:
        """Count and log it as all requests are."""
        refused = self._refused.get(route)
        if refused is None:
            refused = self._refused[route] = _Refused(self._metrics, route)
        refused.count()
        forwarded_for = () if forwarded is None else (forwarded.decode("latin-1"),)
        remote = self._state.current.proxies.caller(host, forwarded_for)
        # Neither ids nor addresses have a character that JSON escapes.
        said = f',"request_id":"{request_id}"{refused.said},"remote":"{remote}","key":null'
        if not self._untold:
            asyncio.get_running_loop().call_soon(self._write)
        self._untold.append(log.record_of(_ACCESS, "request", time.time(), request_id, said))

    def _write(self) -> None:
        untold, self._untold = self._untold, []
        log.tell(untold)


def _headers(head: bytes) -> dict[bytes, bytes] | None:
    """Return what the headers of a plain request say; None for one that is not plain, or says a thing twice."""
    found = _HEADER.findall(head)
    headers = {name.lower(): value for name, value in found}
    if len(headers) != len(found) or not headers.keys() <= _PLAIN:
        return None
    return headers if headers.get(b"connection", b"keep-alive").lower() == b"keep-alive" else None
