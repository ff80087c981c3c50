"""Every typed key of the application and of a request, and what stands behind them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
from aiohttp import web

from hartonomous.audit import Trail
from hartonomous.cache.generations import Changes
from hartonomous.clients.embedding import EmbeddingClient
from hartonomous.clients.generative import GenerativeClient
from hartonomous.clients.pool import Pool
from hartonomous.clients.reranking import RerankingClient
from hartonomous.clients.schema import Schema
from hartonomous.clients.vectors import VectorClient
from hartonomous.config import Config
from hartonomous.core.access import NOBODY, Caller, Scope
from hartonomous.core.addresses import Proxies
from hartonomous.core.call import Call
from hartonomous.core.overload import Beginners, Crowd
from hartonomous.core.trace import Span, TraceContext
from hartonomous.gathering import Gathering
from hartonomous.keyring import Keyring, Presented
from hartonomous.limiting.limiter import Limiter
from hartonomous.limiting.meter import Meter
from hartonomous.metrics import Metrics
from hartonomous.monitor import Monitor
from hartonomous.pipelines.answering import CachedAnswerer
from hartonomous.pipelines.batch import BatchAnswerer
from hartonomous.pipelines.ingest import Ingestor
from hartonomous.pipelines.query import Answerer
from hartonomous.pipelines.search import Searcher
from hartonomous.pipelines.sweep import Sweeper
from hartonomous.pipelines.traffic import Traffic
from hartonomous.tls import ServingContext
from hartonomous.tracing import Tracer
from hartonomous.turns import Turns


class Documents:
    """The OpenAPI document of each listener (`server.admin`); where there is one listener both are its own.

    `make` returns both. It takes some 50 ms, so it is called when the first of them is asked for: few ever are, and a
    start would wait for it.
    """

    def __init__(self, make: Callable[[], tuple[bytes, bytes]]) -> None:
        self._make = make

    @cached_property
    def both(self) -> tuple[bytes, bytes]:
        """The document of the main listener and that of the operators'. The first time it is work for a thread."""
        return self._make()


@dataclass(slots=True, frozen=True)
class Runtime:
    """The configuration and everything made from it; a request keeps the one it began with."""

    config: Config
    pools: dict[str, Pool]
    embedding: EmbeddingClient
    generative: GenerativeClient
    reranking: RerankingClient | None
    vectors: VectorClient
    schema: Schema
    searcher: Searcher
    answerer: Answerer | CachedAnswerer
    batch: BatchAnswerer
    ingestor: Ingestor
    sweeper: Sweeper
    traffic: Traffic
    changes: Changes
    monitor: Monitor
    keyring: Keyring
    limiter: Limiter
    proxies: Proxies
    tracer: Tracer | None
    openapi: Documents


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Floor = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


@dataclass(slots=True, frozen=True)
class Guard:
    """What a caller needs for a handler, and whether web pages are kept from it (`server.cors`).

    Without a scope anyone is answered. `event` is the audit trail's word for what is done, None where nothing is noted.
    `parameters` are those that its query string may have, None where others are ignored.
    """

    scope: Scope | None
    event: str | None = None
    is_closed_to_pages: bool = False
    parameters: frozenset[str] | None = None


class Peer(web.RequestHandler):
    """A connection, which remembers the key that it presented."""

    __slots__ = ("presented",)

    presented: Presented


class Tenure:
    """A runtime from the moment it serves to the end of the last request that began with it; `stack` closes it."""

    def __init__(self, runtime: Runtime, stack: AsyncExitStack) -> None:
        self.runtime = runtime
        self.users = 0
        self._stack = stack
        self._ended = asyncio.Event()
        self._retired = False

    def leave(self) -> None:
        """Count a user of the runtime less."""
        self.users -= 1
        if self._retired:
            self._look()

    async def retire(self) -> None:
        """Close the runtime as soon as nobody uses it any more; nobody begins to."""
        self._retired = True
        self._look()
        await self._ended.wait()
        await self._stack.aclose()
        gc.unfreeze()  # what the server has put out of the collector's sight may go with the first runtime

    def end(self) -> None:
        """Let `retire` wait for nobody: the server stops."""
        self._ended.set()

    def _look(self) -> None:
        if self._retired and not self.users:
            self._ended.set()


class Stay(msgspec.Struct, gc=False):
    """A request that is under way: the tenure that it takes part in, and with whom it began."""

    tenure: Tenure
    beginners: Beginners


class State:
    """What changes while the application lives: which runtime is `current`, whether it is to stop, what is under way.

    `stopping` is said to who asks whether it is ready; `draining`, no new work is taken. `surplus` are the connections
    for which there is no room: their work is refused. `operators` are those of the operator's own listener.
    `crowd` knows how many may be under way, `turns` when one may begin, `gathering` which questions begin together.
    `retired` are the runtimes of before that still serve what began with them. `needs_keys`: there have been keys, so
    that who takes the last one away locks everybody out, and lets nobody in.
    """

    def __init__(self, started: float) -> None:
        self.started = started
        self.stopping = False
        self.draining = False
        self.surplus: set[web.RequestHandler] = set()
        self.crowd = Crowd()
        self.turns = Turns()
        self.gathering = Gathering()
        self.operators: set[web.RequestHandler] = set()
        self.tenure: Tenure | None = None
        self.current: Runtime  # from start-up on
        self._coming: Keyring | None = None
        self.needs_keys = False
        self.retired: set[Tenure] = set()
        self.on_reload: Callable[[bool], None] = lambda _: None
        self.active = 0
        self.idle = asyncio.Event()
        self.idle.set()

    def begin(self) -> Stay:
        """Count a request as under way, until `end`, with the runtime that is its own; `idle` is set while none is."""
        tenure = self.tenure
        assert tenure is not None
        tenure.users += 1
        if not self.active:
            self.idle.clear()
        self.active += 1
        return Stay(tenure, self.crowd.begin())

    def end(self, stay: Stay) -> None:
        """Count the request less."""
        stay.tenure.leave()
        self.crowd.end(stay.beginners)
        self.active -= 1
        if not self.active:
            self.idle.set()

    def serve(self, tenure: Tenure) -> Tenure | None:
        """Let a runtime serve from now on; return the tenure of the one before, None where it is the first."""
        before, self.tenure, self.current = self.tenure, tenure, tenure.runtime
        return before

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Tell `on_reload` when a reload begins (True), and when it has ended, however it did (False)."""
        self.on_reload(True)
        try:
            yield
        finally:
            self.on_reload(False)

    @contextmanager
    def narrowed(self, coming: Keyring) -> Iterator[None]:
        """Let keys open what they do with these keys and with those that come, and nothing else."""
        self._coming = coming
        try:
            yield
        finally:
            self._coming = None

    def caller(self, key: str, connection: web.RequestHandler | None = None) -> Caller | None:
        """Return whose key this is that came on a connection, None when there is none."""
        presented = connection.presented if isinstance(connection, Peer) else None
        caller = self.current.keyring.caller(key, presented)
        if caller is None or self._coming is None:
            return caller
        coming = self._coming.caller(key)
        return None if coming is None else caller.within(coming)

    @property
    def runtimes(self) -> list[Runtime]:
        """The current runtime, and those of before that still serve."""
        return [self.current, *(tenure.runtime for tenure in self.retired)]


@dataclass(slots=True, frozen=True)
class Reloaded:
    """What a reload did: the key paths that changed, and those that need a restart and have their old value."""

    changed: list[str]
    restart_required: list[str]


Noted = Callable[[Reloaded | Exception], None]
"""Is told how a reload ended, for the audit trail: by the reload itself, which outlives who asked for it."""

METRICS = web.AppKey("METRICS", Metrics)
STATE = web.AppKey("STATE", State)
GUARDS: web.AppKey[Mapping[Handler, Guard]] = web.AppKey("GUARDS")
SERVING = web.AppKey("SERVING", ServingContext)
TRAIL = web.AppKey("TRAIL", Trail)
# Lets the requests of a server come in.
ENTRANCE: web.AppKey[Callable[[web.Server], None]] = web.AppKey("ENTRANCE")
RELOAD: web.AppKey[Callable[..., Coroutine[None, None, Reloaded]]] = web.AppKey("RELOAD")

REQUEST_ID = web.RequestKey("REQUEST_ID", str)
CALL = web.RequestKey("CALL", Call)
# The trace that the request belongs to, and its own span where that is recorded.
TRACE = web.RequestKey("TRACE", TraceContext)
SPAN: web.RequestKey[Span] = web.RequestKey("SPAN")
CALLER = web.RequestKey("CALLER", Caller)
ADDRESS = web.RequestKey("ADDRESS", str)
METER = web.RequestKey("METER", Meter)
RUNTIME = web.RequestKey("RUNTIME", Runtime)
# When the request's headers were there, by `time.perf_counter`.
STARTED = web.RequestKey("STARTED", float)
# There once a stream has had its first token.
SPEAKING = web.RequestKey("SPEAKING", bool)
# What handlers know for the audit trail.
NOTES: web.RequestKey[dict[str, Any]] = web.RequestKey("NOTES")
# There as long as the client of a stream need not read: the server has its hands full.
HELD = web.RequestKey("HELD", bool)


def guard_of(request: web.Request) -> Guard | None:
    """Return what a caller needs for what the request leads to; None where it leads nowhere."""
    return request.app[GUARDS].get(request.match_info.handler)


def exemplar_of(request: web.Request) -> dict[str, str] | None:
    """Return what a histogram keeps beside a measurement of a request; None where its trace is not recorded."""
    trace = request.get(TRACE)
    return trace.exemplar if trace is not None and is_somebodys(request) else None


def is_somebodys(request: web.Request) -> bool:
    """Whether the request has got past `auth`, and needed a key where there are keys: what strangers send is not."""
    return request.get(CALLER, NOBODY) is not NOBODY
