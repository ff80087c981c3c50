"""Whole answers by their keys, as bytes with their age: in the memory of this process, or in Redis for several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hartonomous.cache.memory import MemoryCache
from hartonomous.cachemetrics import CacheMetrics
from hartonomous.config import AnswerCache

if TYPE_CHECKING:
    from hartonomous.cache.shared import SharedCache


class AnswerStore(Protocol):
    """Where answers are kept. Neither method raises."""

    @property
    def is_shared(self) -> bool:
        """Whether other processes write into it: what is not there may be there a moment later."""
        ...

    async def get(self, key: str) -> tuple[bytes, float] | None:
        """Return a value and its age in seconds."""
        ...

    async def put(self, key: str, value: bytes) -> None:
        """Keep a value for the configured time."""
        ...


class OwnAnswers:
    """Answers in this process."""

    is_shared = False

    def __init__(self, config: AnswerCache, metrics: CacheMetrics) -> None:
        self._cache = MemoryCache(config, metrics)

    def show(self) -> None:
        """Let the metrics show these answers."""
        self._cache.show()

    async def get(self, key: str) -> tuple[bytes, float] | None:
        """Return a value and its age in seconds."""
        value = await self._cache.get(key)
        age = self._cache.age(key)
        return None if value is None or age is None else (value, age)

    async def put(self, key: str, value: bytes) -> None:
        """Keep a value."""
        await self._cache.set(key, value)

    async def close(self) -> None:
        """Give the memory back: the metrics that show the cache keep it alive."""
        await self._cache.clear()


class SharedAnswers:
    """Answers in Redis. How old one is Redis alone says, by the time that it has left: no clocks are compared."""

    is_shared = True

    def __init__(self, config: AnswerCache, shared: SharedCache) -> None:
        self._ttl_s = config.ttl_s
        self._shared = shared

    async def get(self, key: str) -> tuple[bytes, float] | None:
        """Return a value and its age in seconds; None also for one that is too old for our own settings."""
        found = await self._shared.get(_name(key))
        if found is None:
            return None
        head, _, value = found[0].partition(b"\n")
        try:
            age = max(0.0, float(head) - found[1])
        except ValueError:
            return None  # somebody else's value
        return (value, age) if age < self._ttl_s else None

    async def put(self, key: str, value: bytes) -> None:
        """Keep a value; how long it had goes with it."""
        await self._shared.put(_name(key), b"%r\n%b" % (self._ttl_s, value), self._ttl_s)


def _name(key: str) -> str:
    return f"answer:{key}"
