"""When requests begin: together where many are under way, but a few at a time while answers are streamed.

What costs most of a step is to fetch its code and data into the processor's caches. Requests that begin together do
their steps together, each for a fraction of what it costs alone: questions that come one by one take a tenth to a fifth
more of the processor. So where some are under way already, one begins and opens a gathering, the next ones wait for its
end, and begin together. It takes a few rounds of the event loop, in which what is under way goes on: on an idle loop
some 50 µs, on a busy one as long as it has other things to do anyway, and `GATHERED_S` at most.

What a stream's events cost is done in the round of the event loop in which they come, and a round takes as long as all
that is to do in it: two hundred requests that begin in one are 50 ms in which no token goes on. So while there are
streams few begin in a round, and the others in the next ones, in the order in which they came; a request's later steps
follow as thinly. That delays nobody's end, as all the work is the same. Who has waited for `MOST_S` begins in any case,
so that rounds grow long where there is too much to do, as `core.overload` has to see.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque

AT_ONCE = 4
"""So many begin in a round while there are streams."""
MOST_S = 0.25

FEW = 4
"""While fewer are under way, and none streams, nobody waits."""
GATHERED_S = 0.1
# As many as a question has steps: those of one gathering are done with when the next one ends.
_ROUNDS = 8


class Turns:
    """Whose turn it is. For one event loop."""

    __slots__ = ("_begun", "_rounds", "_waiting", "streams")

    def __init__(self) -> None:
        self.streams = 0
        """How many answers are streamed, or will be."""
        # Where it is not 0, `_next_round` comes.
        self._begun = 0
        self._rounds = 0
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()

    def take(self, under_way: int) -> asyncio.Future[None] | None:
        """Return what is done when the next request may begin; None where it may at once.

        `under_way` says how many are.
        """
        if not self.streams and under_way < FEW:
            return None
        loop = asyncio.get_running_loop()
        if not self._begun:
            self._rounds = 0
            loop.call_soon(self._next_round, loop)
        if self._begun < (AT_ONCE if self.streams else 1):
            self._begun += 1
            return None
        turn = loop.create_future()
        self._waiting.append((loop.time(), turn))
        return turn

    def _next_round(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.streams or self._is_gathered(loop.time()):
            self._begun, self._rounds = self._let_begin(AT_ONCE if self.streams else math.inf, loop.time() - MOST_S), 0
        if self._begun:
            loop.call_soon(self._next_round, loop)

    def _is_gathered(self, now: float) -> bool:
        """Whether it is time for those who wait to begin together."""
        self._rounds += 1
        return self._rounds >= _ROUNDS or (bool(self._waiting) and self._waiting[0][0] <= now - GATHERED_S)

    def _let_begin(self, most: float, by: float) -> int:
        """Let so many begin, and whoever has waited since `by`; return how many do."""
        begun = 0
        while self._waiting and (begun < most or self._waiting[0][0] <= by):
            _, turn = self._waiting.popleft()
            if not turn.done():  # who has left meanwhile is not waited for
                turn.set_result(None)
                begun += 1
        return begun
