"""Single questions of many callers in one call: one is under way, one group gathers.

Alone, a question is asked at once. What comes while a call is under way goes together, as soon as that one has ended,
the group is full, or its first question has waited for `_MOST_WAIT_S`: an address that hangs holds nobody up for
longer. Then it waits for a few rounds of the event loop. On an idle loop those are over at once; on a busy one, whose
rounds are long, more questions come meanwhile, and what goes on together from here costs a tenth less than what comes
one by one: the processor fetches a stage's code and data once for all of them.

Each question boards its group's flight (`cache.flights`): whoever leaves leaves the others alone, and nobody waits
beyond their own deadline. Where a group fails as a whole each of its questions is asked once by itself, so that one
that breaks the service harms nobody else. Where all of them are answered then, the service takes but one text in a
call, as simple ones do: nothing goes together for a while. (Not where it was not available for a moment, or where the
questions were so long that all of them may have been too much: a few callers' must not part everybody's.) While it is
not known whether it takes several, one group is under way at a time: all groups of a crowd that comes first would fail,
which opens its circuit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial

from hartonomous import tracing
from hartonomous.cache.flights import Flight, Flights
from hartonomous.clients.embedding import Vector
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.errors import BackendError, HartonomousError, NotAskedError
from hartonomous.log import logger

Outcome = Vector | HartonomousError
Embed = Callable[[Mapping[str, str], Call], Awaitable[Mapping[str, Outcome]]]
"""Embeds texts, each under a key: a vector or an error for each."""

_MOST_WAIT_S = 0.01
# As many as a question has stages: those that are on their way are answered, and their callers may ask the next one.
_MORE_ROUNDS = 4
# How long a service that answered each of a group but not the group is asked for one text at a time.
_APART_S = 600.0
# How many characters a group has at most that tells so: a larger one may be too much for one that takes several.
_TELLING = 16_384
# How long a group waits for the one that shows whether the service takes several texts: one that hangs shows nothing.
_TRIAL_S = 1.0


class Groups:
    """The groups of questions, by kind: only questions of one kind go together.

    What is made for many callers has `limit_s` seconds, whatever each of them has left.
    """

    def __init__(self, flights: Flights[Mapping[str, Outcome]], limit_s: float) -> None:
        self._flights = flights
        self._limit_s = limit_s
        self._lanes: dict[Hashable, _Lane] = {}  # kinds are few: they come with models

    def board(
        self, kind: Hashable, key: str, text: str, most: int, embed: Embed, call: Call
    ) -> Flight[Mapping[str, Outcome]]:
        """Return the flight of the group that a question goes with, of at most `most`.

        The caller must become its passenger without waiting for anything before.
        """
        lane = self._lanes.get(kind) or self._lanes.setdefault(kind, _Lane())
        group = lane.gathering
        if group is None or group.flight.is_over:
            group = lane.gathering = _Group()
            group.flight = self._flights.start_once([key], partial(self._ask, lane, group, embed), call.span)
        else:
            self._flights.join(group.flight, key)
        group.texts[key] = text
        group.calls.append(call)
        if len(group.texts) >= most or lane.is_apart:
            lane.gathering = None
            group.leave()
        return group.flight

    async def _ask(self, lane: _Lane, group: _Group, embed: Embed) -> Mapping[str, Outcome]:
        try:
            if lane.under_way and not lane.is_apart:
                await group.gather()
        finally:
            if lane.gathering is group:
                lane.gathering = None
        lane.under_way += 1
        try:
            return await lane.embedded(group.texts, embed, self._joint(group.calls))
        finally:
            lane.under_way -= 1
            if lane.gathering is not None:
                lane.gathering.leave()

    def _joint(self, calls: Sequence[Call]) -> Call:
        """Return the call of a group: it is wanted as long as anybody wants it."""
        if len(calls) == 1:
            return calls[0].for_all(self._limit_s)
        wanted = max([call.deadline for call in calls], key=lambda deadline: deadline.remaining)
        return tracing.joint(calls).within(Deadline(self._limit_s), wanted)


class _Lane:
    """What gathers of one kind, and how many groups of it are under way."""

    __slots__ = ("_apart_until", "_takes_several", "_trial", "gathering", "under_way")

    def __init__(self) -> None:
        self.gathering: _Group | None = None
        self.under_way = 0
        self._apart_until = 0.0
        self._takes_several = False
        self._trial = asyncio.Lock()

    @property
    def is_apart(self) -> bool:
        """Whether the service takes one text in a call, by all that is known."""
        return self._apart_until > 0.0 and time.monotonic() < self._apart_until

    @property
    def _is_known(self) -> bool:
        """Whether it is known if the service takes several texts in a call."""
        return self._takes_several or self.is_apart

    async def embedded(self, texts: Mapping[str, str], embed: Embed, call: Call) -> Mapping[str, Outcome]:
        """Embed the texts of a group; the first one that has several shows whether the service takes them."""
        if len(texts) == 1:
            return await embed(texts, call)
        if self._takes_several:
            return await self._together(texts, embed, call)
        async with AsyncExitStack() as stack:
            with suppress(TimeoutError):
                async with asyncio.timeout(_TRIAL_S):
                    await stack.enter_async_context(self._trial)
            if self._is_known:
                await stack.aclose()  # nor need those wait who are behind this one
            return await (_each if self.is_apart else self._together)(texts, embed, call)

    async def _together(self, texts: Mapping[str, str], embed: Embed, call: Call) -> Mapping[str, Outcome]:
        """Embed texts in one call, or each of them alone where that failed as a whole."""
        outcomes = await embed(texts, call)
        if not all(_is_worth_asking(outcome) for outcome in outcomes.values()):
            self._takes_several = self._takes_several or not all(map(_is_error, outcomes.values()))
            return outcomes
        found = await _each(texts, embed, call)
        is_telling = sum(map(len, texts.values())) <= _TELLING and not any(map(_is_error, found.values()))
        if is_telling and all(isinstance(outcome, BackendError) for outcome in outcomes.values()):
            self._apart_until, self._takes_several = time.monotonic() + _APART_S, False
            logger.bind(texts=len(texts)).warning("the embedding service answers texts one by one, and not together")
        return found


class _Group:
    """Questions that go together."""

    flight: Flight[Mapping[str, Outcome]]

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.calls: list[Call] = []
        self._left = asyncio.get_running_loop().create_future()

    async def gather(self) -> None:
        """Wait until it is time to go."""
        timer = asyncio.get_running_loop().call_later(_MOST_WAIT_S, self.leave)
        try:
            await self._left
        finally:
            timer.cancel()
        for _ in range(_MORE_ROUNDS):
            await asyncio.sleep(0)

    def leave(self) -> None:
        """Let the group go."""
        if not self._left.done():
            self._left.set_result(None)


async def _each(texts: Mapping[str, str], embed: Embed, call: Call) -> Mapping[str, Outcome]:
    """Embed each text by itself."""
    alone = await asyncio.gather(*(embed({key: text}, call) for key, text in texts.items()))
    return {key: outcome for each in alone for key, outcome in each.items()}


def _is_error(outcome: Outcome) -> bool:
    return isinstance(outcome, HartonomousError)


def _is_worth_asking(outcome: Outcome) -> bool:
    return _is_error(outcome) and not isinstance(outcome, NotAskedError)
