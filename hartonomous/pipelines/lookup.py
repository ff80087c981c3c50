"""The calls to the vector store that searches take: for all questions of a collection one, more only where it must be.

An answer that is too large for one call is asked for in two halves. When the store calls something in a call wrong,
each question is asked alone, so that only that fails whose filter it was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from itertools import islice
from typing import Any

import msgspec

from hartonomous import tracing
from hartonomous.clients.failures import AnswerTooLargeError, BackendRefusedError
from hartonomous.clients.points import Hit
from hartonomous.clients.vectors import BestVectors, Search, VectorClient
from hartonomous.core.call import Call
from hartonomous.errors import HartonomousError, ValidationFailedError
from hartonomous.pipelines.questions import Account, Question, all_of


class Plan(msgspec.Struct):
    """What one question asks the store for, and then what it got: a ranking for each search, or an error."""

    item: Question
    searches: Sequence[Search]
    best: BestVectors | None = None
    rankings: list[list[Hit]] = []
    vectors: dict[str, list[float]] = {}
    error: HartonomousError | None = None


class Lookup:
    """Asks the vector store."""

    def __init__(self, vectors: VectorClient, account: Account) -> None:
        self._vectors = vectors
        self._account = account

    def run(self, plans: Sequence[Plan], call: Call) -> Coroutine[Any, Any, None]:
        """Give every plan its rankings and vectors, or its error; collections are asked side by side."""
        if len(plans) == 1:
            return self._timed(plans[0].item.request.collection, plans, call)
        groups: dict[str, list[Plan]] = {}
        for plan in plans:
            groups.setdefault(plan.item.request.collection, []).append(plan)
        return all_of([self._timed(name, group, call) for name, group in groups.items()])

    async def _timed(self, name: str, plans: Sequence[Plan], call: Call) -> None:
        started = time.perf_counter()
        with tracing.span(call, "search", {"hartonomous.searches": len(plans)}) as call:
            await self._ask(name, plans, call)
        self._account.took([plan.item for plan in plans if plan.error is None], "search", started, call)

    async def _ask(self, name: str, plans: Sequence[Plan], call: Call) -> None:
        searches = [search for plan in plans for search in plan.searches]
        best = [plan.best for plan in plans if plan.best is not None]
        try:
            rankings, vectors = await self._vectors.search_with_vectors(name, searches, best, call)
        except HartonomousError as error:
            await self._ask_again(name, plans, error, call)
            return
        next_ranking, next_vectors = iter(rankings), iter(vectors)
        for plan in plans:
            plan.rankings = list(islice(next_ranking, len(plan.searches)))
            if plan.best is not None:
                plan.vectors = next(next_vectors)

    async def _ask_again(self, name: str, plans: Sequence[Plan], error: HartonomousError, call: Call) -> None:
        """Ask for less at once where that can help, else give the plans their error."""
        refused = isinstance(error, (BackendRefusedError, ValidationFailedError))
        if len(plans) > 1 and isinstance(error, AnswerTooLargeError):
            middle = len(plans) // 2
            await self._ask(name, plans[:middle], call)
            await self._ask(name, plans[middle:], call)
        elif len(plans) > 1 and refused:
            await asyncio.gather(*(self._ask(name, [plan], call) for plan in plans))
        elif refused and plans[0].item.request.filter is not None:
            plans[0].error = ValidationFailedError("The vector store refused the filter.", param="filter")
        else:
            for plan in plans:
                plan.error = error
