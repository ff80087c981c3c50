"""Many callers' items in one call: what comes while a call is under way goes together into the next one.

Alone, an item is worked on at once; under load groups grow by themselves to what the call's duration lets pile up. A
failure of a group is every caller's, each with an error of its own; where it may be one item's fault (`blames`) the
group is halved until the culprit stands alone.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from hartonomous import log, tracing
from hartonomous.core.call import Call
from hartonomous.errors import DeadlineExceededError, HartonomousError
from hartonomous.pipelines.jobs import Jobs

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    call: Call
    weight: int
    answer: asyncio.Future[Result]


@dataclass(slots=True)
class _Lane(Generic[Item, Result]):
    """What waits under one key, and how many groups of it are under way."""

    waiting: deque[_Waiting[Item, Result]]
    running: int = 0


class Grouper(Generic[Key, Item, Result]):
    """Calls `work(key, items, call)` with up to `most` of weight at a time, for each key by itself.

    `work` answers a result for each item, in order. `concurrency` groups of a key are worked on side by side. A group
    that has begun is finished, whoever leaves: `jobs` waits for it at a shutdown.
    """

    def __init__(
        self,
        work: Callable[[Key, list[Item], Call], Awaitable[Sequence[Result]]],
        jobs: Jobs,
        *,
        most: int,
        concurrency: int = 1,
        blames: tuple[type[HartonomousError], ...] = (),
    ) -> None:
        if most < 1 or concurrency < 1:
            raise ValueError(f"groups of {most!r}, {concurrency!r} at a time, get nothing done")
        self._work = work
        self._jobs = jobs
        self._most = most
        self._concurrency = concurrency
        self._blames = blames
        self._lanes: dict[Key, _Lane[Item, Result]] = {}

    async def do(self, key: Key, item: Item, call: Call, weight: int = 1) -> Result:
        """Return the result of one item; raises what `work` raises, and DeadlineExceededError.

        Cancelled or too late, an item that waits is left out.
        """
        lane = self._lanes.setdefault(key, _Lane(deque()))
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        lane.waiting.append(_Waiting(item, call, weight, answer))
        if lane.running < self._concurrency:
            lane.running += 1
            self._jobs.start(self._run(key, lane))
        try:
            async with asyncio.timeout(call.deadline.remaining):
                return await answer
        except TimeoutError as error:
            raise DeadlineExceededError("The deadline passed while others' documents were worked on too.") from error

    async def _run(self, key: Key, lane: _Lane[Item, Result]) -> None:
        """Work on groups until nothing waits."""
        try:
            while group := self._next(lane):
                await self._settle(key, group)
        finally:
            lane.running -= 1
            if not lane.running and not lane.waiting:
                self._lanes.pop(key, None)

    def _next(self, lane: _Lane[Item, Result]) -> list[_Waiting[Item, Result]]:
        group: list[_Waiting[Item, Result]] = []
        weight = 0
        while lane.waiting and (not group or weight + lane.waiting[0].weight <= self._most):
            one = lane.waiting.popleft()
            if not one.answer.done():
                group.append(one)
                weight += one.weight
        return group

    async def _settle(self, key: Key, group: list[_Waiting[Item, Result]]) -> None:
        """Give everybody in the group a result or an error; raises nothing but a cancellation."""
        call = joint([one.call for one in group])
        log.only_about(call)
        try:
            results = await self._work(key, [one.item for one in group], call)
        except self._blames as error:
            if len(group) == 1:
                _fail(group, error)
                return
            middle = len(group) // 2
            await self._settle(key, group[:middle])
            await self._settle(key, group[middle:])
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            _fail(group, error)
        except asyncio.CancelledError:
            for one in group:
                one.answer.cancel()  # nobody waits for ever for work that has ended
            raise
        else:
            for one, result in zip(group, results, strict=True):
                if not one.answer.done():
                    one.answer.set_result(result)


def _fail(group: Sequence[_Waiting[Item, Result]], error: Exception) -> None:
    for one in group:
        if not one.answer.done():
            one.answer.set_exception(own(error))


def own(error: Exception) -> Exception:
    """Return a copy of an error for one of several callers: each puts the path of its own field into it."""
    return copy.copy(error) if isinstance(error, HartonomousError) else error


def joint(calls: Sequence[Call]) -> Call:
    """Return the call under which a backend is asked for several callers: the first one's, with the longest time.

    It is recorded as that one's work, with links to the others'.
    """
    longest = max(calls, key=lambda call: call.deadline.remaining)
    first = tracing.joint(calls)
    return first if longest is calls[0] else first.within(longest.deadline, first.wanted)
