"""Takes connections for a test's server, and leaves none at the end.

A connection that asyncio's own server has taken in the very round in which it is closed gets a transport that nobody
closes, and the test in which that is collected fails. Here each one belongs to a task from the moment it is taken.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Accepting:
    """A server of streams: each connection is served in a task, over TLS with a context, and is closed after it."""

    def __init__(self, serve: Serve, *, tls: ssl.SSLContext | None = None, limit: int = 1 << 16) -> None:
        self._serve, self._tls, self._limit = serve, tls, limit
        self._listening: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: set[socket.socket] = set()  # whose task has not begun

    def start(self, host: str, port: int = 0) -> int:
        """Listen; return on which port. OSError: it is taken."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, port), family=family, backlog=100)
        self._listening.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listening, self._take, self._listening)
        return int(self._listening.getsockname()[1])

    def close(self) -> None:
        """Listen no more: connections are refused from now on."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    async def stop(self) -> None:
        """Listen no more, end every connection."""
        self.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for accepted in self._waiting:
            accepted.close()
        self._waiting.clear()

    def _take(self, listening: socket.socket) -> None:
        try:
            accepted, _ = listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        accepted.setblocking(False)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as asyncio's own server does
        self._waiting.add(accepted)
        task = asyncio.get_running_loop().create_task(self._connected(accepted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connected(self, accepted: socket.socket) -> None:
        self._waiting.discard(accepted)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(self._limit, loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted, ssl=self._tls)
        except OSError:  # gone, or no TLS
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            await self._serve(reader, writer)
        finally:
            writer.close()
