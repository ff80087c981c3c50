"""A TCP proxy that spoils the connections through it; what is wrong can be changed while it runs.

    async with FaultProxy(upstream_url) as proxy:
        await proxy.set(latency(0.2), bandwidth(1000))      # for open connections too
        await proxy.set()                                   # nothing is wrong any more

A client that closes its side while the proxy hangs or swallows has left: its connection ends, the upstream's as well.
"""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.accepting import Accepting
from tests.faults.kinds import Faults, combine
from tests.faults.link import Link


@dataclass(slots=True)
class Counts:
    """What has gone through a proxy since it was made. Bytes count when they are passed on."""

    connections: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    bytes_swallowed: int = 0


class FaultProxy:
    """The proxy; an async context manager that listens on `host`:`port` (0: a free port, kept until it stops).

    `upstream` is `HOST:PORT` or a URL. An upstream that cannot be reached resets the client. `seed` decides the jitter.
    """

    def __init__(
        self, upstream: str, *faults: Faults, host: str = "127.0.0.1", port: int = 0, seed: int | None = None
    ) -> None:
        self.upstream = address(upstream)
        self.faults = combine(*faults)
        self.counts = Counts()
        self.round = 0
        self.random = random.Random(seed)
        self._address = (host, port)
        self._place: socket.socket | None = None
        self._server: Accepting | None = None
        self._links: dict[Link, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._address[1]

    @property
    def url(self) -> str:
        """The base address, for a proxy of HTTP."""
        host, port = self._address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def open(self) -> int:
        """How many clients' connections are open now."""
        return len(self._links)

    async def set(self, *faults: Faults) -> None:
        """Let exactly these faults be there from now on, for open connections too; none: everything passes.

        When it returns after `refuse`, no connection is open any more.
        """
        self.faults = combine(*faults)
        self.round += 1
        await self._listen_or_not()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def drop(self) -> None:
        """Reset every open connection and wait until they are gone."""
        tasks = list(self._links.values())
        for link in list(self._links):
            link.reset()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def change(self, timeout_s: float | None = None) -> None:
        """Wait until the faults change, so long at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    async def start(self) -> None:
        """Take the port and, unless connections are refused, listen. OSError: the port is taken."""
        self._place = _place(self._address)
        self._address = self._place.getsockname()[:2]
        try:
            await self._listen_or_not()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End every connection, give the port back."""
        place, self._place = self._place, None
        await self._unlisten()
        if place is not None:
            place.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _listen_or_not(self) -> None:
        if self.faults.state == "refuse":
            await self._unlisten()
        elif self._server is None:
            self._server = Accepting(self._accept)
            self._server.start(*self._address)

    async def _unlisten(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        await self.drop()
        if server is not None:
            await server.stop()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.counts.connections += 1
        link = Link(self, reader, writer)
        self._links[link] = task
        try:
            await link.run()
        finally:
            del self._links[link]


def address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT` or a URL. ValueError: it is neither."""
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None:
        raise ValueError(f"{text!r} is no HOST:PORT.")
    return host, port


def _place(wanted: tuple[str, int]) -> socket.socket:
    """Return a socket that is bound and never listens: it keeps the port while connections are refused."""
    family = socket.AF_INET6 if ":" in wanted[0] else socket.AF_INET
    place = socket.socket(family)
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(wanted)
    except BaseException:
        place.close()
        raise
    return place
