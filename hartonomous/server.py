"""The signals and the drain.

`run` serves until SIGTERM or SIGINT. Then `/ready` is 503 at once, and after `notice_s` new work is refused with 503,
while the socket stays open so that everybody sees it; what is under way has `drain_s` to finish. After that the calls
to the model services are ended, so that every stream gets its error event; what is being written to the vector store is
finished. Each answer says that its connection closes. At the end who has connected and not been answered is answered,
and the process exits. A second signal does not hurry anybody: systemd's own limit does.
"""

from __future__ import annotations

import asyncio
import signal

from aiohttp import web

from hartonomous.app import create_app
from hartonomous.config import Config, Server
from hartonomous.keys import METRICS, STATE, State
from hartonomous.listening import Listener
from hartonomous.log import logger

# How long a request that was cut off may take to say so, and a client to take what it was answered.
_LAST_WORDS_S = 5.0


async def run(config: Config) -> None:
    """Serve `config` until a signal comes.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    app = create_app(config)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=_LAST_WORDS_S)
    stopped = _stop_signal()
    await runner.setup()
    listener = Listener(runner, config)
    try:
        await listener.listen(config.server.host, config.server.port)
        for host, port in listener.addresses:
            logger.bind(host=host, port=port, connections=listener.limit).info("listening")
        await stopped.wait()
        await _drain(app, config.server)
        await listener.close(_LAST_WORDS_S)
    finally:
        await runner.cleanup()
        await listener.wait_closed(_LAST_WORDS_S)
    logger.info("stopped")


async def _drain(app: web.Application, limits: Server) -> None:
    """Wait until nothing is under way, or end the calls to the model services when that takes too long."""
    state, metrics = app[STATE], app[METRICS]
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
    runtime = state.current
    for name, pool in runtime.pools.items():
        if name != "qdrant":
            await pool.abort()
    # What has begun to be written has its calls to the store left, each of which has a limit of its own; its caller
    # still hears of it.
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


def _stop_signal() -> asyncio.Event:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    return stopped
