"""Where the server is reached: its address, and the operator's own one (`server.admin`), each a `Listener`.

Both have the same end: they listen while the server drains, and who has connected is answered. Sockets that others
serve as well, or after this process, are let go of at once instead (`leave`): who connects meanwhile is theirs.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from aiohttp import web

from hartonomous import eventloop
from hartonomous.adopting import Adopted, Door, bind, names, path_of, reason, shown
from hartonomous.config import Config
from hartonomous.errors import ConfigError
from hartonomous.fields import host_of
from hartonomous.keys import SERVING
from hartonomous.listening import LINGER_S, Listener
from hartonomous.log import logger
from hartonomous.unixsocket import UnixSocket
from hartonomous.upgrade import Successor

_BACKLOG = 64
_LOOK_S = LINGER_S / 10


class Doors:
    """The listeners of one server, with what was passed to it. Made inside a running loop.

    `bind` has the sockets, `open` begins to accept; ended by `close` and `wait_closed`.
    """

    def __init__(self, runner: web.AppRunner, config: Config, adopted: Adopted) -> None:
        self._server, self._keys, self._adopted = config.server, len(config.auth.keys), adopted
        tls = runner.app.get(SERVING)
        self._tls = tls is not None
        self._listeners: dict[Door, Listener] = {"main": Listener(runner, config, tls)}
        self._file: UnixSocket | None = None
        self._successor: Successor | None = None
        if config.server.admin is not None:
            self._listeners["admin"] = Listener(runner, config, tls, is_operators=True)

    async def bind(self) -> None:
        """Listen, and accept nobody yet.

        Raises:
            ConfigError: an address cannot be listened on.
        """
        for door, listener in self._listeners.items():
            lent = self._adopted.lent[door]
            listener.hold(*(lent or await self._bound(door)))

    def open(self) -> None:
        """Begin to accept connections, and say where."""
        if self._file is not None:
            self._file.own()
        self._close_unused()
        for listener in self._listeners.values():
            listener.serve()
        admin = ", ".join(map(shown, self._listeners["admin"].sockets)) if "admin" in self._listeners else None
        for each in self._listeners["main"].sockets:
            told = logger.bind(**_place(each), tls=self._tls, keys=self._keys, admin=admin, loop=eventloop.running())
            told.bind(connections=self._listeners["main"].limit).info("listening")

    @property
    def addresses(self) -> list[str]:
        """Where the server is reached."""
        return [shown(each) for each in self._listeners["main"].sockets]

    @property
    def are_handed_over(self) -> bool:
        """Whether a successor has the sockets as well."""
        return self._successor is not None

    @property
    def are_shared(self) -> bool:
        """Whether other processes serve the same address now, or will when this one has ended."""
        return self.are_handed_over or self._server.reuse_port or bool(self._adopted.lent["main"])

    @property
    def passed(self) -> list[tuple[str, socket.socket]]:
        """The sockets, by the names under which a successor is handed them."""
        passed: list[tuple[str, socket.socket]] = []
        for door, listener in self._listeners.items():
            lent = bool(self._adopted.lent[door])
            passed += zip(names(door, len(listener.sockets), lent=lent), listener.sockets, strict=True)
        return passed

    def hand_over(self, successor: Successor) -> None:
        """Leave everything to a successor, which has the sockets and is theirs to end."""
        self._successor, self._file = successor, None

    def leave(self) -> None:
        """Let go of the sockets that others serve, now or later. Who waits there is taken, unless they will be."""
        for door, listener in self._listeners.items():
            lent = bool(self._adopted.lent[door])
            if door == "main" or lent or self.are_handed_over:
                listener.leave(every=not lent)

    async def answered(self, limit_s: float) -> None:
        """Wait until those who are connected have their answers, and know that they are to connect again.

        A client that is at work sends one more request on its connection, and is told so. Where a successor serves
        already there is time to wait for the others as well: they close their connections, or are idle for too long.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while (now := loop.time()) - began < limit_s:
            if now - began >= LINGER_S and self._are_quiet(now - self._linger_s):
                return
            await asyncio.sleep(_LOOK_S)

    async def close(self, limit_s: float) -> None:
        """Listen no more; return when those who are connected have their answers, at most after so many seconds."""
        self._remove_file()
        await asyncio.gather(*(listener.close(limit_s) for listener in self._listeners.values()))

    async def wait_closed(self, limit_s: float) -> None:
        """Wait until what was answered has been sent, at most so many seconds; end the connections that are left."""
        self._remove_file()
        await asyncio.gather(*(listener.wait_closed(limit_s) for listener in self._listeners.values()))

    async def _bound(self, door: Door) -> list[socket.socket]:
        """Return the sockets of an address of the configuration. Raises ConfigError."""
        there = self._adopted.bound[door]
        if door == "main":
            return await bind(self._server.host, self._server.port, there, shared=self._server.reuse_port)
        admin = str(self._server.admin)
        if (path := _path(admin)) is None:
            return await bind(host_of(admin), int(admin.rpartition(":")[2]), there)
        for each in there:
            if each.family == socket.AF_UNIX and path_of(each) == str(path):
                self._file = UnixSocket.taken_over(path, each)
                return [each]
        try:
            self._file = UnixSocket(path, _BACKLOG)
        except OSError as error:
            raise ConfigError(f"cannot listen on {admin}: {reason(error)}", param="server.admin") from error
        return [self._file.socket]

    @property
    def _linger_s(self) -> float:
        """How long a connection on which nothing comes is kept."""
        serves = self._successor is not None and self._successor.serves
        return self._server.keepalive_s if serves else LINGER_S

    def _close_unused(self) -> None:
        """Let go of what the process before listened on, and the configuration has no more."""
        used = [each for listener in self._listeners.values() for each in listener.sockets]
        for each in (each for sockets in self._adopted.bound.values() for each in sockets if each not in used):
            if each.family == socket.AF_UNIX:
                file = UnixSocket.taken_over(Path(path_of(each)), each)
                file.own()
                file.remove()
            each.close()

    def _are_quiet(self, since: float) -> bool:
        left = [listener for listener in self._listeners.values() if not listener.sockets]
        return all(listener.is_quiet(since) for listener in left)

    def _remove_file(self) -> None:
        if self._file is not None:
            self._file.remove()


def _path(address: str) -> Path | None:
    """Return the file of a unix socket's address."""
    return Path(address.removeprefix("unix:")) if address.startswith("unix:") else None


def _place(listening: socket.socket) -> dict[str, str | int]:
    """Return what the log says of a socket."""
    if listening.family == socket.AF_UNIX:
        return {"path": path_of(listening)}
    host, port = listening.getsockname()[:2]
    return {"host": host, "port": port}
