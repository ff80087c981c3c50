"""The floor behind `errors`: counts the requests under way, and lets no new one begin once the server is to stop.

A request keeps the runtime that it meets here, whatever is reloaded meanwhile. What is under way goes on; `/health`,
`/ready` and `/metrics` are answered to the end, so that whoever asks sees the shutdown. They are also all that is
answered on a connection for which there was no room (`hartonomous.listening`), and with `/admin` what is
answered however much there is to do (`core.overload`): most of the rest is refused before (`hartonomous.shedding`).
"""

from __future__ import annotations

from aiohttp import web

from hartonomous.errors import BackendUnavailableError, NotAskedError
from hartonomous.keys import METRICS, RUNTIME, State, Stay

_ALWAYS = frozenset(("/health", "/ready", "/metrics"))
_OPERATORS = "/admin/"


def begin(request: web.Request, state: State) -> Stay | None:
    """Let the request in, unless the server is shutting down, has too many connections, or its hands full.

    Return what it takes part in until `state.end`; None for what always goes.

    Raises:
        BackendUnavailableError: it is, or has.
    """
    if request.path in _ALWAYS:
        return None
    if state.draining:
        raise BackendUnavailableError("The server is shutting down.", code="draining", retry_after=1)
    if state.surplus and request.protocol in state.surplus:
        raise BackendUnavailableError("There are too many connections.", code="too_many_connections", retry_after=1)
    crowd = state.crowd
    if crowd.is_crowded and crowd.is_beyond(crowd.at_work) and not request.path.startswith(_OPERATORS):
        request.app[METRICS].shed.inc()
        raise overloaded()
    stay = state.begin()
    request[RUNTIME] = stay.tenure.runtime
    return stay


def overloaded() -> NotAskedError:
    """Return what is said to whom there is no time for; it is no fault of its own, of which the log would tell."""
    return NotAskedError("The server has its hands full.", code="overloaded", retry_after=1)


def end_connection(request: web.Request, response: web.StreamResponse, state: State) -> None:
    """Say with the answer that the connection closes, where another request on it would find nobody."""
    if state.stopping or (state.surplus and request.protocol in state.surplus):
        response.force_close()
        response.headers["Connection"] = "close"  # aiohttp has made up its mind about the header before
