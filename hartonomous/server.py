"""The listening socket, the signals and the drain.

`run` serves until SIGTERM or SIGINT. Then `/ready` is 503 at once, no new connection is taken, and what is under way
has `drain_s` to finish. A second signal does not hurry anybody: systemd's own limit does.
"""

from __future__ import annotations

import asyncio
import signal

from aiohttp import web

from hartonomous.app import create_app
from hartonomous.config import Config
from hartonomous.errors import ConfigError
from hartonomous.keys import STATE
from hartonomous.log import logger


async def run(config: Config) -> None:
    """Serve `config` until a signal comes.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    app = create_app(config)
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=config.server.keepalive_s,
        shutdown_timeout=config.server.drain_s,
    )
    stopped = _stop_signal()
    await runner.setup()
    try:
        await _listen(runner, config)
        await stopped.wait()
        app[STATE].draining = True
        logger.bind(drain_s=config.server.drain_s).info("draining")
    finally:
        await runner.cleanup()
    logger.info("stopped")


async def _listen(runner: web.AppRunner, config: Config) -> None:
    host, port = config.server.host, config.server.port
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    for address in runner.addresses:
        logger.bind(host=address[0], port=address[1]).info("listening")


def _stop_signal() -> asyncio.Event:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    return stopped
