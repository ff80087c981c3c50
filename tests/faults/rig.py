"""An upstream that echoes, and a client of bare sockets, for the tests of the proxy."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.faults.proxy import FaultProxy

LIMIT_S = 20.0


@dataclass
class Upstream:
    """A server that sends back what it gets and, when its client has said all, `bye`."""

    port: int = 0
    received: bytearray = field(default_factory=bytearray)
    ends: list[str] = field(default_factory=list)
    open: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while data := await reader.read(1 << 16):
                self.received += data
                writer.write(data)
                await writer.drain()
            writer.write(b"bye")
            await writer.drain()
            self.ends.append("clean")
        except ConnectionError:
            self.ends.append("reset")
        finally:
            writer.close()
            self.open -= 1


class Client:
    """A connection to the proxy. A bare socket: what came before a reset can still be read."""

    def __init__(self, proxy: FaultProxy, buffer: int = 0) -> None:
        self._address = ("127.0.0.1", proxy.port)
        self._socket = socket.socket()
        if buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._socket.setblocking(False)
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        try:
            await self._loop.sock_connect(self._socket, self._address)
        except BaseException:
            self._socket.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._socket, data)

    def end(self) -> None:
        """Say that nothing more comes."""
        self._socket.shutdown(socket.SHUT_WR)

    async def get(self, size: int) -> bytes:
        """Return so many bytes, fewer if there are no more."""
        data = b""
        async with asyncio.timeout(LIMIT_S):
            while len(data) < size:
                piece = await self._loop.sock_recv(self._socket, min(size - len(data), 1 << 16))
                if not piece:
                    break
                data += piece
        return data

    async def rest(self) -> bytes:
        """Return everything up to the end."""
        return await self.get(1 << 30)

    async def told(self, data: bytes) -> bytes:
        """Send, and return what comes back."""
        _, answer = await asyncio.gather(self.send(data), self.get(len(data)))
        return answer
