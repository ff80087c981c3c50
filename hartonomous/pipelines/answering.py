"""Answers that are kept: the query pipeline behind a cache, with one search and one generation for equal questions.

`CachedAnswerer` answers and streams as `Answerer` does. An answer is kept when it is whole: no error, no stage left
out, ended by the model or at the length that was asked for, and somebody waited for it to its end. Equal requests at
the same time, streamed or not, read along one and the same generation, which is streamed for that reason (that of a
batch is not: who joins it gets the answer in one piece).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, fields, replace

import msgspec

from hartonomous import tracing
from hartonomous.cache.answers import AnswerStore
from hartonomous.cache.flights import Flight, Flights
from hartonomous.cachemetrics import CacheMetrics
from hartonomous.core.call import Call
from hartonomous.errors import BackendError, BackendUnavailableError, DeadlineExceededError
from hartonomous.pipelines.keying import AnswerKeys
from hartonomous.pipelines.query import Answerer, Event, QueryRequest, QueryResult, SourcesFound, TextDelta
from hartonomous.pipelines.questions import SearchResult

_WHOLE = frozenset({"stop", "length"})
_read_result = msgspec.json.Decoder(QueryResult).decode


@dataclass(slots=True)
class CachedResult(QueryResult):
    """An answer from the cache; `age_s` are the seconds since it was made."""

    age_s: float = 0.0


@dataclass(slots=True)
class CachedSources(SourcesFound):
    """The first event of a stream from the cache."""

    age_s: float = 0.0


@dataclass(slots=True, frozen=True)
class Place:
    """Where the answer to a request belongs, and the one that is there. Without a key it is neither read nor kept."""

    key: str | None
    found: CachedResult | None = None


class CachedAnswerer:
    """Answers questions, from what was answered before where that may be.

    What is made for many callers has `limit_s` seconds, whatever each of them has left.
    """

    def __init__(
        self, answerer: Answerer, keys: AnswerKeys, store: AnswerStore, limit_s: float, metrics: CacheMetrics
    ) -> None:
        self._answerer = answerer
        self._keys = keys
        self._store = store
        self._limit_s = limit_s
        self._metrics = metrics
        self._flights: Flights[Event] = Flights()

    async def look_up(self, request: QueryRequest, call: Call) -> Place:
        """Find the place of a request, before anything is searched for it.

        Raises PermissionDeniedError for a collection that the caller may not see: it finds no answers there either.
        """
        call.grant.check(request.search.collection)
        if call.cache.no_store:
            return Place(None)
        key = await self._keys.key(request, call)
        found = None if key is None else await self._kept(key, call)
        if found is not None:
            self._metrics.hits.inc()
        return Place(key, found)

    async def answer(self, request: QueryRequest, call: Call) -> QueryResult:
        """Answer a question. Raises any of our errors."""
        place = await self.look_up(request, call)
        if place.found is not None:
            return place.found
        if place.key is None:
            return await self._answerer.answer(request, call)
        return await self._shared(place.key, self._made(place.key, request, call), request, call)

    async def answer_found(self, request: QueryRequest, found: SearchResult, place: Place, call: Call) -> QueryResult:
        """Answer a question whose hits were searched after its place was looked up, and which is not there."""
        if place.key is None:
            return await self._answerer.answer_found(request, found, call)
        return await self._shared(place.key, self._made_of(place.key, request, found, call), request, call)

    async def stream(self, request: QueryRequest, call: Call) -> AsyncGenerator[Event]:
        """Answer a question as it comes, as `Answerer.stream` does; one from the cache comes in one piece."""
        place = await self.look_up(request, call)
        if place.found is not None:
            for event in _events(place.found):
                yield event
            return
        if place.key is None:
            work = self._answerer.stream(request, call)
        else:
            work = self._boarded(place.key, self._made(place.key, request, call), call)
        async with aclosing(work) as events:
            async for event in events:
                yield event

    async def close(self) -> None:
        """Give up what is under way."""
        await self._flights.close()

    async def _kept(self, key: str, call: Call) -> CachedResult | None:
        if call.cache.no_cache:
            return None
        kept = await self._store.get(key)
        if kept is None or not call.cache.allows(kept[1]):
            return None
        try:
            result = _read_result(kept[0])
        except (ValueError, RecursionError):
            return None
        values = {field.name: getattr(result, field.name) for field in fields(QueryResult)}
        return CachedResult(**values, age_s=kept[1])

    async def _keep(self, key: str, result: QueryResult) -> None:
        if not result.degraded and result.finish_reason in _WHOLE:
            await self._store.put(key, msgspec.json.encode(replace(result, timings={})))

    async def _shared(self, key: str, work: AsyncGenerator[Event], request: QueryRequest, call: Call) -> QueryResult:
        sources: SourcesFound | None = None
        try:
            async with aclosing(self._boarded(key, work, call)) as events:
                async for event in events:
                    if isinstance(event, SourcesFound):
                        sources = event
                        request.tell(event)
                    elif isinstance(event, QueryResult):
                        result = event
        except (BackendUnavailableError, BackendError, DeadlineExceededError):
            # The generation broke off when its first words were on their way: to us they were not.
            if sources is None or not request.sources_on_failure or call.deadline.expired:
                raise
            found = replace(sources.found, degraded=[*sources.found.degraded])
            return self._answerer.sources_alone(request, found, sources.omitted)
        return result

    async def _boarded(self, key: str, work: AsyncGenerator[Event], call: Call) -> AsyncGenerator[Event]:
        """Yield the events of the work under this key, which is begun if it is not under way."""
        flight: Flight[Event] | None = self._flights.get(key)
        joined = flight is not None
        (self._metrics.joined if joined else self._metrics.misses).inc()
        if flight is not None:
            tracing.link(call, flight.span)
        flight = flight or self._flights.start([key], work, call.span)
        async with aclosing(flight.items(call)) as events:
            async for event in events:
                yield _without_cost(event) if joined else event

    async def _made(self, key: str, request: QueryRequest, call: Call) -> AsyncGenerator[Event]:
        """Do all the work of an answer; another process, or who was faster, may have done it meanwhile."""
        if self._store.is_shared and (found := await self._kept(key, call)) is not None:
            for event in _events(found):
                yield event
            return
        async with aclosing(self._answerer.stream(request, call.for_all(self._limit_s))) as events:
            async for event in events:
                if isinstance(event, QueryResult):
                    await self._keep(key, event)
                yield event

    async def _made_of(self, key: str, request: QueryRequest, found: SearchResult, call: Call) -> AsyncGenerator[Event]:
        result = await self._answerer.answer_found(request, found, call.for_all(self._limit_s))
        await self._keep(key, result)
        yield SourcesFound(SearchResult(result.sources, result.degraded, found.timings), result.omitted)
        if result.answer:
            yield TextDelta(result.answer)
        yield result


def _events(result: CachedResult) -> list[Event]:
    """Return an answer from the cache as a stream."""
    found = SearchResult(result.sources, result.degraded, {})
    text: list[Event] = [TextDelta(result.answer)] if result.answer else []
    return [CachedSources(found, result.omitted, result.age_s), *text, result]


def _without_cost(event: Event) -> Event:
    """Return an event for who did not cause it: the stages' times are the cost of another request."""
    if isinstance(event, QueryResult):
        return replace(event, timings={})
    if isinstance(event, SourcesFound):
        return replace(event, found=replace(event.found, timings={}))
    return event
