"""The query pipeline: search, prompt, generation, citations; whole or as a stream of events.

Both forms run the same steps and the same `AnswerBuilder`, so a stream's deltas put together are the answer. When
nothing relevant is found the answer says so and the generative service is not asked. Retrieved text goes into the
prompt as data, best first, as much as the model's context can hold beside the answer.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from hartonomous.clients.generative import Delta, GenerativeClient, Usage
from hartonomous.config import Generation, Retrieval
from hartonomous.core.call import Call
from hartonomous.core.chunking import estimate_tokens
from hartonomous.core.citations import AnswerBuilder, SentenceGrounding
from hartonomous.core.prompt import Source, build_messages, render, truncate_to
from hartonomous.core.quote import best_quote
from hartonomous.core.template import DEFAULT_SYSTEM, NOTHING_FOUND
from hartonomous.errors import BackendError, BackendUnavailableError, DeadlineExceededError, ValidationFailedError
from hartonomous.metrics import Metrics
from hartonomous.pipelines.questions import ScoredHit, SearchRequest, SearchResult
from hartonomous.pipelines.search import Searcher
from hartonomous.pipelines.traffic import Traffic

# What a chat template puts around each message, at most, in tokens.
_TEMPLATE_TOKENS = 64


@dataclass(slots=True, frozen=True)
class QueryRequest:
    """A question, what came before it, and how to answer it.

    `options` are passed to the generative service as they are (temperature, top_p, seed, stop).
    """

    search: SearchRequest
    history: Sequence[Mapping[str, str]] = ()
    system: str | None = None
    max_tokens: int | None = None
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    sources_on_failure: bool = False
    require_grounding: bool = False


@dataclass(slots=True)
class QueryResult:
    """An answer with what it rests on. `cited` are markers: marker n is `sources[n-1]`."""

    answer: str
    cited: list[int]
    sources: list[ScoredHit]
    grounding: list[SentenceGrounding]
    omitted: int
    model: str | None
    finish_reason: str
    usage: Usage
    degraded: list[str]
    timings: dict[str, float]


@dataclass(slots=True, frozen=True)
class SourcesFound:
    """The first event of a stream: retrieval is done."""

    found: SearchResult
    omitted: int


@dataclass(slots=True, frozen=True)
class TextDelta:
    """The next piece of the answer, never empty."""

    text: str


Event = SourcesFound | TextDelta | QueryResult


@dataclass(slots=True)
class _Plan:
    """Everything that is settled before the first token."""

    request: QueryRequest
    found: SearchResult
    sources: list[ScoredHit]
    omitted: int
    shown: list[Source]
    body: dict[str, Any]
    builder: AnswerBuilder
    started: float


class Answerer:
    """Answers questions from a collection."""

    def __init__(
        self,
        searcher: Searcher,
        generative: GenerativeClient,
        retrieval: Retrieval,
        generation: Generation,
        metrics: Metrics,
        traffic: Traffic,
    ) -> None:
        self._traffic = traffic
        self._searcher = searcher
        self._generative = generative
        self._retrieval = retrieval
        self._generation = generation
        self._degraded = metrics.degraded
        self._stage = metrics.stage.labels("generate")

    async def answer(self, request: QueryRequest, call: Call) -> QueryResult:
        """Answer a question. Raises any of our errors."""
        return await self.answer_found(request, await self._searcher.search(request.search, call), call)

    async def answer_found(self, request: QueryRequest, found: SearchResult, call: Call) -> QueryResult:
        """Answer a question whose hits are there already."""
        result: QueryResult | None = None
        async with aclosing(self._events(request, found, call, streamed=False)) as events:
            async for event in events:
                if isinstance(event, QueryResult):
                    result = event
        assert result is not None
        return result

    async def stream(self, request: QueryRequest, call: Call) -> AsyncGenerator[Event]:
        """Answer a question as it comes: `SourcesFound`, `TextDelta`s, then the `QueryResult`.

        Use within `contextlib.aclosing`. Raises any of our errors, before the first event or between two.
        """
        found = await self._searcher.search(request.search, call)
        async with aclosing(self._events(request, found, call, streamed=True)) as events:
            async for event in events:
                yield event

    async def _events(
        self, request: QueryRequest, found: SearchResult, call: Call, *, streamed: bool
    ) -> AsyncGenerator[Event]:
        has_similarity = any("dense" in hit.scores for hit in found.hits)
        relevant = [hit for hit in found.hits if self._is_relevant(hit, has_similarity)]
        if not relevant:
            found.hits = []
            yield SourcesFound(found, 0)
            yield TextDelta(NOTHING_FOUND)
            yield self._nothing_found(found)
            return
        try:
            plan = await self._plan(request, found, relevant, call)
        except (BackendUnavailableError, BackendError, DeadlineExceededError):
            if not request.sources_on_failure or call.deadline.expired:
                raise
            found.hits = relevant
            result = self._sources_alone(found)
            yield SourcesFound(found, 0)
            yield result
            return
        found.hits = plan.sources
        yield SourcesFound(found, plan.omitted)
        async with aclosing(self._generated(plan, call, streamed=streamed)) as events:
            async for event in events:
                yield event

    async def _generated(self, plan: _Plan, call: Call, *, streamed: bool) -> AsyncGenerator[Event]:
        builder, usage, model, finish = plan.builder, Usage(), plan.request.model, "stop"
        emitted = False
        try:
            async with aclosing(self._deltas(plan.body, call, streamed=streamed)) as deltas:
                async for delta in deltas:
                    usage, model = delta.usage or usage, delta.model or model
                    finish = delta.finish_reason or finish
                    if text := builder.feed(delta.text):
                        emitted = True
                        yield TextDelta(text)
        except (BackendUnavailableError, BackendError, DeadlineExceededError):
            if emitted or not plan.request.sources_on_failure or call.deadline.expired:
                raise
            yield self._sources_alone(plan.found)
            return
        if text := builder.finish() + self._completion(plan):
            yield TextDelta(text)
        yield self._result(plan, usage, model, finish)

    async def _deltas(self, body: Mapping[str, Any], call: Call, *, streamed: bool) -> AsyncGenerator[Delta]:
        with self._traffic.query():
            if not streamed:
                yield await self._generative.chat(body, call)
                return
            async with aclosing(self._generative.stream(body, call)) as deltas:
                async for delta in deltas:
                    yield delta

    def _is_relevant(self, hit: ScoredHit, has_similarity: bool) -> bool:
        similarity, words = hit.scores.get("dense", 0.0), hit.scores.get("sparse", 0.0)
        if not has_similarity:
            # Words alone, as asked for or for want of an embedding: BM25 has no scale over collections to cut at.
            return words > 0
        return similarity >= self._retrieval.min_similarity or words >= self._retrieval.min_sparse

    async def _plan(
        self, request: QueryRequest, found: SearchResult, relevant: Sequence[ScoredHit], call: Call
    ) -> _Plan:
        started = time.perf_counter()
        context = await self._generative.context_tokens(call)
        answer_tokens = min(request.max_tokens or self._generation.max_tokens, context // 2)
        system = request.system or self._generation.system or DEFAULT_SYSTEM
        budget = context - answer_tokens - _TEMPLATE_TOKENS - estimate_tokens(system)
        budget -= estimate_tokens(request.search.query)
        history = _recent(request.history, budget // 3)
        budget -= sum(estimate_tokens(turn["content"]) for turn in history)
        if budget < _TEMPLATE_TOKENS:
            raise ValidationFailedError("The question does not fit the model's context.", param="query")
        sources = _numbered(relevant[: self._generation.max_sources])
        kept = pack([estimate_tokens(render(source)) for source in sources], budget)
        sources = [_fitted(sources[0], budget), *sources[1:kept]]
        body: dict[str, Any] = {
            "messages": build_messages(question=request.search.query, sources=sources, system=system, history=history),
            "max_tokens": answer_tokens,
            "temperature": self._generation.temperature,
            **self._generation.options,
            **request.options,
        }
        if request.model is not None:
            body["model"] = request.model
        builder = AnswerBuilder([source.text for source in sources], require_grounding=request.require_grounding)
        return _Plan(request, found, list(relevant[:kept]), len(relevant) - kept, sources, body, builder, started)

    @staticmethod
    def _completion(plan: _Plan) -> str:
        """Return what a finished answer lacks: words that nothing supports are followed by those of the sources."""
        builder = plan.builder
        if builder.answer.strip() and not builder.unsupported:
            return ""
        question, texts = plan.request.search.query, [source.text for source in plan.shown]
        found = best_quote(question, texts) or best_quote(f"{question} {builder.answer}", texts)
        if found is not None:
            return builder.quote(found.marker, found.text)
        return "" if builder.answer.strip() else builder.feed(NOTHING_FOUND) + builder.finish()

    def _result(self, plan: _Plan, usage: Usage, model: str | None, finish: str) -> QueryResult:
        took = time.perf_counter() - plan.started
        self._stage.observe(took)
        builder = plan.builder
        return QueryResult(
            answer=builder.answer,
            cited=builder.cited,
            sources=plan.sources,
            grounding=builder.grounding,
            omitted=plan.omitted,
            model=model,
            finish_reason=finish,
            usage=usage,
            degraded=plan.found.degraded,
            timings={**plan.found.timings, "generate": round(took * 1000, 2)},
        )

    def _sources_alone(self, found: SearchResult) -> QueryResult:
        self._degraded.labels("generation").inc()
        found.degraded.append("generation")
        return QueryResult("", [], found.hits, [], 0, None, "error", Usage(), found.degraded, found.timings)

    @staticmethod
    def _nothing_found(found: SearchResult) -> QueryResult:
        return QueryResult(NOTHING_FOUND, [], [], [], 0, None, "stop", Usage(), found.degraded, found.timings)


def _numbered(hits: Sequence[ScoredHit]) -> list[Source]:
    return [Source(marker, hit.chunk.title, hit.chunk.headings, hit.chunk.text) for marker, hit in enumerate(hits, 1)]


def pack(texts_tokens: Sequence[int], budget: int) -> int:
    """Return how many of the sources, best first, fit into `budget` tokens; at least 1 where there is any."""
    used = 0
    for count, size in enumerate(texts_tokens):
        used += size
        if used > budget:
            return max(count, 1)
    return len(texts_tokens)


def _fitted(source: Source, budget: int) -> Source:
    """Return the best source, cut to the budget where it alone is larger."""
    size = estimate_tokens(render(source))
    if size <= budget:
        return source
    return Source(source.marker, source.title, source.headings, truncate_to(source.text, 0.9 * budget / size))


def _recent(history: Sequence[Mapping[str, str]], budget: int) -> list[Mapping[str, str]]:
    """Return the newest turns that fit into `budget` tokens."""
    kept: list[Mapping[str, str]] = []
    for turn in reversed(history):
        budget -= estimate_tokens(turn["content"])
        if budget < 0:
            break
        kept.append(turn)
    return kept[::-1]
