"""The floor behind `errors`: counts the requests under way, and lets no new one begin once the server is to stop.

A request keeps the runtime that it meets here, whatever is reloaded meanwhile. What is under way goes on; `/health`,
`/ready` and `/metrics` are answered to the end, so that whoever asks sees the shutdown. They are also all that is
answered on a connection for which there was no room (`hartonomous.listening`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from hartonomous.errors import BackendUnavailableError
from hartonomous.keys import RUNTIME, STATE

_ALWAYS = frozenset(("/health", "/ready", "/metrics"))


@web.middleware
async def drain(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Let the request in, unless the server is shutting down or has too many connections.

    Raises:
        BackendUnavailableError: it is, or has.
    """
    if request.path in _ALWAYS:
        return await handler(request)
    state = request.app[STATE]
    if state.draining:
        raise BackendUnavailableError("The server is shutting down.", code="draining", retry_after=1)
    if request.protocol in state.surplus:
        raise BackendUnavailableError("There are too many connections.", code="too_many_connections", retry_after=1)
    with state.working() as request[RUNTIME]:
        return await handler(request)


async def end_connection(request: web.Request, response: web.StreamResponse) -> None:
    """Say with the answer that the connection closes, where another request on it would find nobody."""
    state = request.app[STATE]
    if state.stopping or request.protocol in state.surplus:
        response.force_close()
        response.headers["Connection"] = "close"  # aiohttp has made up its mind about the header before
