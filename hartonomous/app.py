"""THE wiring: `create_app(config)` makes the application; everything it uses is made here or in `wiring`.

A request falls through the middlewares in the order of `MIDDLEWARES` to a handler. Clients, pipelines and the monitor
are made at start-up inside one exit stack, so that a start that fails half-way closes what it had opened, in reverse
order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack

from aiohttp import web

from hartonomous.clients.generative import GenerativeClient
from hartonomous.config import Config
from hartonomous.configfile import load_template
from hartonomous.handlers import admin, documents, ingest, openai, openapi, ops, rag
from hartonomous.keys import CONFIG, METRICS, OPENAPI, STATE, Runtime, State
from hartonomous.log import logger
from hartonomous.metrics import Metrics
from hartonomous.middleware.access import access
from hartonomous.middleware.auth import auth
from hartonomous.middleware.drain import drain, end_connection
from hartonomous.middleware.errors import errors
from hartonomous.middleware.request_id import add_request_id, request_id
from hartonomous.monitor import Monitor
from hartonomous.pipelines.batch import BatchAnswerer
from hartonomous.pipelines.paraphrase import Paraphrases
from hartonomous.pipelines.query import Answerer
from hartonomous.pipelines.sweep import Sweeper
from hartonomous.wiring import open_answers, open_pool, open_search, open_storage

# Limits by address come before `auth`, limits by key behind it.
MIDDLEWARES = (request_id, access, errors, drain, auth)

OPERATIONS = (
    *ingest.OPERATIONS,
    *rag.OPERATIONS,
    *documents.OPERATIONS,
    *openai.OPERATIONS,
    *admin.OPERATIONS,
    *ops.OPERATIONS,
)

# A block of the loop is seen for as much of it as is left when the timer is due.
_LAG_INTERVAL_S = 0.05


def create_app(config: Config) -> web.Application:
    """Return the application; nothing is connected before it is started."""
    app = web.Application(middlewares=MIDDLEWARES, client_max_size=config.server.max_body_bytes)
    app[CONFIG] = config
    app[METRICS] = Metrics()
    app[STATE] = State(time.monotonic())
    app[OPENAPI] = openapi.document(OPERATIONS, config)
    for operation in OPERATIONS:
        app.router.add_route(operation.method, _pattern(operation.path), operation.handler)
    app.on_response_prepare.append(add_request_id)
    app.on_response_prepare.append(end_connection)
    app.cleanup_ctx.append(_lifetime)
    return app


def _pattern(path: str) -> str:
    """Return the router's form of a path: an id at the end may hold slashes."""
    return f"{path[:-4]}{{id:.+}}" if path.endswith("{id}") else path


async def _lifetime(app: web.Application) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        app[STATE].runtime = await _make_runtime(app[CONFIG], app[METRICS], stack)
        await _background(stack, _measure_lag(app[METRICS]))
        yield


async def _make_runtime(config: Config, metrics: Metrics, stack: AsyncExitStack) -> Runtime:
    backends, settings = config.backends, config.rag
    storage = open_storage(config, metrics, stack)
    await storage.tokens.check()
    embedding, vectors, schema, traffic = storage.embedding, storage.vectors, storage.schema, storage.traffic
    search = open_search(config, storage, metrics, stack)
    searcher, reranking = search.searcher, search.reranking
    pools = storage.pools | {
        "generative": open_pool("generative", backends.generative.urls, backends.generative, metrics, stack),
        **search.pools,
    }
    generative = GenerativeClient(pools["generative"], backends.generative, metrics)
    template = load_template(settings.generation.template)
    paraphrases = Paraphrases(embedding) if settings.generation.grounding == "embedding" else None
    answerer = Answerer(
        searcher, generative, settings.retrieval, settings.generation, metrics, traffic, template, paraphrases
    )
    cached = open_answers(config, storage, search, generative, template, answerer, metrics, stack)
    monitor = Monitor(list(pools.values()), config.health, metrics)
    await _background(stack, monitor.run())
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
        monitor=monitor,
    )


async def _background(stack: AsyncExitStack, work: Coroutine[None, None, None]) -> None:
    """Run `work` until the stack is closed."""
    task = asyncio.create_task(work)

    task.add_done_callback(_tell_failure)

    async def stop() -> None:
        task.cancel()
        await asyncio.wait({task})

    stack.push_async_callback(stop)


def _tell_failure(task: asyncio.Task[None]) -> None:
    """Log a background task that ended by itself, which is a bug."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.opt(exception=error).error("a background task ended")


async def _measure_lag(metrics: Metrics) -> None:
    """Observe how late the event loop wakes a timer: what blocks it shows here."""
    while True:
        asked = time.monotonic()
        await asyncio.sleep(_LAG_INTERVAL_S)
        metrics.loop_lag.observe(max(0.0, time.monotonic() - asked - _LAG_INTERVAL_S))
