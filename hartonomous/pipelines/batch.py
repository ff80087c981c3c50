"""The batch pipeline: follow-ups made to stand alone, all questions embedded and searched together, answered apart.

Rewriting goes on side by side. So do reranking and answering, where no question waits for another one's reranking; each
result is yielded as soon as it is ready. How many generations run at once is bounded by the generative service's own
concurrency, in its pool; a failure stays with its question.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from hartonomous.core.call import Call
from hartonomous.errors import HartonomousError
from hartonomous.pipelines.answering import CachedAnswerer, Place
from hartonomous.pipelines.query import Answerer, QueryRequest, QueryResult
from hartonomous.pipelines.questions import Question
from hartonomous.pipelines.search import Searcher


@dataclass(slots=True, frozen=True)
class BatchItem:
    """The outcome of one question, by its place in the batch."""

    index: int
    outcome: QueryResult | HartonomousError


class BatchAnswerer:
    """Answers up to a few hundred questions in one request."""

    def __init__(self, searcher: Searcher, answerer: Answerer, cached: CachedAnswerer | None = None) -> None:
        self._searcher = searcher
        self._answerer = answerer
        self._cached = cached

    async def answer(self, requests: Sequence[tuple[int, QueryRequest]], call: Call) -> AsyncGenerator[BatchItem]:
        """Yield the outcome of each (index, question) as it is ready. Use within `contextlib.aclosing`."""
        places = await self._places(requests, call)
        for index, place in places.items():
            if place.found is not None:
                yield BatchItem(index, place.found)
        requests = [item for item in requests if item[0] not in places or places[item[0]].found is None]
        prepared = await asyncio.gather(*(self._prepare(request, call) for _, request in requests))
        alive: list[tuple[int, QueryRequest]] = []
        for (index, _), request in zip(requests, prepared, strict=True):
            if isinstance(request, HartonomousError):
                yield BatchItem(index, request)
            else:
                alive.append((index, request))
        found = await self._searcher.find([request.search for _, request in alive], call)
        tasks = [
            asyncio.create_task(self._answer(index, request, item, places.get(index), call))
            for (index, request), item in zip(alive, found, strict=True)
        ]
        try:
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            # The caller may have left in the middle: nothing goes on for nobody.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _places(self, requests: Sequence[tuple[int, QueryRequest]], call: Call) -> dict[int, Place]:
        """Return where the answers belong and which are there already; nothing where answers are not kept."""
        if self._cached is None:
            return {}
        found = await asyncio.gather(*(self._cached.look_up(request, call) for _, request in requests))
        return {index: place for (index, _), place in zip(requests, found, strict=True)}

    async def _prepare(self, request: QueryRequest, call: Call) -> QueryRequest | HartonomousError:
        try:
            return await self._answerer.prepare(request, call)
        except HartonomousError as error:
            return error

    async def _answer(
        self,
        index: int,
        request: QueryRequest,
        item: Question,
        place: Place | None,
        call: Call,
    ) -> BatchItem:
        try:
            found = await self._searcher.finish(item, call)
            if self._cached is None or place is None:
                return BatchItem(index, await self._answerer.answer_found(request, found, call))
            return BatchItem(index, await self._cached.answer_found(request, found, place, call))
        except HartonomousError as error:
            return BatchItem(index, error)
