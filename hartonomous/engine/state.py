"""What handlers share: the store, when the last request was, the writes under way, and how an answer is written."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web

from hartonomous import codec
from hartonomous.engine.refusal import RefusedError
from hartonomous.engine.store import Store
from hartonomous.errors import HartonomousError
from hartonomous.log import logger

T = TypeVar("T")


class Activity:
    """Requests under way and writes that must finish."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._last = time.monotonic()
        self._writes: set[asyncio.Task[Any]] = set()

    def begin(self) -> None:
        """Count a request."""
        self.in_flight += 1

    def end(self) -> None:
        """A request was answered."""
        self.in_flight -= 1
        self._last = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since the last answer; 0 while a request or a write is under way."""
        return 0.0 if self.in_flight or self._writes else time.monotonic() - self._last

    async def finish(self, write: Coroutine[Any, Any, T]) -> T:
        """Await `write`, which goes on to its end although the client leaves (the request is cancelled)."""
        task = asyncio.create_task(write)
        self._writes.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._writes.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, (RefusedError, HartonomousError, OSError)):
            logger.bind(error=repr(error)).error("a write failed")

    async def settled(self) -> None:
        """Return when no write is under way."""
        while self._writes:
            await asyncio.wait(set(self._writes))


STORE = web.AppKey("store", Store)
ACTIVITY = web.AppKey("activity", Activity)


async def body(request: web.Request) -> bytes:
    """Return the body; 400 unless it is declared as JSON (so that a foreign web page cannot send one unasked)."""
    if request.content_type != codec.JSON:
        raise RefusedError(400, "Content type error: expected application/json")
    return await request.read()


def answer(result: bytes, started: float) -> web.Response:
    """Return 200 with `result`, which is JSON already, in Qdrant's envelope."""
    took = b"%.9f" % (time.perf_counter() - started)
    return web.Response(body=b'{"result":' + result + b',"status":"ok","time":' + took + b"}", content_type=codec.JSON)
