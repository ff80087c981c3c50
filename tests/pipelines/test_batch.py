"""The batch pipeline by itself: outcomes as they are ready, failures that stay with their question, cancellation."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, cast

from hartonomous.config import Generation, Retrieval
from hartonomous.errors import BackendError, HartonomousError
from hartonomous.metrics import Metrics
from hartonomous.pipelines.batch import BatchAnswerer
from hartonomous.pipelines.query import Answerer, QueryRequest, QueryResult
from hartonomous.pipelines.questions import SearchRequest
from hartonomous.pipelines.search import Searcher
from hartonomous.pipelines.traffic import Traffic
from tests.pipelines.fakes import Embedding, Generative, Schema, Vectors, call, hits, questions, until


def parts(generative: Any) -> tuple[BatchAnswerer, Vectors]:
    vectors = Vectors(dense=hits(a=0.9), sparse=hits(a=9.0))
    store, embedding, schema = (cast("Any", fake) for fake in (vectors, Embedding(), Schema()))
    searcher = Searcher(embedding, None, store, schema, Retrieval(), Metrics(), Traffic(), questions())
    answerer = Answerer(searcher, generative, Retrieval(), Generation(), Metrics(), Traffic())
    return BatchAnswerer(searcher, answerer), vectors


def ask(query: str, collection: str = "docs") -> QueryRequest:
    return QueryRequest(search=SearchRequest(query=query, collection=collection, top_k=5))


async def test_outcomes_carry_their_places_and_failures_stay_alone() -> None:
    class SomeFail(Generative):
        async def chat(self, request: Any, call: Any) -> Any:
            if "bad" in request["messages"][-1]["content"]:
                raise BackendError("bad")
            return await super().chat(request, call)

    batch, vectors = parts(SomeFail("Yes."))
    requests = [
        (3, ask("one")),
        (5, ask("bad")),
        (7, ask("two", "nowhere")),
        (9, ask("long" * 9)),
        (11, ask("three")),
    ]
    async with aclosing(batch.answer(requests, call())) as outcomes:
        found = {item.index: item.outcome async for item in outcomes}
    assert {index for index, outcome in found.items() if isinstance(outcome, QueryResult)} == {3, 11}
    codes = {index: outcome.error_code for index, outcome in found.items() if isinstance(outcome, HartonomousError)}
    assert codes == {5: "bad_backend_answer", 7: "collection_not_found", 9: "input_too_long"}
    assert len(vectors.searches) == 1


async def test_an_outcome_is_given_as_soon_as_it_is_ready() -> None:
    gate = asyncio.Event()

    class FirstIsSlow(Generative):
        async def chat(self, request: Any, call: Any) -> Any:
            if "slow" in request["messages"][-1]["content"]:
                await gate.wait()
            return await super().chat(request, call)

    batch, _ = parts(FirstIsSlow("Yes."))
    async with aclosing(batch.answer([(0, ask("slow")), (1, ask("fast"))], call())) as outcomes:
        assert (await anext(outcomes)).index == 1
        gate.set()
        assert (await anext(outcomes)).index == 0


async def test_leaving_in_the_middle_stops_everything() -> None:
    generative = Generative("Yes.")
    generative.gate = asyncio.Event()
    batch, _ = parts(generative)

    async def consume() -> None:
        async with aclosing(batch.answer([(number, ask(str(number))) for number in range(6)], call())) as outcomes:
            async for _ in outcomes:
                pass

    task = asyncio.create_task(consume())
    await until(lambda: generative.active == 6)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    assert generative.active == 0
    assert len(asyncio.all_tasks()) == 1


async def test_no_questions_are_no_outcomes() -> None:
    batch, vectors = parts(Generative())
    assert [item async for item in batch.answer([], call())] == []
    assert vectors.searches == []
