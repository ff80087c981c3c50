"""Every typed key of the application and of a request, and what stands behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aiohttp import web

from hartonomous.clients.embedding import EmbeddingClient
from hartonomous.clients.generative import GenerativeClient
from hartonomous.clients.pool import Pool
from hartonomous.clients.reranking import RerankingClient
from hartonomous.clients.schema import Schema
from hartonomous.clients.vectors import VectorClient
from hartonomous.config import Config
from hartonomous.core.call import Call
from hartonomous.metrics import Metrics
from hartonomous.monitor import Monitor
from hartonomous.pipelines.answering import CachedAnswerer
from hartonomous.pipelines.batch import BatchAnswerer
from hartonomous.pipelines.ingest import Ingestor
from hartonomous.pipelines.query import Answerer
from hartonomous.pipelines.search import Searcher
from hartonomous.pipelines.sweep import Sweeper
from hartonomous.pipelines.traffic import Traffic


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
    monitor: Monitor


class State:
    """What changes while the application lives: the current runtime, whether it is to stop, what is under way.

    `stopping` is said to who asks whether it is ready; `draining`, no new work is taken. `surplus` are the connections
    for which there is no room: their work is refused.
    """

    def __init__(self, started: float) -> None:
        self.started = started
        self.stopping = False
        self.draining = False
        self.surplus: set[web.RequestHandler] = set()
        self.runtime: Runtime | None = None
        self.active = 0
        self.idle = asyncio.Event()
        self.idle.set()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count a request as under way; `idle` is set while there is none."""
        self.active += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.active -= 1
            if not self.active:
                self.idle.set()

    @property
    def current(self) -> Runtime:
        """The runtime; there is one from start-up to clean-up."""
        if self.runtime is None:
            raise RuntimeError("the application has not been started")
        return self.runtime


CONFIG = web.AppKey("CONFIG", Config)
METRICS = web.AppKey("METRICS", Metrics)
STATE = web.AppKey("STATE", State)
OPENAPI = web.AppKey("OPENAPI", bytes)

REQUEST_ID = web.RequestKey("REQUEST_ID", str)
CALL = web.RequestKey("CALL", Call)
