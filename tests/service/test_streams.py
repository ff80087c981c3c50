"""A stream to a client that has nothing to say for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from hartonomous.handlers.stream import EventStream


@pytest.fixture
async def silent_url() -> AsyncIterator[str]:
    """A server whose stream says one thing, is silent until it is asked to go on, and says another."""
    go_on = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        async with EventStream(request, ping_s=0.01) as stream:
            await stream.event("first", {})
            await go_on.wait()
            await stream.event("second", {})
        return stream.response

    async def resume(request: web.Request) -> web.Response:
        go_on.set()
        return web.Response()

    app = web.Application()
    app.router.add_get("/stream", handler)
    app.router.add_post("/resume", resume)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_a_silent_stream_is_kept_alive_by_pings_between_whole_events(silent_url: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(silent_url + "/stream") as response:
        seen = b""
        while seen.count(b": ping\n\n") < 3:
            seen += await response.content.readany()
        async with session.post(silent_url + "/resume"):
            pass
        seen += await response.read()
    events = [event for event in seen.split(b"\n\n") if event and event != b": ping"]
    assert events == [b"event: first\ndata: {}", b"event: second\ndata: {}"]
