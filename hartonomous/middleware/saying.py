"""What every answer says in its headers: its request's id, what is left of a limit, whether the connection closes."""

from __future__ import annotations

from aiohttp import hdrs, web

from hartonomous.handlers.whole import Whole
from hartonomous.keys import REQUEST_ID, State
from hartonomous.limiting.meter import Meter
from hartonomous.limiting.policy import LIMIT
from hartonomous.middleware import cors, drain
from hartonomous.middleware.expectation import end_uninvited
from hartonomous.middleware.limited import add_limits
from hartonomous.middleware.request_id import ANSWERED, HEADER, add_request_id


async def say(request: web.Request, response: web.StreamResponse, state: State) -> None:
    """Say it of an answer that aiohttp prepares."""
    add_request_id(request, response)
    drain.end_connection(request, response, state)
    add_limits(request, response)
    end_uninvited(request, response)
    if state.current.config.server.cors.origins:
        await cors.add_allowed(request, response)


def say_whole(request: web.Request, response: Whole, state: State, meter: Meter | None) -> None:
    """Say it of an answer that is there as a whole, where nothing of it is in the way: it needs no `say` then."""
    if state.stopping or state.surplus:
        drain.end_connection(request, response, state)
    if hdrs.EXPECT in request.headers:
        end_uninvited(request, response)
    headers = response.headers
    if not (LIMIT in headers or ANSWERED in headers or state.current.config.server.cors.origins):
        limits = "" if meter is None else meter.lines
        response.said = f"{HEADER}: {request[REQUEST_ID]}\r\n{limits}"
