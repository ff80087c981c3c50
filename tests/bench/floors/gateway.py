"""A bare aiohttp handler that passes chat completions through: `python -m tests.bench.floors.gateway PORT BACKEND`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

_SESSION = web.AppKey("session", aiohttp.ClientSession)
_JSON = {"Content-Type": "application/json"}


async def chat(request: web.Request) -> web.StreamResponse:
    """Pass the body to the backend and its answer back, as it comes."""
    body = await request.read()
    async with request.app[_SESSION].post("/v1/chat/completions", data=body, headers=_JSON) as answer:
        if answer.content_type != "text/event-stream":
            return web.Response(body=await answer.read(), status=answer.status, content_type=answer.content_type)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for piece in answer.content.iter_any():
            await response.write(piece)
        await response.write_eof()
        return response


async def ready(_: web.Request) -> web.Response:
    """Say that it listens."""
    return web.Response()


def main(port: int, backend: str) -> None:
    """Serve until SIGTERM."""

    async def session(app: web.Application) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(backend, connector=connector) as app[_SESSION]:
            yield

    app = web.Application()
    app.cleanup_ctx.append(session)
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/ready", ready)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
