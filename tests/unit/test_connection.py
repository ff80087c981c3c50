"""What a connection takes from the insides of asyncio is there."""

from __future__ import annotations

import asyncio
import ssl

import trustme

from hartonomous.connection import _below


async def test_what_tls_has_handed_on_is_seen_in_the_transport_below() -> None:
    """Of a little that nobody takes the upper transport knows nothing any more."""
    authority = trustme.CA()
    theirs, ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    authority.configure_trust(ours)
    served: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: served.put_nowait(writer), "127.0.0.1", 0, ssl=theirs)
    port = server.sockets[0].getsockname()[1]
    _, client = await asyncio.open_connection("127.0.0.1", port, ssl=ours, server_hostname="127.0.0.1")
    transport = (await served.get()).transport
    assert isinstance(client.transport, asyncio.Transport)
    assert isinstance(transport, asyncio.Transport)
    client.transport.pause_reading()
    below = _below(transport)
    assert below is not None
    while not below.get_write_buffer_size():
        transport.write(b"x" * 16_384)
    assert transport.get_write_buffer_size() == 0
    client.transport.abort()
    transport.abort()
    server.close()
    await server.wait_closed()
