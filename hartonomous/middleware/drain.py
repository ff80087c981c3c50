"""The floor behind `errors`: counts the requests under way, and lets no new one begin once the server is to stop.

What is under way goes on; `/health`, `/ready` and `/metrics` are answered to the end, so that whoever asks sees the
shutdown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from hartonomous.errors import BackendUnavailableError
from hartonomous.keys import STATE

_ALWAYS = frozenset(("/health", "/ready", "/metrics"))


@web.middleware
async def drain(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Let the request in, unless the server is shutting down.

    Raises:
        BackendUnavailableError: it is.
    """
    if request.path in _ALWAYS:
        return await handler(request)
    state = request.app[STATE]
    if state.draining:
        raise BackendUnavailableError(
            "The server is shutting down.", code="draining", retry_after=1, headers={"Connection": "close"}
        )
    with state.working():
        return await handler(request)
