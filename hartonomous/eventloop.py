"""Which event loop serves: uvloop where it is installed, else asyncio's own.

uvloop does in C what asyncio does in Python: a chat that is passed on costs a tenth less of the processor or more. It
is an extra, because what it does is not needed, and it comes as a wheel for Linux and macOS alone. Nothing else of the
project imports it, and what is to be known of the insides of either loop stands here.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from importlib.util import find_spec

from hartonomous.config import Server
from hartonomous.errors import ConfigError

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def check(config: Server) -> None:
    """Raise ConfigError where a loop is asked for that is not installed."""
    if config.event_loop == "uvloop" and not _is_installed():
        raise ConfigError(
            "server.event_loop: uvloop is not installed here: pip install 'hartonomous[uvloop]', or set"
            " server.event_loop to auto or asyncio",
            param="server.event_loop",
        )


def factory(config: Server) -> LoopFactory | None:
    """Return what makes the loop that the configuration asks for; None is asyncio's own.

    Raises:
        ConfigError: it is not installed.
    """
    check(config)
    if config.event_loop == "asyncio" or not _is_installed():
        return None
    import uvloop

    return uvloop.new_event_loop


def running() -> str:
    """Return the name of the loop that runs here: uvloop or asyncio."""
    return "uvloop" if type(asyncio.get_running_loop()).__module__.startswith("uvloop") else "asyncio"


def below(transport: asyncio.Transport) -> asyncio.Transport | None:
    """Return the transport that carries the one of a TLS connection; None where there is none.

    Neither loop has a public way there. uvloop's stands in C, where only the garbage collector finds it (0.3 µs).
    """
    protocol = transport.get_extra_info("uvloop.sslproto")
    if protocol is None:
        carrier: asyncio.Transport | None = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
        return carrier
    others = (each for each in gc.get_referents(protocol) if each is not transport)
    return next((each for each in others if hasattr(each, "get_write_buffer_size")), None)


def _is_installed() -> bool:
    return find_spec("uvloop") is not None
