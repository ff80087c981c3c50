"""A store that stops at a moment: everything is passed on to the real one until then, and then nothing is answered.

A process behind it that is killed while it waits was killed between two calls, wherever the test wants.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

Moment = Callable[[str, str, bytes], bool]
"""Whether a request is where to stop: method, path, body."""


class Gate:
    """Whether the moment has come; where to reach the store."""

    def __init__(self, moment: Moment, session: aiohttp.ClientSession) -> None:
        self.url = ""
        self.reached = asyncio.Event()
        self._moment = moment
        self._session = session
        self._opened = asyncio.Event()

    def open(self) -> None:
        """Let everything through from now on, what waits as well."""
        self._opened.set()

    async def handle(self, request: web.Request) -> web.Response:
        """Pass a request on."""
        body = await request.read()
        if not self._opened.is_set() and self._moment(request.method, request.path_qs, body):
            self.reached.set()
            await self._opened.wait()
        headers = {"Content-Type": "application/json"}
        async with self._session.request(
            request.method, request.path_qs, data=body or None, headers=headers
        ) as response:
            return web.Response(status=response.status, body=await response.read(), content_type=response.content_type)


@asynccontextmanager
async def gate(url: str, moment: Moment) -> AsyncIterator[Gate]:
    """Listen before the store at `url`; yields the gate, whose own `url` is the one to use."""
    async with aiohttp.ClientSession(url) as session:
        made = Gate(moment, session)
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", made.handle)
        # What waits for a process that is killed is never passed on.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield made
        finally:
            await runner.cleanup()
