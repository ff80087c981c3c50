"""The HTTP sessions of one service: one for its calls, one for the health polls."""

from __future__ import annotations

import asyncio
import socket
import ssl
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from hartonomous import eventloop
from hartonomous.clients.resolver import Resolver
from hartonomous.clients.wire import KEEPALIVE_S, Wire, Wires
from hartonomous.services import Service

_RESOLVED_FOR_S = 10


def make_session(config: Service, socket_path: str | None, tls: ssl.SSLContext | None = None) -> aiohttp.ClientSession:
    """Return a session towards a service, over TCP or a unix socket; `tls` is for its addresses over TLS."""
    return _session(config, _connector(config, socket_path, tls))


def make_wires(config: Service, socket_path: str | None, tls: ssl.SSLContext | None = None) -> Wires:
    """Return the connections of such a session for the calls, which go over it without the session's own requests."""
    connector = _connector(config, socket_path, tls)
    # There is no public way to have connections of one's own class.
    connector._factory = partial(Wire, loop=asyncio.get_running_loop())  # type: ignore[assignment]  # `partial` is invariant
    return Wires(_session(config, connector), config.connect_timeout_s)


def _session(config: Service, connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers=_headers(config),
        skip_auto_headers=("User-Agent",),
    )


def _connector(config: Service, socket_path: str | None, tls: ssl.SSLContext | None) -> aiohttp.BaseConnector:
    # How many calls there are at once is for the admission to say.
    if socket_path is not None:
        return aiohttp.UnixConnector(socket_path, limit=0, keepalive_timeout=KEEPALIVE_S)
    return _Connector(
        limit=0,
        keepalive_timeout=KEEPALIVE_S,
        # aiohttp's time to connect begins when the name is resolved.
        resolver=Resolver(config.connect_timeout_s),
        ttl_dns_cache=_RESOLVED_FOR_S,
        # True: the system's authorities.
        ssl=True if tls is None else tls,
    )


class _Connector(aiohttp.TCPConnector):
    """A connector that leaves it to uvloop to connect to a plain IPv4 address.

    aiohttp makes a socket and lets the loop connect it. There uvloop has threads find out what the address means, which
    is one: connections that are made at once wait for each other, and their streams' first tokens with them. There is
    no public way to connect otherwise.
    """

    async def _wrap_create_connection(
        self,
        *args: Any,
        addr_infos: list[aiohttp.AddrInfoType],
        req: aiohttp.ClientRequest,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - as aiohttp passes it
        client_error: type[Exception] = aiohttp.ClientConnectorError,
        **kwargs: Any,
    ) -> tuple[asyncio.Transport, ResponseHandler]:
        family, *_, address = addr_infos[0]
        if len(addr_infos) > 1 or family != socket.AF_INET or kwargs.get("ssl") or eventloop.running() != "uvloop":
            return await super()._wrap_create_connection(
                *args, addr_infos=addr_infos, req=req, timeout=timeout, client_error=client_error, **kwargs
            )
        loop: Any = self._loop  # whose many overloads know no arguments of any kind
        host, port = address[:2]
        try:
            async with asyncio.timeout(timeout.sock_connect):
                connected: tuple[asyncio.Transport, ResponseHandler] = await loop.create_connection(
                    *args, **kwargs, host=host, port=port
                )
                return connected
        except TimeoutError:
            raise
        except OSError as error:
            raise client_error(req.connection_key, error) from error


def _headers(config: Service) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}
    if config.api_key is not None:
        secret = config.api_key.get_secret_value()
        # llama.cpp reads the first, Qdrant either.
        headers |= {"Authorization": f"Bearer {secret}", "api-key": secret}
    return headers
