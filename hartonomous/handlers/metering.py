"""What a request uses of its limits and for its tenant, told as it becomes known. Without keys nobody counts it."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Protocol, Self

from aiohttp import web

from hartonomous.core.access import NOBODY
from hartonomous.core.call import Call
from hartonomous.core.usage import UsageReader
from hartonomous.errors import DeadlineExceededError, HartonomousError
from hartonomous.handlers.stream import ClientGoneError
from hartonomous.keys import CALLER, METER, METRICS, SPEAKING, STARTED, exemplar_of
from hartonomous.limiting.meter import Meter
from hartonomous.middleware.access import template_of
from hartonomous.pipelines.answering import CachedResult, CachedSources
from hartonomous.pipelines.answers import Event, QueryRequest, QueryResult, SourcesFound, TextDelta
from hartonomous.tenantmetrics import Tenant

# About so many characters are a token.
_CHARACTERS = 4


class _Answerer(Protocol):
    async def answer(self, request: QueryRequest, call: Call) -> QueryResult: ...


def received(request: web.Request, size: int) -> Meter | None:
    """Tell that bytes of the body have come; await `more` of what is returned: nothing where they are covered."""
    metrics = request.app[METRICS]
    metrics.received.value += size
    if (tenant := metrics.tenants.of_key(request.get(CALLER, NOBODY).key_id)) is not None:
        tenant.received += size
    meter = request.get(METER)
    return None if meter is None or meter.covers(size) else meter


def spent(request: web.Request, tokens: float) -> None:
    """Tell that models have taken and made tokens."""
    tenant, meter = _tenant(request), request.get(METER)
    if tenant is not None:
        tenant.tokens += tokens
    if meter is not None:
        meter.spent(tokens)


def answered(request: web.Request, event: Event) -> None:
    """Tell what an answer, or the next event of one, has taken; what was kept takes nothing."""
    if isinstance(event, TextDelta):
        first_token(request)
    elif isinstance(event, QueryResult) and not isinstance(event, CachedResult) and (tenant := _tenant(request)):
        tenant.tokens += event.usage.prompt_tokens + event.usage.completion_tokens
    meter = request.get(METER)
    if meter is None or isinstance(event, CachedResult | CachedSources):
        return
    if isinstance(event, SourcesFound):
        meter.estimated(_sources(event))
    elif isinstance(event, TextDelta):
        meter.estimated(1)
    else:
        meter.spent(event.usage.prompt_tokens + event.usage.completion_tokens, all_of_it=True)


def first_token(request: web.Request) -> None:
    """Tell that a piece of a streamed answer is there; the first one's time is measured."""
    if SPEAKING not in request:
        request[SPEAKING] = True
        took = time.perf_counter() - request[STARTED]
        request.app[METRICS].route_first_token(template_of(request)).observe(took, exemplar_of(request))


def _tenant(request: web.Request) -> Tenant | None:
    return request.app[METRICS].tenants.of_key(request.get(CALLER, NOBODY).key_id)


class Stake:
    """What an answer in one piece takes, by an estimate, where nobody waits for its end."""

    __slots__ = ("_meter", "_request", "_tokens")

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._meter = request.get(METER)
        self._tokens = 0

    def of(self, question: QueryRequest) -> QueryRequest:
        """Return the question, told to estimate its prompt when its generation begins: it is one request's own."""
        if self._meter is None or self._meter.policy.tokens is None:
            return question
        asked = len(question.search.query) + len(question.system or "") + len(question.added_system or "")
        asked += sum([len(turn["content"]) for turn in question.history])
        question.on_sources = lambda event: self._add(asked // _CHARACTERS + _sources(event))
        return question

    def ended(self, outcome: QueryResult | HartonomousError) -> None:
        """Use what was reported in place of the estimate, which holds where the time was up, as the caller may say."""
        if isinstance(outcome, DeadlineExceededError):
            return
        if self._tokens:
            self._add(-self._tokens)
        if isinstance(outcome, QueryResult) and not isinstance(outcome, CachedResult):
            spent(self._request, outcome.usage.prompt_tokens + outcome.usage.completion_tokens)

    def _add(self, tokens: int) -> None:
        if self._meter is not None:
            self._tokens += tokens
            self._meter.estimated(tokens)


async def answer_of(request: web.Request, answerer: _Answerer, question: QueryRequest, call: Call) -> QueryResult:
    """Return the answer in one piece; who leaves before its end has used its prompt."""
    stake = Stake(request)
    try:
        result = await answerer.answer(stake.of(question), call)
    except HartonomousError as error:
        stake.ended(error)
        raise
    stake.ended(result)
    return result


def _sources(event: SourcesFound) -> int:
    return sum([len(found.chunk.text) for found in event.found.hits]) // _CHARACTERS


class Relayed:
    """The tokens of a relayed answer to `body`, used when it has ended: leave this as a context manager then.

    One that nobody waited for has used its prompt. Where nobody counts them, without keys, nothing is read.
    """

    __slots__ = ("_meter", "_reader", "_tenant")

    def __init__(self, request: web.Request, body: bytes) -> None:
        self._tenant = _tenant(request)
        self._meter = request.get(METER)
        self._reader = None if self._tenant is None else UsageReader(len(body) // _CHARACTERS)

    def whole(self, answer: bytes) -> None:
        """Read an answer that is there as a whole."""
        if self._reader is not None:
            self._reader.whole(answer)

    def feed(self, data: bytes) -> None:
        """Read the next piece of an answer."""
        if self._reader is not None:
            self._reader.feed(data)

    def feed_events(self, data: bytes) -> None:
        """Read the next events of a stream, which are whole."""
        if self._reader is not None:
            self._reader.feed_events(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            if isinstance(error, asyncio.CancelledError | ClientGoneError | DeadlineExceededError):
                self._reader.left()
            tokens = self._reader.tokens
            if self._tenant is not None:
                self._tenant.tokens += tokens
            if self._meter is not None:
                self._meter.spent(tokens)
