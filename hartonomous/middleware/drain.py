"""The floor behind `errors`: counts the requests under way, and lets no new one begin once the server is to stop.

A request keeps the runtime that it meets here, whatever is reloaded meanwhile. What is under way goes on; `/health`,
`/ready` and `/metrics` are answered to the end, so that whoever asks sees the shutdown. They are also all that is
answered on a connection for which there was no room (`hartonomous.listening`).
"""

from __future__ import annotations

from aiohttp import web

from hartonomous.errors import BackendUnavailableError
from hartonomous.keys import RUNTIME, State, Tenure

_ALWAYS = frozenset(("/health", "/ready", "/metrics"))


def begin(request: web.Request, state: State) -> Tenure | None:
    """Let the request in, unless the server is shutting down or has too many connections.

    Return what it takes part in until `state.end`; None for what always goes.

    Raises:
        BackendUnavailableError: it is, or has.
    """
    if request.path in _ALWAYS:
        return None
    if state.draining:
        raise BackendUnavailableError("The server is shutting down.", code="draining", retry_after=1)
    if request.protocol in state.surplus:
        raise BackendUnavailableError("There are too many connections.", code="too_many_connections", retry_after=1)
    tenure = state.begin()
    request[RUNTIME] = tenure.runtime
    return tenure


def end_connection(request: web.Request, response: web.StreamResponse, state: State) -> None:
    """Say with the answer that the connection closes, where another request on it would find nobody."""
    if state.stopping or request.protocol in state.surplus:
        response.force_close()
        response.headers["Connection"] = "close"  # aiohttp has made up its mind about the header before
