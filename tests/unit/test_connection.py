"""What a connection takes from the insides of either event loop is there."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import cast

import pytest
import trustme
from aiohttp import web

from hartonomous.config import Server
from hartonomous.connection import WRITE_TIMEOUT, Connection
from hartonomous.eventloop import below
from tests.service.application import eventually

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return what a server and its client speak TLS with."""
    authority = trustme.CA()
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    authority.configure_trust(ours)
    return theirs, ours


async def test_a_tls_connection_that_was_closed_twice_is_still_looked_at_and_dropped() -> None:
    """asyncio's transport forgets its protocol then: it counts nothing any more, and its abort does nothing."""
    theirs, ours = _contexts()
    loop, lost = asyncio.get_running_loop(), asyncio.Event()

    async def never(request: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError(request)

    manager, limits = web.Server(never), Server()
    made: list[Connection] = []

    def make() -> Connection:
        made.append(Connection(manager, "", limits, lambda _: lost.set()))
        return made[-1]

    server = await loop.create_server(make, "127.0.0.1", 0, ssl=theirs)
    port = server.sockets[0].getsockname()[1]
    _, client = await asyncio.open_connection("127.0.0.1", port, ssl=ours, server_hostname="127.0.0.1")
    await eventually(lambda: made[0].transport is not None, "the connection is made")
    cast("asyncio.Transport", client.transport).pause_reading()  # uvloop's is none by its class
    transport = made[0].transport
    assert transport is not None
    transport.write(b"x" * 40_000_000)
    transport.close()
    transport.close()
    assert made[0].look(loop.time(), limits) is None
    assert made[0].look(loop.time() + limits.write_timeout_s + 1, limits) == WRITE_TIMEOUT
    async with asyncio.timeout(10):
        await lost.wait()
    client.transport.abort()
    with suppress(OSError):  # it was cut off
        await client.wait_closed()
    server.close()
    await server.wait_closed()


async def test_what_tls_has_handed_on_is_seen_in_the_transport_below() -> None:
    """Of a little that nobody takes the upper transport knows nothing any more."""
    theirs, ours = _contexts()
    served: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: served.put_nowait(writer), "127.0.0.1", 0, ssl=theirs)
    port = server.sockets[0].getsockname()[1]
    _, client = await asyncio.open_connection("127.0.0.1", port, ssl=ours, server_hostname="127.0.0.1")
    transport = cast("asyncio.Transport", (await served.get()).transport)
    cast("asyncio.Transport", client.transport).pause_reading()
    carrier = below(transport)
    assert carrier is not None
    assert below(carrier) is None
    while not carrier.get_write_buffer_size():
        transport.write(b"x" * 16_384)
    assert transport.get_write_buffer_size() == 0
    client.transport.abort()
    transport.abort()
    server.close()
    await server.wait_closed()
