"""`/health`, `/ready`, `/metrics`, `/openapi.json`: what the process knows of itself, without asking a backend."""

from __future__ import annotations

import time
from typing import Any, Literal

from aiohttp import web
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from typing_extensions import TypedDict

from hartonomous import __version__
from hartonomous.handlers import shapes
from hartonomous.handlers.answers import json_response
from hartonomous.handlers.offload import in_thread
from hartonomous.handlers.operations import Operation
from hartonomous.keys import METRICS, RUNTIME, STATE


class HealthAnswer(TypedDict):
    """What the monitor knows of the backends."""

    status: Literal["ok", "degraded"]
    version: str
    uptime_s: float
    backends: dict[str, Literal["up", "down", "unknown"]]


class ReadyAnswer(TypedDict):
    """Whether requests should be sent here, and why not."""

    status: Literal["ready", "not ready"]
    reasons: list[str]


async def health(request: web.Request) -> web.Response:
    """Answer 200 while the process serves."""
    state = request.app[STATE]
    backends = state.current.monitor.statuses()
    return json_response(
        {
            "status": "ok" if all(status == "up" for status in backends.values()) else "degraded",
            "version": __version__,
            "uptime_s": round(time.monotonic() - state.started, 1),
            "backends": backends,
        }
    )


async def ready(request: web.Request) -> web.Response:
    """Answer 200 when requests can be served, 503 with the reasons when they cannot."""
    state = request.app[STATE]
    monitor = state.current.monitor
    reasons = [f"{name} is {monitor.status(name)}" for name in monitor.missing()]
    if state.stopping:
        reasons.insert(0, "the server is shutting down")
    body = {"status": "not ready" if reasons else "ready", "reasons": reasons}
    return json_response(body, status=503 if reasons else 200)


async def metrics(request: web.Request) -> web.Response:
    """Answer Prometheus' text."""
    try:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    except (TypeError, ValueError):
        encode, content_type = choose_encoder("")  # a version that is none in the Accept header
    return web.Response(body=encode(request.app[METRICS].registry), headers={"Content-Type": content_type})


async def openapi(request: web.Request) -> web.Response:
    """Answer the OpenAPI document of the current configuration, with what is found on this listener."""
    documents = request[RUNTIME].openapi
    main, operators = await in_thread(lambda: documents.both)
    is_operators = request.protocol in request.app[STATE].operators
    return web.Response(body=operators if is_operators else main, content_type="application/json")


_TEXT = ("text/plain", OPENMETRICS.partition(";")[0])

OPERATIONS = (
    Operation(
        "GET",
        "/health",
        health,
        "Liveness, and what is known of the backends",
        "operations",
        answer=HealthAnswer,
        scope=None,
    ),
    Operation(
        "GET",
        "/ready",
        ready,
        "Readiness",
        "operations",
        answer=ReadyAnswer,
        failure=ReadyAnswer | shapes.ErrorAnswer,
        errors=(503,),
        scope=None,
    ),
    Operation("GET", "/metrics", metrics, "Prometheus metrics", "operations", answer=str, media=_TEXT, scope="metrics"),
    Operation(
        "GET",
        "/openapi.json",
        openapi,
        "This document",
        "operations",
        answer=dict[str, Any],
        errors=(503,),
        scope=None,
    ),
)
