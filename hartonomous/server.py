"""The listening socket, the signals and the drain.

`run` serves until SIGTERM or SIGINT. Then `/ready` is 503 at once and new work is refused with 503, while the socket
stays open so that everybody sees it; what is under way has `drain_s` to finish. After that the calls to the model
services are ended, so that every stream gets its error event, and the process exits. A second signal does not hurry
anybody: systemd's own limit does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket

from aiohttp import web

from hartonomous.app import create_app
from hartonomous.config import Config
from hartonomous.errors import ConfigError
from hartonomous.keys import STATE, State
from hartonomous.log import logger

# How long a request that was cut off may take to say so.
_LAST_WORDS_S = 5.0


async def run(config: Config) -> None:
    """Serve `config` until a signal comes.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    app = create_app(config)
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        auto_decompress=False,  # a compressed body is refused; what is thrown away of it need not be read
        access_log=None,
        keepalive_timeout=config.server.keepalive_s,
        shutdown_timeout=_LAST_WORDS_S,
    )
    stopped = _stop_signal()
    await runner.setup()
    try:
        await _listen(runner, config)
        await stopped.wait()
        await _drain(app[STATE], config.server.drain_s)
    finally:
        await runner.cleanup()
    logger.info("stopped")


async def _drain(state: State, drain_s: float) -> None:
    """Wait until nothing is under way, or end the calls to the model services when that takes too long.

    What is being written to the vector store is finished in any case.
    """
    state.draining = True
    logger.bind(drain_s=drain_s, active=state.active).info("draining")
    try:
        async with asyncio.timeout(drain_s):
            await state.idle.wait()
    except TimeoutError:
        logger.bind(active=state.active).warning("what is under way is cut off")
        for name, pool in state.current.pools.items():
            if name != "qdrant":
                await pool.abort()


async def _listen(runner: web.AppRunner, config: Config) -> None:
    host, port = config.server.host, config.server.port
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {_reason(error)}") from error
    for address in runner.addresses:
        logger.bind(host=address[0], port=address[1]).info("listening")


def _reason(error: OSError) -> str:
    """Return the system's own words; asyncio wraps them into a sentence of its own."""
    if isinstance(error, socket.gaierror) or error.errno is None:
        return error.strerror or "unknown address"
    return os.strerror(error.errno).lower()


def _stop_signal() -> asyncio.Event:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    return stopped
