"""The routes of Qdrant's REST that the engine serves, and Qdrant's envelope around every answer.

{"result": …, "status": "ok", "time": seconds}        {"status": {"error": "…"}, "time": seconds}
"""

from __future__ import annotations

import errno
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from hartonomous import codec
from hartonomous.engine import collections_api, points_api
from hartonomous.engine.locked import locked
from hartonomous.engine.refusal import RefusedError, unsupported
from hartonomous.engine.state import ACTIVITY, STORE, Activity
from hartonomous.engine.store import Store
from hartonomous.errors import HartonomousError
from hartonomous.log import logger

# The release whose REST the engine speaks; qdrant-client compares it with its own.
VERSION = "1.19.0"
MAX_BODY = 64 * 2**20

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(store: Store, key: str | None = None) -> web.Application:
    """Return the application over an open store, for those with the key; who owns the store closes it."""
    middlewares: list[Middleware] = [_envelope] if key is None else [_envelope, locked(key)]
    app = web.Application(client_max_size=MAX_BODY, middlewares=middlewares)
    app[STORE] = store
    app[ACTIVITY] = Activity()
    app.router.add_get("/", _root)
    app.router.add_get("/healthz", _alive)
    app.router.add_get("/livez", _alive)
    app.router.add_get("/readyz", _ready)
    app.add_routes(collections_api.routes)
    app.add_routes(points_api.routes)
    return app


async def _root(_request: web.Request) -> web.Response:
    return web.json_response(
        {"title": "qdrant - vector search engine", "version": VERSION}, dumps=lambda v: codec.dumps(v).decode()
    )


async def _alive(_request: web.Request) -> web.Response:
    return web.Response(text="healthz check passed")


async def _ready(_request: web.Request) -> web.Response:
    return web.Response(text="all shards are ready")


def _failed(status: int, message: str, started: float) -> web.Response:
    body = codec.dumps({"status": {"error": message}, "time": time.perf_counter() - started})
    return web.Response(status=status, body=body, content_type=codec.JSON)


@web.middleware
async def _envelope(request: web.Request, handler: Handler) -> web.StreamResponse:
    started = time.perf_counter()
    activity = request.app[ACTIVITY]
    activity.begin()
    try:
        return await handler(request)
    except RefusedError as error:
        return _failed(error.status, error.message, started)
    except HartonomousError as error:
        return _failed(error.status, f"Format error in JSON body: {error.message}", started)
    except web.HTTPException as error:
        return _refused_by_router(request, error, started)
    except OSError as error:
        return _disk_failed(error, started)
    except Exception:  # noqa: BLE001 - the last resort: a client always gets an answer in the envelope
        logger.exception("unexpected failure")
        return _failed(500, "Service internal error", started)
    finally:
        activity.end()


def _refused_by_router(request: web.Request, error: web.HTTPException, started: float) -> web.Response:
    if error.status in (404, 405):
        refused = unsupported(f"the route {request.method} {request.path}")
        return _failed(error.status, refused.message, started)
    if error.status == 413:
        return _failed(413, f"JSON payload is larger than allowed (limit: {MAX_BODY} bytes)", started)
    return _failed(error.status, error.reason, started)


def _disk_failed(error: OSError, started: float) -> web.Response:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _failed(507, "Service internal error: No space left on device", started)
    logger.bind(error=str(error)).error("input or output failed")
    return _failed(500, "Service internal error: input or output failed", started)
