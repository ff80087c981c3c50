"""What was used of limits, counted in Redis for all processes that share them.

All limits of a request are decided by one script, in one round trip, so that they are exact whoever asks. A request
under way has a place that is its own for `LIFE_S` and renewed as long as it lasts: a process that died holds none.

While Redis is away each process counts alone, with its share of every limit, and nobody waits for Redis: it is asked
again in the background, less and less often. When it takes what is written again it is told the places of those that
are still under way, and those that it may hold and nobody does any more: that ends it. A Redis that forgot the places
unnoticed, as it was started anew, is told them when they are to be renewed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from itertools import count
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from hartonomous.cache.redis_pool import CONNECTIONS, redis_pool
from hartonomous.clienttls import Trust
from hartonomous.config import Redis as RedisConfig
from hartonomous.core.ratelimit import TOLERANCE
from hartonomous.limiting.memory import MemoryStore
from hartonomous.limiting.policy import Asked, Cost, Entry, Kind, Refusal
from hartonomous.limiting.scripts import ENTER, FORGET, RENEW, SETTLE
from hartonomous.log import logger
from hartonomous.metrics import Metrics

LIFE_S = 30.0
PAUSE_S, MAX_PAUSE_S = 1.0, 8.0
_AT_ONCE = 500
# What renews places and what finds Redis again have a connection each, whoever else waits.
_TURNS = CONNECTIONS - 2
_PROBE = "hartonomous:limits:probe"


class AwayError(Exception):
    """Redis does not answer."""


class SharedStore:
    """Counts in Redis, or alone while it is away."""

    def __init__(
        self, config: RedisConfig, processes: int, metrics: Metrics, trust: Trust | None = None, life_s: float = LIFE_S
    ) -> None:
        self._redis = Redis(connection_pool=redis_pool(config, trust))
        self._enter, self._settle, self._renew, self._forget = (
            self._redis.register_script(text) for text in (ENTER, SETTLE, RENEW, FORGET)
        )
        self._turns = asyncio.Semaphore(_TURNS)
        self._timeout_s = config.timeout_s
        self._processes = processes
        self._life_s = life_s
        self._metrics = metrics
        # Counts alone while Redis is away, and always knows how many requests are under way here.
        self._own = MemoryStore()
        self._places: dict[str, str] = {}
        # Places that nobody here holds and Redis may: what was said of them may not have reached it. Nobody asks while
        # it is away, so they are no more than were held or asked for when it went.
        self._owed: dict[str, str] = {}
        self._names = (f"{os.urandom(6).hex()}-{number}" for number in count())
        self._tasks: set[asyncio.Task[Any]] = set()
        self._renewing: asyncio.Task[None] | None = None
        self._finding: asyncio.Task[None] | None = None
        self._pause_s = PAUSE_S
        self._is_closed = False

    @property
    def is_away(self) -> bool:
        """Whether this process counts alone."""
        return self._is_closed or self._finding is not None

    def show(self) -> None:
        """Let the metrics show whether this one counts alone."""
        self._metrics.limits_alone.set(self._finding is not None)

    async def enter(self, name: str, asked: Asked) -> Entry | Refusal:
        """Let a request in, or say what it has reached; one that is refused uses nothing."""
        if self.is_away:
            return await self._enter_alone(name, asked)
        place = None if asked.concurrent is None else next(self._names)
        asking = self._background(self._enter_shared(name, asked, place))
        try:
            return await asyncio.shield(asking)
        except AwayError:
            return await self._enter_alone(name, asked)
        except asyncio.CancelledError:
            asking.add_done_callback(lambda done: self._give_back(name, done))
            raise

    async def take(self, name: str, cost: Cost) -> Refusal | None:
        """Use something, or say what is reached."""
        refused = await self.enter(name, Asked(None, (cost,)))
        return refused if isinstance(refused, Refusal) else None

    def settle(self, name: str, place: str | None, costs: Sequence[Cost] = ()) -> None:
        """Give the place back, and use what is known only now: more than is left, or less than was taken before."""
        there = None
        if place is not None:
            self._own.settle(name, place)
            there = None if self._places.pop(place, None) is None else place
        if self.is_away:
            self._settle_alone(name, costs)
            if there is not None:
                self._owed[there] = name
        elif there is not None or costs:
            self._background(self._settle_shared(name, there, costs))

    async def close(self) -> None:
        """Let what is being settled come to its end, and close the connections."""
        self._is_closed = True
        for task in (self._renewing, self._finding):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        if self._finding is None:
            with suppress(AwayError):
                await self._pay()
        await self._redis.aclose(close_connection_pool=True)

    async def _enter_shared(self, name: str, asked: Asked, place: str | None) -> Entry | Refusal:
        arguments: list[str | float] = [asked.concurrent or 0, place or "", int(self._life_s * 1000)]
        for kind, rate, cost in asked.costs:
            arguments += [kind.name, repr(rate.per_s / 1e6), repr(rate.burst), repr(cost), repr(TOLERANCE)]
        try:
            refused, held, *levels = await self._ask(self._enter, _keys(name), arguments)
        except AwayError:
            if place is not None:
                self._owed[place] = name
            raise
        self._pause_s = PAUSE_S
        if refused:
            return asked.refusal(refused - 1, float(levels[0]))
        if place is not None:
            self._own.hold(name)
            self._places[place] = name
            self._keep_renewing()
        return Entry(asked, [float(level) for level in levels], held, place)

    async def _settle_shared(self, name: str, place: str | None, costs: Sequence[Cost]) -> None:
        arguments: list[str | float] = [place or ""]
        for kind, rate, cost in costs:
            arguments += [kind.name, repr(rate.per_s / 1e6), repr(cost)]
        try:
            await self._ask(self._settle, _keys(name), arguments)
        except AwayError:
            self._settle_alone(name, costs)
            if place is not None:
                self._owed[place] = name

    async def _enter_alone(self, name: str, asked: Asked) -> Entry | Refusal:
        concurrent = None if asked.concurrent is None else max(1, asked.concurrent // self._processes)
        return await self._own.enter(name, Asked(concurrent, self._shares(asked.costs)))

    def _settle_alone(self, name: str, costs: Sequence[Cost]) -> None:
        if costs:
            self._own.settle(name, None, self._shares(costs))

    def _shares(self, costs: Sequence[Cost]) -> list[Cost]:
        return [(kind, rate.share(self._processes), cost) for kind, rate, cost in costs]

    def _give_back(self, name: str, asking: asyncio.Task[Entry | Refusal]) -> None:
        """Settle for a caller who left before it was known that it was let in."""
        if asking.cancelled() or asking.exception() is not None:
            return
        entry = asking.result()
        if isinstance(entry, Entry):
            unread = [(kind, rate, -cost) for kind, rate, cost in entry.asked.costs if kind is Kind.BYTES and cost]
            self.settle(name, entry.place, unread)

    async def _ask(self, script: Any, keys: Sequence[str], arguments: Sequence[str | float]) -> Any:
        """Run a script when it is its turn: waiting for that says nothing about Redis."""
        async with self._turns:
            if self._finding is not None:
                raise AwayError
            return await self._answer(script(keys, arguments))

    async def _answer(self, answering: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await answering
        except (RedisError, OSError, TimeoutError) as error:
            self._lost(error)
            raise AwayError from error
        self._metrics.redis_up.set(1)
        return answer

    def _lost(self, error: Exception) -> None:
        if not self.is_away:
            logger.bind(error=type(error).__name__).warning(
                "redis is away: each process counts its share of the limits"
            )
            self._metrics.redis_up.set(0)
            self._finding = asyncio.create_task(self._find(), context=Context())
            self.show()

    async def _find(self) -> None:
        """Ask Redis until it takes what is written, and tell it who is under way and who no longer is."""
        while not await self._is_found():
            pass
        self._finding = None
        self.show()
        logger.info("redis is back: all processes count the limits together")

    async def _is_found(self) -> bool:
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)
        try:
            await self._answer(self._redis.set(_PROBE, 1, px=1_000))
            await self._renew_places()
            while self._owed:
                await self._pay()
        except AwayError:
            return False
        except Exception:  # noqa: BLE001  # whatever it is, who ends here would count alone for ever
            logger.exception("redis is not found again")
            return False
        return True

    def _keep_renewing(self) -> None:
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew_always(), context=Context())

    async def _renew_always(self) -> None:
        """Renew the places as long as there are any."""
        while self._places:
            await asyncio.sleep(self._life_s / 3)
            if not self.is_away:
                try:
                    await self._renew_places()
                except AwayError:
                    continue
                except Exception:  # noqa: BLE001  # or the places would be lost after a while
                    logger.exception("places are not renewed")

    async def _renew_places(self) -> None:
        """Renew the places that are there, and take again those that Redis has lost."""
        for some in _batches(self._places):
            missed = await self._answer(self._renew(*self._renewal(some, "XX")))
            names = list(some.items())
            if lost := dict(names[index - 1] for index in missed if names[index - 1][0] in self._places):
                await self._take_again(lost)

    async def _take_again(self, lost: Mapping[str, str]) -> None:
        try:
            await self._answer(self._renew(*self._renewal(lost, "")))
        finally:  # one that was given back meanwhile may have come back after that
            self._owed.update({place: name for place, name in lost.items() if place not in self._places})
        await self._pay()

    def _renewal(self, places: Mapping[str, str], which: str) -> tuple[list[str], list[str | int]]:
        return [_keys(name)[1] for name in places.values()], [int(self._life_s * 1000), which, *places]

    async def _pay(self) -> None:
        """Let Redis forget the places that nobody holds any more."""
        for some in _batches(self._owed):
            await self._answer(self._forget([_keys(name)[1] for name in some.values()], list(some)))
            for place in some:
                self._owed.pop(place, None)

    def _background(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _keys(name: str) -> list[str]:
    return [f"hartonomous:limits:{{{name}}}", f"hartonomous:limits:{{{name}}}:places"]


def _batches(places: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield what is there now, in parts that Redis does without keeping others waiting."""
    items = list(places.items())
    for start in range(0, len(items), _AT_ONCE):
        yield dict(items[start : start + _AT_ONCE])
