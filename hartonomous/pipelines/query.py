"""The query pipeline: search, prompt, generation, citations; whole or as a stream of events.

A follow-up is made to stand alone first (`pipelines.conversation`); what was found is merged and packed into the prompt
(`pipelines.merging`, `pipelines.packing`). Both forms run the same steps and the same `AnswerBuilder`, so a stream's
deltas put together are the answer. When nothing relevant is found the answer says so and the generative service is not
asked.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from hartonomous import tracing
from hartonomous.clients.generative import Delta, GenerativeClient, Usage
from hartonomous.config import Generation, Retrieval
from hartonomous.core.call import Call
from hartonomous.core.citations import SentenceGrounding
from hartonomous.core.grounding import THRESHOLD
from hartonomous.core.neutral import neutralise
from hartonomous.core.packing import Draft
from hartonomous.core.prompt import Source, alternating, source_of
from hartonomous.core.quote import best_quote
from hartonomous.core.relevance import Relevance
from hartonomous.core.template import DEFAULT_TEMPLATE, Template, fill
from hartonomous.core.timings import milliseconds
from hartonomous.errors import BackendError, BackendUnavailableError, DeadlineExceededError, ValidationFailedError
from hartonomous.metrics import Metrics
from hartonomous.pipelines.answers import Event, QueryRequest, QueryResult, SourcesFound, TextDelta
from hartonomous.pipelines.conversation import Conversation
from hartonomous.pipelines.merging import merge
from hartonomous.pipelines.packing import Packer
from hartonomous.pipelines.paraphrase import Paraphrases
from hartonomous.pipelines.plan import Plan
from hartonomous.pipelines.questions import ScoredHit, SearchResult
from hartonomous.pipelines.search import Searcher
from hartonomous.pipelines.traffic import Traffic
from hartonomous.ragmetrics import outcome_of

__all__ = ["Answerer", "Event", "QueryRequest", "QueryResult", "SourcesFound", "TextDelta"]


# What a service that is down, refuses or is too slow raises: with `sources_on_failure` the sources alone are an answer.
_FAILED = (BackendUnavailableError, BackendError, DeadlineExceededError)


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
        self._options = {"temperature": generation.temperature, **generation.options}
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
        if not request.history:
            return request  # as most do; what is not awaited is not set up
        alone = await self._conversation.stand_alone(request.search.query, request.history, request.model, call)
        if alone.took_ms is None:
            return request  # it stands alone as it is
        return replace(request, search=replace(request.search, query=alone.query), alone=alone)

    async def answer(self, request: QueryRequest, call: Call) -> QueryResult:
        """Answer a question. Raises any of our errors."""
        request = await self.prepare(request, call)
        return await self.answer_found(request, await self._searcher.search(request.search, call), call)

    async def answer_found(self, request: QueryRequest, found: SearchResult, call: Call) -> QueryResult:
        """Answer a question whose hits are there already. Raises any of our errors."""
        relevant = self._begun(request, found)
        if not relevant:
            request.tell(SourcesFound(found, 0))
            return self._nothing_found(request, found)
        with tracing.span(call, "generate", {"hartonomous.sources": len(relevant)}) as call:
            plan = await self._planned(request, found, relevant, call)
            if isinstance(plan, QueryResult):
                request.tell(SourcesFound(found, 0))
                return plan
            request.tell(SourcesFound(found, plan.omitted))
            try:
                plan.hear(await self._whole(plan, call), final=True)
            except _FAILED:
                if not _sources_do(request, call):
                    raise
                return self.sources_alone(request, found, plan.omitted)
            raised = await self._raised(plan, call)
            self._completion(plan, raised)
            return self._result(plan, raised, call)

    async def stream(self, request: QueryRequest, call: Call) -> AsyncGenerator[Event]:
        """Answer a question as it comes: `SourcesFound`, `TextDelta`s, then the `QueryResult`.

        Use within `contextlib.aclosing`. Raises any of our errors, before the first event or between two.
        """
        request = await self.prepare(request, call)
        found = await self._searcher.search(request.search, call)
        relevant = self._begun(request, found)
        if not relevant:
            yield SourcesFound(found, 0)
            result = self._nothing_found(request, found)
            yield TextDelta(result.answer)
            yield result
            return
        with tracing.span(call, "generate", {"hartonomous.sources": len(relevant)}) as call:
            plan = await self._planned(request, found, relevant, call)
            if isinstance(plan, QueryResult):
                yield SourcesFound(found, 0)
                yield plan
                return
            yield SourcesFound(found, plan.omitted)
            async with aclosing(self._generated(plan, call)) as events:
                async for event in events:
                    yield event

    def _begun(self, request: QueryRequest, found: SearchResult) -> list[ScoredHit]:
        """Return the hits that an answer may rest on; where there are none, that is the outcome."""
        if request.alone is not None:
            request.alone.note(found)
        relevant = merge(self._relevant(request.search.query, found.hits))
        if not relevant:
            found.hits = []
            self._metrics.answered("nothing_found")
        return relevant

    async def _planned(
        self, request: QueryRequest, found: SearchResult, relevant: Sequence[ScoredHit], call: Call
    ) -> Plan | QueryResult:
        """Return the plan, or the sources alone where none can be made; `found` has the hits of it then."""
        started = time.perf_counter()
        options = {**self._options, **request.options}
        if request.model is not None:
            options["model"] = request.model
        max_tokens = request.max_tokens or self._generation.max_tokens
        try:
            packed = await self._packer.pack(self._draft(request, relevant), max_tokens, options, call)
        except _FAILED:
            if not _sources_do(request, call):
                raise
            found.hits = list(relevant)
            return self.sources_alone(request, found, 0)
        plan = Plan(request, found, relevant, packed, options, started)
        found.hits = plan.sources
        return plan

    async def _generated(self, plan: Plan, call: Call) -> AsyncGenerator[Event]:
        emitted = False
        try:
            async with aclosing(self._deltas(plan, call)) as deltas:
                async for delta in deltas:
                    if text := plan.hear(delta):
                        emitted = True
                        yield TextDelta(text)
        except _FAILED:
            if emitted or not _sources_do(plan.request, call):
                raise
            yield self.sources_alone(plan.request, plan.found, plan.omitted)
            return
        if text := plan.builder.finish():
            yield TextDelta(text)
        raised = await self._raised(plan, call)
        if text := self._completion(plan, raised):
            yield TextDelta(text)
        yield self._result(plan, raised, call)

    async def _raised(self, plan: Plan, call: Call) -> list[SentenceGrounding]:
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

    async def _whole(self, plan: Plan, call: Call) -> Delta:
        """Return all that the service generates; a prompt that it refuses as too long is made smaller once."""
        try:
            with self._traffic.query():
                return await self._generative.chat(plan.body, call)
        except ValidationFailedError as error:
            await self._made_smaller(plan, error, call)
        with self._traffic.query():
            return await self._generative.chat(plan.body, call)

    async def _deltas(self, plan: Plan, call: Call) -> AsyncGenerator[Delta]:
        """Yield what the service generates; a prompt that it refuses as too long is made smaller once."""
        for attempt in range(2):
            begun = False
            try:
                with self._traffic.query():
                    async with aclosing(self._generative.stream(plan.body, call)) as deltas:
                        async for delta in deltas:
                            begun = True
                            yield delta
                break
            except ValidationFailedError as error:
                if attempt or begun:
                    raise
                await self._made_smaller(plan, error, call)

    async def _made_smaller(self, plan: Plan, refusal: ValidationFailedError, call: Call) -> None:
        if refusal.error_code != "input_too_long":
            raise refusal
        plan.go_on(await self._packer.again(plan.packed, plan.options, call))

    def _relevant(self, question: str, hits: Sequence[ScoredHit]) -> list[ScoredHit]:
        """Return the hits that an answer may rest on."""
        least = self._retrieval.min_similarity
        if min([-math.inf if hit.dense is None else hit.dense for hit in hits], default=0.0) >= least:
            return list(hits)  # nothing is in doubt
        relevance = Relevance(question, least, self._retrieval.min_words)
        # Where only words were searched, as asked for or for want of an embedding, none is known to be dissimilar.
        unknown = 0.0 if any(hit.dense is not None for hit in hits) else None
        similarities = [unknown if hit.dense is None else hit.dense for hit in hits]
        return [
            hit
            for hit, similarity in zip(hits, similarities, strict=True)
            if relevance.is_similar(similarity) or relevance.holds(_shown(hit), similarity)
        ]

    def _draft(self, request: QueryRequest, relevant: Sequence[ScoredHit]) -> Draft:
        return Draft(
            question=request.search.query,
            system=self._system(request),
            standard=self._standard if request.system or request.added_system else None,
            history=alternating(request.history) if request.history else (),
            sources=_sources(relevant[: self._generation.max_sources]),
            template=self._template,
        )

    def _system(self, request: QueryRequest) -> str:
        """Return the instruction; what a caller gives as one cannot end its turn either."""
        own = neutralise(request.system) if request.system else self._standard
        if not request.added_system:
            return own
        return "\n\n".join(filter(None, (own, neutralise(request.added_system))))

    def _completion(self, plan: Plan, raised: Sequence[SentenceGrounding]) -> str:
        """Return what a finished answer lacks: words that nothing supports are followed by those of the sources."""
        builder = plan.builder
        if any(row.support >= THRESHOLD for row in raised) or (builder.answer.strip() and not builder.unsupported):
            return ""
        question, texts = plan.request.search.query, plan.shown
        found = best_quote(question, texts) or best_quote(f"{question} {builder.answer}", texts)
        if found is not None:
            return builder.quote(found.marker, found.text)
        return "" if builder.answer.strip() else builder.feed(fill(self._template.nothing_found), final=True)

    def _result(self, plan: Plan, raised: Sequence[SentenceGrounding], call: Call) -> QueryResult:
        took, builder = plan.took, plan.builder
        self._metrics.stage["generate"].observe(took, call.exemplar)
        grounding, cited = [*raised, *builder.grounding[len(raised) :]], builder.cited
        self._metrics.answered(outcome_of([row.support >= THRESHOLD for row in grounding]), len(cited))
        return QueryResult(
            answer=builder.answer,
            cited=cited,
            sources=plan.sources,
            grounding=grounding,
            omitted=plan.omitted,
            model=plan.model,
            finish_reason=plan.finish,
            usage=plan.usage,
            degraded=plan.found.degraded,
            timings={**plan.found.timings, "generate": milliseconds(took)},
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


def _sources_do(request: QueryRequest, call: Call) -> bool:
    """Tell whether the sources alone are an answer where the service failed: nobody is there for one that is late."""
    return request.sources_on_failure and not call.deadline.expired


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


def _sources(hits: Sequence[ScoredHit]) -> tuple[Source, ...]:
    return tuple([source_of(hit.chunk.text, hit.chunk.title, hit.chunk.headings) for hit in hits])


def _shown(hit: ScoredHit) -> str:
    chunk = hit.chunk
    return "\n".join([chunk.title or "", *(chunk.headings or ()), chunk.text])
