"""Requests begin a few at a time while answers are streamed: a token does not wait for a crowd that comes at once.

What a stream's events cost is done in the round of the event loop in which they come, and a round takes as long as all
that is to do in it: two hundred requests that begin in one are 50 ms in which no token goes on. So while there are
streams few begin in a round, and the others in the next ones, in the order in which they came; a request's later steps
follow as thinly. That delays nobody's end, as all the work is the same. Without streams nothing is counted, because
more rounds cost more (a tenth of a request). Who has waited for `MOST_S` begins in any case, so that rounds grow long
where there is too much to do, as `core.overload` has to see.
"""

from __future__ import annotations

import asyncio
from collections import deque

AT_ONCE = 4
"""So many begin in a round."""
MOST_S = 0.25


class Turns:
    """Whose turn it is. For one event loop."""

    __slots__ = ("_begun", "_waiting", "streams")

    def __init__(self) -> None:
        self.streams = 0
        """How many answers are streamed, or will be."""
        # Where it is not 0, `_next_round` comes.
        self._begun = 0
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()

    def take(self) -> asyncio.Future[None] | None:
        """Return what is done when the next request may begin; None, as a rule, where it may at once."""
        if not self.streams:
            return None
        loop = asyncio.get_running_loop()
        if not self._begun:
            loop.call_soon(self._next_round, loop)
        if self._begun < AT_ONCE:
            self._begun += 1
            return None
        turn = loop.create_future()
        self._waiting.append((loop.time(), turn))
        return turn

    def _next_round(self, loop: asyncio.AbstractEventLoop) -> None:
        begun, by = 0, loop.time() - MOST_S
        while self._waiting and (begun < AT_ONCE or self._waiting[0][0] <= by):
            _, turn = self._waiting.popleft()
            if not turn.done():  # who has left meanwhile is not waited for
                turn.set_result(None)
                begun += 1
        self._begun = begun
        if begun:
            loop.call_soon(self._next_round, loop)
