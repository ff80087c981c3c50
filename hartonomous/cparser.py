"""aiohttp's own parser of requests is C, held against other servers by many; where it is missing Python steps in.

The one in Python is slow, and reads odd requests otherwise than the C one and than proxies: what is smuggled past a
proxy lives on such differences. A server in production does not start with it.
"""

from __future__ import annotations

from aiohttp import http_parser

from hartonomous.config import Server
from hartonomous.errors import ConfigError


def check(config: Server) -> None:
    """Raise ConfigError where a server in production would read requests in Python."""
    if config.mode == "production" and http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise ConfigError(
            "server.mode: aiohttp runs without its C parser here (AIOHTTP_NO_EXTENSIONS is set, or it was installed"
            " without its extensions): install its wheel, or set server.mode to development",
            param="server.mode",
        )
