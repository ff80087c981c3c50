"""What several processes share through Redis: whole answers, and the generations that make old ones unreachable.

Redis may go away at any time and come back as it was some time before. While it is away answers are neither read nor
kept and requests go on: it is asked again every second, and nobody waits for it. Whoever finds it back after a failure
first of all writes a new epoch, which is part of every key, so that nothing of before is found again: neither what was
kept when a stamp could not be written nor what an old snapshot brought back.

What remains: while one process cannot reach Redis and others can, these give answers from before what that one changed,
for at most their time (`ttl_s`); so they do when it ends before Redis is back, or when Redis itself fails over to a
replica that lacks the last stamps without a connection being lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from aiocache.backends.redis import RedisCache
from aiocache.serializers import NullSerializer
from redis.exceptions import OutOfMemoryError, RedisError

from hartonomous.cache.generations import fresh
from hartonomous.cache.redis_pool import redis_pool
from hartonomous.clienttls import Trust
from hartonomous.config import Redis
from hartonomous.log import logger
from hartonomous.metrics import Metrics

Result = TypeVar("Result")

_NAMESPACE = "hartonomous"
_EPOCH = "epoch"
_PAUSE_S = 1.0


class AwayError(Exception):
    """Redis does not answer, or did not a moment ago."""


class SharedCache:
    """The connections to Redis: aiocache's RedisCache, with bounded waiting and a memory of failures.

    With `is_late` there have been changes that were not told here: nothing of before is found again.
    """

    def __init__(
        self,
        config: Redis,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        trust: Trust | None = None,
        *,
        is_late: bool = False,
    ) -> None:
        self._timeout_s = config.timeout_s
        self._up = metrics.redis_up
        self._clock = clock
        self._cache = _connect(config, trust)
        self._away_until: float | None = None
        # Failures so far, and how many of them were followed by a new epoch.
        self._owed = self._paid = 0
        self._paying: asyncio.Task[None] | None = None
        if is_late:
            self._owe()

    async def get(self, key: str) -> tuple[bytes, float] | None:
        """Return a value and the seconds that it has left; None when there is none, or Redis is away."""

        async def ask() -> tuple[bytes | None, int]:
            async with self._cache.client.pipeline(transaction=False) as both:
                name = self._cache.build_key(key, _NAMESPACE)
                value, left_ms = await both.get(name).pttl(name).execute()
                return value, left_ms

        try:
            value, left_ms = await self._ask(ask)
        except AwayError:
            return None
        return None if value is None else (value, left_ms / 1000)

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value for a time, if Redis is there and has room."""

        async def ask() -> None:
            try:
                await self._cache.set(key, value, ttl=float(ttl_s))
            except OutOfMemoryError:
                return

        try:
            await self._ask(ask)
        except AwayError:
            return

    async def current(self, collection: str) -> str | None:
        """Return the epoch and the collection's stamp; None while Redis is away."""

        async def ask() -> str:
            names = [_EPOCH, _stamp_key(collection)]
            found = await self._cache.multi_get(names)
            stamps = [stamp or await self._made(name) for name, stamp in zip(names, found, strict=True)]
            return b".".join(stamps).decode("ascii", "replace")

        try:
            return await self._ask(ask)
        except AwayError:
            return None

    async def advance(self, collection: str) -> None:
        """Give a collection that was changed a new stamp, or owe it until Redis is back."""
        try:
            await self._ask(lambda: self._cache.set(_stamp_key(collection), fresh().encode()))
        except BaseException as error:
            self._owe()
            if not isinstance(error, AwayError):
                raise

    async def close(self) -> None:
        """Write what is owed if that can be done now, and close the connections."""
        if self._paying is not None:
            self._paying.cancel()
            await asyncio.wait({self._paying})
        if self._owed > self._paid:
            self._away_until = None
            with suppress(AwayError):
                await self._ask(self._nothing)
        await self._cache.client.aclose(close_connection_pool=True)

    async def _ask(self, operation: Callable[[], Awaitable[Result]]) -> Result:
        """Do it within the time, after what is owed. Raises AwayError, also without asking at all."""
        now = self._clock()
        if self._away_until is not None:
            if now < self._away_until:
                raise AwayError
            self._away_until = now + _PAUSE_S  # the others go on while this one asks
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._owed > self._paid:
                    await self._renew()
                result = await operation()
        except (RedisError, OSError, TimeoutError) as error:
            self._lost(error)
            raise AwayError from error
        self._found()
        return result

    async def _nothing(self) -> None:
        """Do what is owed alone."""

    async def _renew(self) -> None:
        """Begin a new epoch, which pays what is owed now; what comes meanwhile needs another one."""
        owed = self._owed
        await self._cache.set(_EPOCH, fresh().encode())
        self._paid = max(self._paid, owed)

    async def _made(self, name: str) -> bytes:
        """Make a stamp that is missing, or find the one that another process made in this moment."""
        stamp = fresh().encode()
        try:
            await self._cache.add(name, stamp)
        except ValueError:
            return await self._cache.get(name) or stamp
        return stamp

    def _owe(self) -> None:
        """Owe a new epoch, and see to it that it is paid even if nobody asks for an answer here any more."""
        self._owed += 1
        if self._paying is None or self._paying.done():
            self._paying = asyncio.create_task(self._pay())

    async def _pay(self) -> None:
        while self._owed > self._paid:
            await asyncio.sleep(_PAUSE_S)
            with suppress(AwayError):
                await self._ask(self._nothing)

    def _lost(self, error: Exception) -> None:
        self._owe()
        if self._away_until is None:
            logger.bind(error=type(error).__name__).warning("redis is away: answers are not cached")
        self._away_until = self._clock() + _PAUSE_S
        self._up.set(0)

    def _found(self) -> None:
        if self._away_until is not None:
            logger.info("redis is back: answers are cached again")
        self._away_until = None
        self._up.set(1)


def _stamp_key(collection: str) -> str:
    return f"generation:{collection}"


def _connect(config: Redis, trust: Trust | None) -> RedisCache:
    pool = redis_pool(config, trust)
    # aiocache knows host and port alone; a URL may name a unix socket or want TLS.
    return RedisCache(
        serializer=NullSerializer(encoding=None),
        namespace=_NAMESPACE,
        timeout=None,
        connection_pool_class=lambda **_: pool,
    )
