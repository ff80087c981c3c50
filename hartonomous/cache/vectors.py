"""The vectors of questions, kept for a while: an embedding call holds only texts that nobody has asked for before.

A text is known by the embedding fingerprint (model, dimension, prefixes) and itself, so another model finds nothing of
the old one, and by the caller's grant: no tenant is answered sooner because another one has asked the same. What
somebody else with the same grant is having embedded right now is waited for, and single questions that come at once go
together (`cache.groups`). Vectors are kept as float32, in which services send them, and handed out as that, whether
they were there or not: equal questions get equal hits. A fresh one may have the decimals that it came in, of which the
store makes the same float32.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from hashlib import blake2b

from hartonomous import codec, tracing
from hartonomous.cache.flights import Flight, Flights, own
from hartonomous.cache.groups import Groups, Outcome
from hartonomous.cache.memory import MemoryCache
from hartonomous.clients.embedding import Vector
from hartonomous.config import EmbeddingCache
from hartonomous.core.access import Grant
from hartonomous.core.call import Call
from hartonomous.core.fingerprint import EmbeddingFingerprint
from hartonomous.errors import HartonomousError
from hartonomous.metrics import Metrics

Embed = Callable[[Sequence[str], Call], Awaitable[Sequence[Outcome]]]
"""Embeds texts: a vector or an error for each, in order."""

_Flight = Flight[Mapping[str, Outcome]]


class QuestionVectors:
    """Finds the vectors of questions, or has them made.

    What is made for many callers has `limit_s` seconds, whatever each of them has left.
    """

    def __init__(self, config: EmbeddingCache, limit_s: float, metrics: Metrics) -> None:
        self._limit_s = limit_s
        self._metrics = metrics.cache("embeddings")
        self._cache = MemoryCache(config, self._metrics)
        self._flights: Flights[Mapping[str, Outcome]] = Flights()
        self._groups = Groups(self._flights, limit_s)

    def show(self) -> None:
        """Let the metrics show these vectors."""
        self._cache.show()

    async def get(
        self, fingerprint: EmbeddingFingerprint, texts: Sequence[str], batch_size: int, embed: Embed, call: Call
    ) -> list[Outcome]:
        """Return the vector of each text, or its error, in order; at most `batch_size` go into one `embed`."""
        keys = _keys(fingerprint, call.grant, texts)
        outcomes: dict[str, Outcome] = {}
        missing: dict[str, str] = {}
        for key, text in zip(keys, texts, strict=True):
            value = self._cache.find(key)
            if value is None:
                missing[key] = text
            else:
                outcomes[key] = _floats(value)
        self._metrics.hits.value += len(outcomes)
        if missing:
            asked = self._asked(missing, batch_size, embed, call, None if len(texts) > 1 else fingerprint)
            if len(asked) == 1:
                outcomes.update(await self._result(*asked.popitem(), call))
            else:
                for found in await asyncio.gather(*(self._result(*one, call) for one in asked.items())):
                    outcomes.update(found)
        return [_mine(outcomes[key]) for key in keys]

    def _asked(
        self,
        missing: Mapping[str, str],
        batch_size: int,
        embed: Embed,
        call: Call,
        single: EmbeddingFingerprint | None,
    ) -> dict[_Flight, list[str]]:
        """Return who is embedding what is missing; what nobody embeds is begun.

        A `single` question, by what its vector depends on, goes together with those of others.
        """
        asked: dict[_Flight, list[str]] = {}
        fresh = []
        for key in missing:
            under_way = self._flights.get(key)
            if under_way is None:
                fresh.append(key)
            else:
                asked.setdefault(under_way, []).append(key)
        self._metrics.joined.value += len(missing) - len(fresh)
        for joined in asked:
            tracing.link(call, joined.span)
        self._metrics.misses.value += len(fresh)
        if fresh and single is not None:
            (key,) = fresh
            work = partial(self._embed, embed)
            asked[self._groups.board((single, call.priority), key, missing[key], batch_size, work, call)] = fresh
        elif fresh:
            shared = call.for_all(self._limit_s)
            for first in range(0, len(fresh), batch_size):
                batch = {key: missing[key] for key in fresh[first : first + batch_size]}
                work = partial(self._embed, embed, batch, shared)
                asked[self._flights.start_once(batch, work, call.span)] = list(batch)
        return asked

    @staticmethod
    async def _result(flight: _Flight, keys: Sequence[str], call: Call) -> Mapping[str, Outcome]:
        try:
            found = await flight.last(call)
        except HartonomousError as error:
            return dict.fromkeys(keys, error)
        return {key: found[key] for key in keys}

    async def _embed(self, embed: Embed, texts: Mapping[str, str], call: Call) -> Mapping[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        for key, made in zip(texts, await embed(list(texts.values()), call), strict=True):
            if isinstance(made, HartonomousError):
                outcomes[key] = made
            else:
                outcomes[key] = vector = _as_floats(made)
                self._cache.keep(key, vector.tobytes())
        return outcomes


def _keys(fingerprint: EmbeddingFingerprint, grant: Grant, texts: Iterable[str]) -> list[str]:
    start = _start(fingerprint, grant)
    keys = []
    for text in texts:
        digest = start.copy()
        digest.update(text.encode())
        keys.append(digest.hexdigest())
    return keys


@lru_cache(1024)
def _start(fingerprint: EmbeddingFingerprint, grant: Grant) -> blake2b:
    return blake2b(codec.canonical([fingerprint.digest(), grant.patterns]), digest_size=20)


def _floats(value: bytes) -> array[float]:
    vector = array("f")
    vector.frombytes(value)
    return vector


def _as_floats(vector: Vector) -> array[float]:
    return vector if isinstance(vector, array) and vector.typecode == "f" else array("f", vector)


def _mine(outcome: Outcome) -> Outcome:
    return own(outcome) if isinstance(outcome, HartonomousError) else outcome
