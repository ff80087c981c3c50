"""The floors that a request falls through to its handler, and its answer comes back through, first to last.

Each floor is a module of its own and says here when its turn is. They are called by two coroutines and not a
middleware each, of which each takes 1 to 2 µs of a request that takes some 200.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial

from aiohttp import hdrs, web

from hartonomous.errors import AuthenticationError
from hartonomous.handlers.whole import Whole
from hartonomous.keys import GUARDS, METER, METRICS, NOTES, STATE, TRAIL, Guard, Handler
from hartonomous.limiting.meter import Meter
from hartonomous.middleware import access, audit, cors, drain
from hartonomous.middleware.address_limit import count_failed, enter_by_address
from hartonomous.middleware.auth import know
from hartonomous.middleware.errors import answer_to
from hartonomous.middleware.expectation import check_expectation
from hartonomous.middleware.key_limit import enter_by_key
from hartonomous.middleware.known_query import check_query
from hartonomous.middleware.limited import locate, sent
from hartonomous.middleware.request_id import identify
from hartonomous.middleware.saying import say, say_whole
from hartonomous.middleware.scope import check_scope
from hartonomous.middleware.trace import is_polled, traced


class Floors:
    """The floors of one application."""

    def __init__(self, app: web.Application) -> None:
        self._state, self._trail, self._guards = app[STATE], app[TRAIL], app[GUARDS]
        self._records = access.Records(app[METRICS])

    @web.middleware
    def enter(self, request: web.Request, handler: Handler) -> Awaitable[web.StreamResponse]:
        """Answer a request: it has its id and its trace before anything else."""
        identify(request)
        runtime = self._state.current
        locate(request, runtime.proxies)
        if (tracer := runtime.tracer) is None or is_polled(request):
            return self._answered(request, handler)
        return traced(request, tracer, partial(self._answered, handler=handler))

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What tells of each request, whatever becomes of it, first the audit trail and then the log; answers errors.

        It counts who is under way, and answers preflights, which carry no key.
        """
        self._records.begin(request)
        request[NOTES] = {}
        guard = self._guards.get(handler)
        stay, status = None, access.CLIENT_LEFT
        try:
            try:
                stay = drain.begin(request, self._state)
                response = await cors.preflight(request) if request.method == "OPTIONS" else None
                if response is None:
                    response = await self._limited(request, guard, handler)
            except Exception as error:
                if request.writer.output_size:
                    raise
                response = answer_to(request, error)
            if request.transport is not None:
                status = response.status
            return response
        finally:
            try:
                if stay is not None:
                    self._state.end(stay)
                audit.tell_of(request, status, guard, self._trail)
            finally:
                self._records.end(request, status)

    async def _limited(self, request: web.Request, guard: Guard | None, handler: Handler) -> web.StreamResponse:
        """Who is let in: limits by address come before the key is looked at, those by key before its scopes.

        What is limited is given back when the answer has been sent, or will not be.
        """
        by_address = by_key = None
        limiter = self._state.current.limiter
        try:
            if (entering := enter_by_address(request, limiter)) is not None:
                by_address = entering if isinstance(entering, Meter) else await entering
            caller = know(request, self._state, guard)
            if (entering := enter_by_key(request, self._state.current.limiter, caller)) is not None:
                by_key = request[METER] = entering if isinstance(entering, Meter) else await entering
            check_scope(caller, guard)
            check_query(request, guard)
            if hdrs.EXPECT in request.headers:
                check_expectation(request)
            response = await handler(request)
            if isinstance(response, Whole):
                say_whole(request, response, self._state, by_key)
            if (by_key is not None and by_key.place) or (by_address is not None and by_address.place):
                await sent(request, response)
        except AuthenticationError:
            await count_failed(request, limiter)
            raise
        else:
            return response
        finally:
            if by_key is not None:
                by_key.close()
            if by_address is not None:
                by_address.close()

    async def close(self, _: web.Application) -> None:
        """Tell of what has ended just now."""
        self._records.write()

    async def prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        """Say in an answer's headers what they say of every answer: the one handler for `on_response_prepare`."""
        await say(request, response, self._state)
