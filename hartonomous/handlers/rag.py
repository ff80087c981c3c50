"""`/rag/search`, `/rag/query`, `/rag/batch-query`: validate, call one pipeline, shape the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from aiohttp import web

from hartonomous import codec, tracing
from hartonomous.core import filters
from hartonomous.core.call import Call, Priority
from hartonomous.errors import HartonomousError, PermissionDeniedError
from hartonomous.handlers import shapes, views
from hartonomous.handlers.answers import Timer, cost_headers, json_response, runtime_of
from hartonomous.handlers.body import read_json, validate
from hartonomous.handlers.caching import CACHE_CONTROL, cache_headers, with_wishes
from hartonomous.handlers.metering import Stake, answer_of, answered
from hartonomous.handlers.operations import COST, Operation
from hartonomous.handlers.reach import reached
from hartonomous.handlers.schemas import BatchQueryBody, QueryBody, SearchBody
from hartonomous.handlers.stream import ClientGoneError, ClientStream, EventStream
from hartonomous.keys import Runtime
from hartonomous.log import logger
from hartonomous.middleware.audit import note_error
from hartonomous.middleware.request_id import call_of
from hartonomous.pipelines.batch import BatchItem
from hartonomous.pipelines.query import QueryRequest, QueryResult, SourcesFound, TextDelta
from hartonomous.pipelines.questions import SearchRequest


async def search(request: web.Request) -> web.Response:
    """Retrieve chunks."""
    runtime, call, timer = runtime_of(request), call_of(request), Timer()
    body = validate(SearchBody, await read_json(request))
    result = await runtime.searcher.search(_search_request(body, runtime, call), call)
    answer = views.search_answer(result, timer.ms, call.request_id)
    return json_response(answer, headers=cost_headers(answer["timings_ms"], result.degraded))


def _search_request(body: SearchBody, runtime: Runtime, call: Call) -> SearchRequest:
    """Return what the search pipeline takes.

    Raises:
        PermissionDeniedError: a collection that the caller may not see.
        ValidationFailedError: a filter that is not allowed.
    """
    collection = reached(body.collection, runtime, call)
    if (wanted := body.filter) is not None:
        filters.check(wanted)
        wanted = filters.whole(wanted)
    return SearchRequest(
        query=body.query,
        collection=collection,
        top_k=body.top_k or runtime.config.rag.retrieval.top_k,
        mode=body.mode,
        filter=wanted,
        rerank=body.rerank,
        feedback=body.feedback,
        score_threshold=body.score_threshold,
    )


async def query(request: web.Request) -> web.StreamResponse:
    """Answer a question from a collection, whole or as a stream."""
    runtime, call, timer = runtime_of(request), call_of(request), Timer()
    call = with_wishes(request, runtime, call)
    body = validate(QueryBody, await read_json(request))
    question = _query_request(body, runtime, call)
    if body.stream:
        return await _stream_query(request, runtime, question, call, timer)
    result = await answer_of(request, runtime.answerer, question, call)
    timings = {**result.timings, "total": timer.ms}
    answer = views.query_answer(result, timings, call.request_id)
    return json_response(answer, headers=cost_headers(timings, result.degraded) | cache_headers(runtime, result))


def _query_request(body: QueryBody, runtime: Runtime, call: Call) -> QueryRequest:
    return QueryRequest(
        search=_search_request(body, runtime, call),
        history=[{"role": turn.role, "content": turn.content} for turn in body.messages],
        system=body.system,
        max_tokens=body.max_tokens,
        model=body.model,
        options={} if body.temperature is None else {"temperature": body.temperature},
        sources_on_failure=body.on_failure == "sources",
        require_grounding=body.require_grounding,
    )


async def _stream_query(
    request: web.Request, runtime: Runtime, question: QueryRequest, call: Call, timer: Timer
) -> web.StreamResponse:
    async with aclosing(runtime.answerer.stream(question, call)) as events:
        # Retrieval is done when the first event is there: what fails before has a status code of its own.
        first = await anext(events)
        assert isinstance(first, SourcesFound)
        headers = cost_headers({**first.found.timings, "total": timer.ms}, first.found.degraded)
        stream = EventStream(request, headers | cache_headers(runtime, first))
        answered(request, first)
        try:
            async with stream:
                await stream.event("sources", {"sources": [views.hit(scored) for scored in first.found.hits]})
                try:
                    async for event in events:
                        answered(request, event)
                        await _send_event(stream, event, call, timer)
                except HartonomousError as error:
                    tracing.broken_off(call, error)
                    logger.bind(request_id=call.request_id, code=error.error_code).warning("a stream broke off")
                    await stream.event("error", {"error": error.as_dict(), "request_id": call.request_id})
        except ClientGoneError:
            logger.bind(request_id=call.request_id).debug("the client left a stream")
        return stream.response


async def _send_event(
    stream: EventStream, event: SourcesFound | TextDelta | QueryResult, call: Call, timer: Timer
) -> None:
    if isinstance(event, TextDelta):
        await stream.event("delta", {"text": event.text})
    elif isinstance(event, QueryResult):
        timings = {**event.timings, "total": timer.ms}
        await stream.event("done", views.query_answer(event, timings, call.request_id, sources=False))


async def batch_query(request: web.Request) -> web.StreamResponse:
    """Answer many questions; each has its own outcome."""
    runtime, call, timer = runtime_of(request), call_of(request), Timer()
    call = with_wishes(request, runtime, call).of_priority(Priority.BATCH)
    body = validate(BatchQueryBody, await read_json(request))
    questions, refused = _batch(request, body.queries, runtime, call)
    outcomes = _outcomes(request, questions, refused, call)
    if body.stream:
        return await _stream_batch(request, outcomes, call)
    async with aclosing(outcomes):
        items = [views.batch_item(item.index, item.outcome, call.request_id) async for item in outcomes]
    items.sort(key=lambda item: int(item["index"]))
    answer = {"results": items, "counts": _counts(items), "request_id": call.request_id}
    degraded = {stage for item in items if item["status"] == 200 for stage in item["result"]["degraded"]}
    return json_response(answer, headers=cost_headers({"total": timer.ms}, sorted(degraded)))


def _batch(
    request: web.Request, queries: Sequence[Any], runtime: Runtime, call: Call
) -> tuple[list[tuple[int, QueryRequest]], list[BatchItem]]:
    """Return the questions that are valid and allowed, by their places, and the refusals of the others."""
    questions, refused = [], []
    for index, value in enumerate(queries):
        try:
            questions.append((index, _query_request(validate(QueryBody, value), runtime, call)))
        except HartonomousError as error:
            refused.append(BatchItem(index, error))
            if isinstance(error, PermissionDeniedError):
                note_error(request, error)
    return questions, refused


async def _outcomes(
    request: web.Request, questions: Sequence[tuple[int, QueryRequest]], refused: Sequence[BatchItem], call: Call
) -> AsyncGenerator[BatchItem]:
    for item in refused:
        yield item
    stakes = {index: Stake(request) for index, _ in questions}
    staked = [(index, stakes[index].of(question)) for index, question in questions]
    async with aclosing(runtime_of(request).batch.answer(staked, call)) as items:
        async for item in items:
            stakes[item.index].ended(item.outcome)
            yield item


async def _stream_batch(request: web.Request, outcomes: AsyncGenerator[BatchItem], call: Call) -> web.StreamResponse:
    client = ClientStream(request, web.StreamResponse(headers={"Content-Type": codec.NDJSON}))
    items = []
    async with aclosing(outcomes):
        try:
            await client.begin()
            async for item in outcomes:
                line = views.batch_item(item.index, item.outcome, call.request_id)
                items.append({"status": line["status"]})
                await client.write(codec.dumps(line) + b"\n")
            tail = {"counts": _counts(items), "request_id": call.request_id}
            await client.write(codec.dumps(tail) + b"\n")
            await client.finish()
        except ClientGoneError:
            logger.bind(request_id=call.request_id).debug("the client left a stream")
    return client.response


def _counts(items: Sequence[dict[str, Any]]) -> dict[str, int]:
    succeeded = sum(item["status"] == 200 for item in items)
    return {"succeeded": succeeded, "failed": len(items) - succeeded}


_RAG_ERRORS = (404, 409, 422, 429, 502, 503, 504)

OPERATIONS = (
    Operation(
        "POST",
        "/rag/search",
        search,
        "Retrieve chunks",
        "rag",
        SearchBody,
        shapes.SearchAnswer,
        tells=COST,
        errors=_RAG_ERRORS,
        gathers=True,
    ),
    Operation(
        "POST",
        "/rag/query",
        query,
        "Answer a question from a collection, with citations",
        "rag",
        QueryBody,
        shapes.QueryAnswer,
        media=(codec.JSON, codec.SSE),
        headers=(CACHE_CONTROL,),
        tells=COST,
        errors=_RAG_ERRORS,
        gathers=True,
    ),
    Operation(
        "POST",
        "/rag/batch-query",
        batch_query,
        "Answer many questions",
        "rag",
        BatchQueryBody,
        shapes.BatchAnswer,
        media=(codec.JSON, codec.NDJSON),
        headers=(CACHE_CONTROL,),
        tells=COST,
        errors=_RAG_ERRORS,
    ),
)
