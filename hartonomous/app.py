"""THE wiring: `create_app(config)` makes the application; everything it uses is made here or in `wiring`.

A request falls through the floors of `middleware.floors` to a handler. Clients, pipelines and the monitor
are made at start-up inside one exit stack, so that a start that fails half-way closes what it had opened, in reverse
order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from contextvars import Context
from pathlib import Path

from aiohttp import web

from hartonomous.audit import Trail
from hartonomous.clients.embedding import EmbeddingClient
from hartonomous.clients.generative import GenerativeClient
from hartonomous.clients.pool import Pool
from hartonomous.config import Config, Health
from hartonomous.core.addresses import Proxies
from hartonomous.errors import ConfigError
from hartonomous.handlers import admin, documents, ingest, logs, openai, openapi, ops, rag
from hartonomous.keyring import Keyring
from hartonomous.keys import ENTRANCE, GUARDS, METRICS, RELOAD, SERVING, STATE, TRAIL, Runtime, State
from hartonomous.log import logger
from hartonomous.metrics import Metrics
from hartonomous.middleware import cors
from hartonomous.middleware.floors import Floors
from hartonomous.middleware.reloads import reload_noted
from hartonomous.monitor import Monitor
from hartonomous.parts import Parts
from hartonomous.pipelines.batch import BatchAnswerer
from hartonomous.pipelines.paraphrase import Paraphrases
from hartonomous.pipelines.query import Answerer
from hartonomous.pipelines.sweep import Sweeper
from hartonomous.reload import Reloader
from hartonomous.routing import Entrance, add_routes, gathering_paths
from hartonomous.settings import TOKENIZER, Settings, complete, read
from hartonomous.siblings import Siblings
from hartonomous.tls import ServingContext
from hartonomous.wiring import (
    client_settings,
    open_answers,
    open_limiter,
    open_pool,
    open_search,
    open_storage,
    open_traces,
)

OPERATIONS = (
    *ingest.OPERATIONS,
    *rag.OPERATIONS,
    *documents.OPERATIONS,
    *openai.OPERATIONS,
    *admin.OPERATIONS,
    *logs.OPERATIONS,
    *ops.OPERATIONS,
)

# A block of the loop is seen for as much of it as is left when the timer is due.
_LAG_INTERVAL_S = 0.05


def create_app(config: Config, path: Path | None = None) -> web.Application:
    """Return the application; nothing is connected before it is started. A reload reads the file at `path`.

    Raises:
        ConfigError: a file that the configuration names is wrong.
    """
    app = web.Application()
    settings = complete(config)
    app[METRICS] = Metrics()
    app[TRAIL] = Trail(config.audit, app[METRICS], config.log.kept_records)
    app[STATE] = State(time.monotonic())
    app[GUARDS] = {operation.handler: operation.guard for operation in OPERATIONS}
    if settings.certificate is not None:
        app[SERVING] = ServingContext.of(settings.certificate)
    siblings = None if path is None else Siblings(path, config.server.runtime_directory)
    reloader = _reloader(app, path, siblings)
    app[RELOAD] = reloader.reload
    add_routes(app.router, OPERATIONS, None if config.server.admin is None else app[STATE].operators)
    cors.setup(app)
    floors = Floors(app)
    app[ENTRANCE] = Entrance(app, floors.enter, gathering_paths(OPERATIONS)).open
    app.middlewares.append(floors.enter)  # for whoever serves the application without a `Listener`
    app.on_response_prepare.append(floors.prepare)
    app.on_cleanup.append(floors.close)
    app.cleanup_ctx.append(lambda app: _lifetime(app, reloader, settings))
    return app


def _reloader(app: web.Application, path: Path | None, siblings: Siblings | None) -> Reloader:
    parts, metrics = Parts(), app[METRICS]

    def read_again() -> Settings:
        if path is None:
            raise ConfigError("The server was started without a configuration file.")
        if not path.is_file():
            raise ConfigError(f"{path}: is no file any more")  # to read a pipe would be to wait
        return read(path)

    async def make(settings: Settings, stack: AsyncExitStack) -> Runtime:
        return await _make_runtime(settings, metrics, parts, stack)

    return Reloader(app[STATE], metrics, read_again, make, app.get(SERVING), siblings, app[TRAIL].kept)


async def _lifetime(app: web.Application, reloader: Reloader, settings: Settings) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        app[TRAIL].open()
        stack.callback(app[TRAIL].close)
        _background(stack, app[TRAIL].run())
        stack.push_async_callback(reloader.close)
        await reloader.start(settings)
        _background(stack, reloader.follow(reload_noted(app[TRAIL], cause="process")))
        stack.callback(_Rounds(app[STATE], app[METRICS]).stop)
        loop = asyncio.get_running_loop()
        app[METRICS].tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        yield


async def _make_runtime(read: Settings, metrics: Metrics, parts: Parts, stack: AsyncExitStack) -> Runtime:
    config, template = read.config, read.template
    backends, settings = config.backends, config.rag
    tracer = open_traces(config, metrics, parts, stack, read.trusts.get("tracing"))
    storage = open_storage(config, metrics, stack, parts, read.digests.get(TOKENIZER), read.trusts)
    await storage.tokens.check()
    embedding, vectors, schema, traffic = storage.embedding, storage.vectors, storage.schema, storage.traffic
    search = open_search(config, storage, metrics, stack)
    searcher, reranking = search.searcher, search.reranking
    pools = storage.pools | {
        "generative": open_pool(
            "generative", backends.generative, metrics, parts, stack, read.trusts.get("generative")
        ),
        **search.pools,
    }
    generative = parts.take(
        "generative client",
        client_settings(pools["generative"], backends.generative),
        lambda _: GenerativeClient(pools["generative"], backends.generative, metrics),
        stack,
    )
    paraphrases = Paraphrases(embedding) if settings.generation.grounding == "embedding" else None
    answerer = Answerer(
        searcher, generative, settings.retrieval, settings.generation, metrics, traffic, template, paraphrases
    )
    cached = open_answers(config, storage, search, generative, template, answerer, metrics, stack)
    monitor = _open_monitor(list(pools.values()), embedding, config.health, metrics, parts, stack)
    return Runtime(
        config=config,
        pools=pools,
        embedding=embedding,
        generative=generative,
        reranking=reranking,
        vectors=vectors,
        schema=schema,
        searcher=searcher,
        answerer=cached or answerer,
        batch=BatchAnswerer(searcher, answerer, cached),
        ingestor=storage.ingestor,
        sweeper=Sweeper(vectors, schema),
        traffic=traffic,
        changes=storage.changes,
        monitor=monitor,
        keyring=Keyring(config.auth),
        limiter=open_limiter(config, metrics, parts, stack, read.trusts.get("redis")),
        proxies=Proxies(config.server.trusted_proxies),
        tracer=tracer,
        openapi=parts.take("openapi", openapi.limits(config), lambda _: openapi.documents(OPERATIONS, config), stack),
    )


def _open_monitor(
    pools: list[Pool],
    embedding: EmbeddingClient,
    health: Health,
    metrics: Metrics,
    parts: Parts,
    stack: AsyncExitStack,
) -> Monitor:
    def make(own: AsyncExitStack) -> Monitor:
        monitor = Monitor(pools, health, metrics, canaries={"embedding": embedding.check})
        _background(own, monitor.run())
        return monitor

    return parts.take("monitor", (pools, embedding, health), make, stack)


def _background(stack: AsyncExitStack, work: Coroutine[None, None, None]) -> None:
    """Run `work` until the stack is closed; whoever's reload has begun it, it is nobody's work in particular."""
    task = asyncio.create_task(work, context=Context())

    task.add_done_callback(_tell_failure)

    async def stop() -> None:
        task.cancel()
        await asyncio.wait({task})

    stack.push_async_callback(stop)


def _tell_failure(task: asyncio.Task[None]) -> None:
    """Log a background task that ended by itself, which is a bug."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.opt(exception=error).error("a background task ended")


class _Rounds:
    """Observes how late the event loop wakes a timer, also for who says who is let in: what blocks it shows."""

    def __init__(self, state: State, metrics: Metrics) -> None:
        self._crowd, self._lag = state.crowd, metrics.loop_lag
        self._loop = asyncio.get_running_loop()
        self._set()

    def _set(self) -> None:
        self._asked = self._loop.time()
        self._timer = self._loop.call_at(self._asked + _LAG_INTERVAL_S, self._look)

    def _look(self) -> None:
        took = self._loop.time() - self._asked
        self._lag.observe(max(0.0, took - _LAG_INTERVAL_S))
        self._crowd.came_round(took, self._crowd.at_work)
        self._set()

    def stop(self) -> None:
        """Observe nothing any more."""
        self._timer.cancel()
