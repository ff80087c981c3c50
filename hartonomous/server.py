"""The signals and the drain.

`run` serves until SIGTERM or SIGINT. Then `/ready` is 503 at once, and after `notice_s` new work is refused with 503,
while the socket stays open so that everybody sees it; what is under way has `drain_s` to finish. After that the calls
to the model services are ended, so that every stream gets its error event; what is being written to the vector store is
finished. Each answer says that its connection closes. At the end who has connected and not been answered is answered,
and the process exits. A second signal does not hurry anybody: systemd's own limit does. SIGHUP reads the
configuration again.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiohttp import web

from hartonomous.app import create_app
from hartonomous.config import Config
from hartonomous.doors import Doors
from hartonomous.keys import METRICS, RELOAD, STATE, TRAIL, State
from hartonomous.log import logger
from hartonomous.middleware.reloads import reload_noted

# How long a request that was cut off may take to say so, and a client to take what it was answered.
_LAST_WORDS_S = 5.0


async def run(config: Config, path: Path | None = None) -> None:
    """Serve `config` until a signal comes; it is read again from `path`.

    Raises:
        ConfigError: the address cannot be listened on, or a file that the configuration names is wrong.
    """
    hangup = _signalled(signal.SIGHUP)
    app = create_app(config, path)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=_LAST_WORDS_S)
    stopped = _signalled(signal.SIGTERM, signal.SIGINT)
    await runner.setup()
    doors = Doors(runner, config)
    try:
        await doors.open()
        async with _reloading(app, hangup):
            await stopped.wait()
        await _drain(app)
        await doors.close(_LAST_WORDS_S)
    finally:
        await runner.cleanup()
        await doors.wait_closed(_LAST_WORDS_S)
    logger.info("stopped")


@asynccontextmanager
async def _reloading(app: web.Application, hangup: asyncio.Event) -> AsyncIterator[None]:
    """Reload at each SIGHUP; those that come during a reload are one more."""

    async def reload() -> None:
        while await hangup.wait():
            hangup.clear()
            with suppress(Exception):  # told where it was raised
                await app[RELOAD](reload_noted(app[TRAIL], cause="signal"))

    task = asyncio.create_task(reload())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def _drain(app: web.Application) -> None:
    """Wait until nothing is under way, or end the calls to the model services when that takes too long."""
    state, metrics = app[STATE], app[METRICS]
    limits = state.current.config.server
    state.stopping = True
    metrics.draining.set(1)
    logger.bind(notice_s=limits.notice_s, drain_s=limits.drain_s, active=state.active).info("draining")
    await asyncio.sleep(limits.notice_s)
    state.draining = True
    if not await _idle(state, limits.drain_s):
        logger.bind(active=state.active).warning("what is under way is cut off")
        metrics.cut_off.inc(state.active)
        await _cut_off(state)


async def _cut_off(state: State) -> None:
    """End the calls to the model services, and wait until their requests have said so."""
    runtimes = state.runtimes
    for pool in {pool for runtime in runtimes for pool in runtime.pools.values()}:
        if pool.name != "qdrant":
            await pool.abort()
    # What has begun to be written has its calls to the store left, each of which has a limit of its own; its caller
    # still hears of it.
    for runtime in runtimes:
        await runtime.ingestor.jobs.drain()
    await _idle(state, _LAST_WORDS_S)


async def _idle(state: State, limit_s: float) -> bool:
    """Wait until nothing is under way; return whether that was within the time."""
    try:
        async with asyncio.timeout(limit_s):
            await state.idle.wait()
    except TimeoutError:
        return False
    return True


def _signalled(*numbers: signal.Signals) -> asyncio.Event:
    """Return what each of these signals sets."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, event.set)
    return event
