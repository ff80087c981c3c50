"""The query pipeline: search, prompt, generation, citations; whole or as a stream of events.

A follow-up is made to stand alone first (`pipelines.conversation`); what was found is merged and packed into the prompt
(`pipelines.merging`, `pipelines.packing`). Both forms run the same steps and the same `AnswerBuilder`, so a stream's
deltas put together are the answer. When nothing relevant is found the answer says so and the generative service is not
asked.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from hartonomous import tracing
from hartonomous.clients.generative import Delta, GenerativeClient, Usage
from hartonomous.config import Generation, Retrieval
from hartonomous.core.call import Call
from hartonomous.core.citations import AnswerBuilder, SentenceGrounding
from hartonomous.core.grounding import THRESHOLD, placed
from hartonomous.core.neutral import neutralise
from hartonomous.core.packing import Draft
from hartonomous.core.prompt import Source, alternating
from hartonomous.core.quote import best_quote
from hartonomous.core.relevance import Relevance
from hartonomous.core.template import DEFAULT_TEMPLATE, Template, fill
from hartonomous.errors import BackendError, BackendUnavailableError, DeadlineExceededError, ValidationFailedError
from hartonomous.metrics import Metrics
from hartonomous.pipelines.answers import Event, QueryRequest, QueryResult, SourcesFound, TextDelta
from hartonomous.pipelines.conversation import Conversation
from hartonomous.pipelines.merging import merge
from hartonomous.pipelines.packing import Packed, Packer
from hartonomous.pipelines.paraphrase import Paraphrases
from hartonomous.pipelines.questions import ScoredHit, SearchResult
from hartonomous.pipelines.search import Searcher
from hartonomous.pipelines.traffic import Traffic
from hartonomous.ragmetrics import outcome_of

__all__ = ["Answerer", "Event", "QueryRequest", "QueryResult", "SourcesFound", "TextDelta"]


@dataclass(slots=True)
class _Plan:
    """Everything that is settled before the first token; `go_on` with a smaller prompt after a refusal."""

    request: QueryRequest
    found: SearchResult
    hits: Sequence[ScoredHit]
    packed: Packed
    options: Mapping[str, Any]
    started: float
    builder: AnswerBuilder = field(init=False)

    def __post_init__(self) -> None:
        self.builder = AnswerBuilder(self.grounds, require_grounding=self.request.require_grounding)

    @property
    def shown(self) -> list[str]:
        """The texts that the model sees, by marker."""
        return [source.text for source in self.packed.shown.sources]

    @property
    def grounds(self) -> list[str]:
        """The texts that an answer can rest on: those with their titles and headings, which the model sees, too."""
        return [placed(source.text, source.title, source.headings) for source in self.packed.shown.sources]

    @property
    def sources(self) -> list[ScoredHit]:
        """The hits that the model sees, by marker."""
        return [self.hits[place] for place in self.packed.shown.places]

    @property
    def omitted(self) -> int:
        """How many hits did not fit."""
        return len(self.hits) - len(self.packed.shown.places)

    @property
    def body(self) -> dict[str, Any]:
        """The chat request."""
        return {"messages": self.packed.messages, "max_tokens": self.packed.max_tokens, **self.options}

    def go_on(self, packed: Packed) -> None:
        """Go on with another prompt, whose sources are the first of this one's."""
        self.packed = packed
        self.__post_init__()


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
        template: Template = DEFAULT_TEMPLATE,
        paraphrases: Paraphrases | None = None,
    ) -> None:
        self._traffic = traffic
        self._searcher = searcher
        self._generative = generative
        self._retrieval = retrieval
        self._generation = generation
        self._template = template
        self._standard = generation.system or fill(template.system)
        self._paraphrases = paraphrases
        self._packer = Packer(generative)
        self._conversation = Conversation(generative, generation, template, metrics, traffic)
        self._metrics = metrics.rag

    async def prepare(self, request: QueryRequest, call: Call) -> QueryRequest:
        """Return the request with a question that stands alone, to be searched for and given to `answer_found`.

        Raises PermissionDeniedError before anything is asked of a service, our errors when the deadline has passed.
        """
        call.grant.check(request.search.collection)
        alone = await self._conversation.stand_alone(request.search.query, request.history, request.model, call)
        return replace(request, search=replace(request.search, query=alone.query), alone=alone)

    async def answer(self, request: QueryRequest, call: Call) -> QueryResult:
        """Answer a question. Raises any of our errors."""
        request = await self.prepare(request, call)
        return await self.answer_found(request, await self._searcher.search(request.search, call), call)

    async def answer_found(self, request: QueryRequest, found: SearchResult, call: Call) -> QueryResult:
        """Answer a question whose hits are there already."""
        result: QueryResult | None = None
        async with aclosing(self._events(request, found, call, streamed=False)) as events:
            async for event in events:
                if isinstance(event, SourcesFound):
                    request.tell(event)
                elif isinstance(event, QueryResult):
                    result = event
        assert result is not None
        return result

    async def stream(self, request: QueryRequest, call: Call) -> AsyncGenerator[Event]:
        """Answer a question as it comes: `SourcesFound`, `TextDelta`s, then the `QueryResult`.

        Use within `contextlib.aclosing`. Raises any of our errors, before the first event or between two.
        """
        request = await self.prepare(request, call)
        found = await self._searcher.search(request.search, call)
        async with aclosing(self._events(request, found, call, streamed=True)) as events:
            async for event in events:
                yield event

    async def _events(
        self, request: QueryRequest, found: SearchResult, call: Call, *, streamed: bool
    ) -> AsyncGenerator[Event]:
        if request.alone is not None:
            request.alone.note(found)
        relevant = merge(self._relevant(request.search.query, found.hits))
        if not relevant:
            found.hits = []
            self._metrics.answered("nothing_found")
            yield SourcesFound(found, 0)
            result = self._nothing_found(request, found)
            yield TextDelta(result.answer)
            yield result
            return
        with tracing.span(call, "generate", {"hartonomous.sources": len(relevant)}) as call:
            try:
                plan = await self._plan(request, found, relevant, call)
            except (BackendUnavailableError, BackendError, DeadlineExceededError):
                if not request.sources_on_failure or call.deadline.expired:
                    raise
                found.hits = relevant
                result = self.sources_alone(request, found, 0)
                yield SourcesFound(found, 0)
                yield result
                return
            found.hits = plan.sources
            yield SourcesFound(found, plan.omitted)
            async with aclosing(self._generated(plan, call, streamed=streamed)) as events:
                async for event in events:
                    yield event

    async def _generated(self, plan: _Plan, call: Call, *, streamed: bool) -> AsyncGenerator[Event]:
        usage, model, finish = Usage(), plan.request.model, "stop"
        emitted = False
        try:
            async with aclosing(self._deltas(plan, call, streamed=streamed)) as deltas:
                async for delta in deltas:
                    usage, model = delta.usage or usage, delta.model or model
                    finish = delta.finish_reason or finish
                    if text := plan.builder.feed(delta.text):
                        emitted = True
                        yield TextDelta(text)
        except (BackendUnavailableError, BackendError, DeadlineExceededError):
            if emitted or not plan.request.sources_on_failure or call.deadline.expired:
                raise
            yield self.sources_alone(plan.request, plan.found, plan.omitted)
            return
        if text := plan.builder.finish():
            yield TextDelta(text)
        raised = await self._raised(plan, call)
        if not any(row.support >= THRESHOLD for row in raised) and (text := self._completion(plan)):
            yield TextDelta(text)
        result = self._result(plan, usage, model, finish, call)
        result.grounding[: len(raised)] = raised
        supported = [row.support >= THRESHOLD for row in result.grounding]
        self._metrics.answered(outcome_of(supported), len(result.cited))
        yield result

    async def _raised(self, plan: _Plan, call: Call) -> list[SentenceGrounding]:
        """Return the rows of the answer with the support that embeddings give, if they are asked for and can be had."""
        rows = list(plan.builder.grounding)
        if self._paraphrases is None:
            return rows
        try:
            return await self._paraphrases.support(rows, plan.builder.answer, plan.grounds, call)
        except (BackendUnavailableError, BackendError, DeadlineExceededError, ValidationFailedError):
            self._metrics.degraded["grounding"].inc()
            plan.found.degraded.append("grounding")
            return rows

    async def _deltas(self, plan: _Plan, call: Call, *, streamed: bool) -> AsyncGenerator[Delta]:
        """Yield what the service generates; a prompt that it refuses as too long is made smaller once."""
        for attempt in range(2):
            begun = False
            try:
                async with aclosing(self._generation_of(plan, call, streamed=streamed)) as deltas:
                    async for delta in deltas:
                        begun = True
                        yield delta
                break
            except ValidationFailedError as error:
                if attempt or begun or error.error_code != "input_too_long":
                    raise
                plan.go_on(await self._packer.again(plan.packed, plan.options, call))

    async def _generation_of(self, plan: _Plan, call: Call, *, streamed: bool) -> AsyncGenerator[Delta]:
        with self._traffic.query():
            if not streamed:
                yield await self._generative.chat(plan.body, call)
                return
            async with aclosing(self._generative.stream(plan.body, call)) as deltas:
                async for delta in deltas:
                    yield delta

    def _relevant(self, question: str, hits: Sequence[ScoredHit]) -> list[ScoredHit]:
        """Return the hits that an answer may rest on."""
        relevance = Relevance(question, self._retrieval.min_similarity, self._retrieval.min_words)
        # Where only words were searched, as asked for or for want of an embedding, none is known to be dissimilar.
        unknown = 0.0 if any("dense" in hit.scores for hit in hits) else None
        return [hit for hit in hits if relevance.holds(_shown(hit), hit.scores.get("dense", unknown))]

    async def _plan(
        self, request: QueryRequest, found: SearchResult, relevant: Sequence[ScoredHit], call: Call
    ) -> _Plan:
        started = time.perf_counter()
        options = {"temperature": self._generation.temperature, **self._generation.options, **request.options}
        if request.model is not None:
            options["model"] = request.model
        draft = Draft(
            question=request.search.query,
            system=self._system(request),
            standard=self._standard if request.system or request.added_system else None,
            history=alternating(request.history),
            sources=_numbered(relevant[: self._generation.max_sources]),
            template=self._template,
        )
        max_tokens = request.max_tokens or self._generation.max_tokens
        packed = await self._packer.pack(draft, max_tokens, options, call)
        return _Plan(request, found, relevant, packed, options, started)

    def _system(self, request: QueryRequest) -> str:
        """Return the instruction; what a caller gives as one cannot end its turn either."""
        own = neutralise(request.system) if request.system else self._standard
        return "\n\n".join(filter(None, (own, neutralise(request.added_system or ""))))

    def _completion(self, plan: _Plan) -> str:
        """Return what a finished answer lacks: words that nothing supports are followed by those of the sources."""
        builder = plan.builder
        if builder.answer.strip() and not builder.unsupported:
            return ""
        question, texts = plan.request.search.query, plan.shown
        found = best_quote(question, texts) or best_quote(f"{question} {builder.answer}", texts)
        if found is not None:
            return builder.quote(found.marker, found.text)
        return "" if builder.answer.strip() else builder.feed(fill(self._template.nothing_found)) + builder.finish()

    def _result(self, plan: _Plan, usage: Usage, model: str | None, finish: str, call: Call) -> QueryResult:
        took = time.perf_counter() - plan.started
        self._metrics.stage["generate"].observe(took, call.exemplar)
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
            search_query=plan.request.search_query,
        )

    def sources_alone(self, request: QueryRequest, found: SearchResult, omitted: int) -> QueryResult:
        """Return what is left where the generative service failed, and note it in `found.degraded`."""
        self._metrics.degraded["generation"].inc()
        self._metrics.answered("without_generation")
        found.degraded.append("generation")
        return _without_generation("", found, request, omitted, finish="error")

    def _nothing_found(self, request: QueryRequest, found: SearchResult) -> QueryResult:
        return _without_generation(fill(self._template.nothing_found), found, request, 0, finish="stop")


def _without_generation(
    answer: str, found: SearchResult, request: QueryRequest, omitted: int, *, finish: str
) -> QueryResult:
    return QueryResult(
        answer=answer,
        cited=[],
        sources=found.hits,
        grounding=[],
        omitted=omitted,
        model=None,
        finish_reason=finish,
        usage=Usage(),
        degraded=found.degraded,
        timings=found.timings,
        search_query=request.search_query,
    )


def _numbered(hits: Sequence[ScoredHit]) -> list[Source]:
    return [Source(marker, hit.chunk.title, hit.chunk.headings, hit.chunk.text) for marker, hit in enumerate(hits, 1)]


def _shown(hit: ScoredHit) -> str:
    chunk = hit.chunk
    return "\n".join([chunk.title or "", *(chunk.headings or ()), chunk.text])
