"""What RAG handlers share: timings, headers, and the runtime of a request."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import hdrs, web

from hartonomous import codec
from hartonomous.core.timings import milliseconds
from hartonomous.errors import HartonomousError
from hartonomous.handlers.whole import Whole
from hartonomous.keys import RUNTIME, Runtime

DEGRADED_HEADER = "X-Hartonomous-Degraded"


def runtime_of(request: web.Request) -> Runtime:
    """Return the runtime that serves this request from its beginning to its end."""
    return request[RUNTIME]


class Timer:
    """Measures a request in milliseconds."""

    __slots__ = ("_started",)

    def __init__(self) -> None:
        self._started = time.perf_counter()

    @property
    def ms(self) -> float:
        """Milliseconds since the start."""
        return milliseconds(time.perf_counter() - self._started)


def cost_headers(timings: Mapping[str, float], degraded: Sequence[str]) -> dict[str, str]:
    """Return `Server-Timing`, and the header of degraded answers where stages were left out."""
    headers = {"Server-Timing": ", ".join([f"{stage};dur={ms}" for stage, ms in timings.items()])}
    if degraded:
        headers[DEGRADED_HEADER] = ",".join(degraded)
    return headers


def retry_headers(error: HartonomousError) -> dict[str, str]:
    """Return `Retry-After` where the error says when to come again."""
    return {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}


def json_response(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a JSON response."""
    said = {} if headers is None else headers
    return Whole(codec.dumps(body), status=status, headers={**said, hdrs.CONTENT_TYPE: codec.JSON})
