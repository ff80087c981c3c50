"""Clients on bare sockets, which say what no library would: bytes as they are, slowly, or without reading."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, cast
from urllib.parse import urlsplit

HOST = b"Host: 127.0.0.1\r\n"
WAIT_S = 30.0


def port_of(url: str) -> int:
    """Return the port of an address."""
    port = urlsplit(url).port
    assert port is not None
    return port


def get(path: str, *headers: bytes) -> bytes:
    """Return a GET request."""
    return f"GET {path} HTTP/1.1\r\n".encode() + HOST + b"".join(header + b"\r\n" for header in headers) + b"\r\n"


def post(path: str, body: bytes, *headers: bytes, length: int | None = None) -> bytes:
    """Return a POST request, whose body is JSON unless `headers` say otherwise and as long as it says."""
    named = b"".join(header + b"\r\n" for header in headers)
    if b"content-type" not in named.lower():
        named += b"Content-Type: application/json\r\n"
    size = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\n".encode() + HOST + named + b"Content-Length: %d\r\n\r\n" % size + body


class Client:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @property
    def unsent(self) -> int:
        """How many bytes the server has not taken, beside those in the system's buffers."""
        return self.writer.transport.get_write_buffer_size()

    def pause(self) -> None:
        """Read nothing more."""
        cast("asyncio.Transport", self.writer.transport).pause_reading()  # uvloop's is none by its class

    def resume(self) -> None:
        """Read on after a `pause`."""
        cast("asyncio.Transport", self.writer.transport).resume_reading()

    async def rest(self) -> bytes:
        """Return all that comes until the server closes."""
        received = bytearray()
        with suppress(ConnectionError):
            async with asyncio.timeout(WAIT_S):
                while piece := await self.reader.read(1 << 20):
                    received += piece
        return bytes(received)

    async def head(self) -> bytes:
        """Return the head of an answer."""
        async with asyncio.timeout(WAIT_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self) -> tuple[int, Any]:
        """Return status and parsed body of an answer that has a length."""
        head = await self.head()
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        async with asyncio.timeout(WAIT_S):
            body = await self.reader.readexactly(int(lengths[0].partition(b":")[2]))
        return int(head[9:12]), json.loads(body)

    async def ask(self, data: bytes) -> tuple[int, Any]:
        """Send a request and return its answer."""
        self.writer.write(data)
        return await self.answer()


@asynccontextmanager
async def connected(port: int, *, buffer_bytes: int | None = None, **options: Any) -> AsyncIterator[Client]:
    """Connect; with `buffer_bytes` the system keeps no more than about that, in either direction."""
    if buffer_bytes is not None:
        options["sock"] = socket.socket()
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            options["sock"].setsockopt(socket.SOL_SOCKET, buffer, buffer_bytes)
        options["sock"].setblocking(False)
        await asyncio.get_running_loop().sock_connect(options["sock"], ("127.0.0.1", port))
    else:
        options |= {"host": "127.0.0.1", "port": port}
    reader, writer = await asyncio.open_connection(limit=1 << 16, **options)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def exchange(port: int, data: bytes, *, finish: bool = False) -> bytes:
    """Send bytes and return all that comes back until the server closes."""
    async with connected(port) as client:
        client.writer.write(data)
        if finish:
            client.writer.write_eof()
        return await client.rest()


async def ask(port: int, data: bytes) -> tuple[int, Any]:
    """Send one request on a connection of its own and return its answer."""
    async with connected(port) as client:
        return await client.ask(data)
