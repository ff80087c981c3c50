"""Where the server is reached: its address, and the operator's own one (`server.admin`), each a `Listener`.

Both have the same end: they listen while the server drains, and who has connected is answered.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from aiohttp import web

from hartonomous.config import Config
from hartonomous.errors import ConfigError
from hartonomous.fields import host_of
from hartonomous.keys import SERVING
from hartonomous.listening import Listener
from hartonomous.log import logger
from hartonomous.unixsocket import UnixSocket

_BACKLOG = 64


class Doors:
    """The listeners of one server. Made inside a running loop; ended by `close` and `wait_closed`."""

    def __init__(self, runner: web.AppRunner, config: Config) -> None:
        self._server, self._keys = config.server, len(config.auth.keys)
        tls = runner.app.get(SERVING)
        self._tls = tls is not None
        self._main = Listener(runner, config, tls)
        self._admin: Listener | None = None
        self._file: UnixSocket | None = None
        if (admin := config.server.admin) is not None:
            self._admin = Listener(runner, config, None if _path(admin) else tls, is_operators=True)

    async def open(self) -> None:
        """Begin to accept connections, and say where.

        Raises:
            ConfigError: an address cannot be listened on.
        """
        admin = await self._open_admin()
        await self._main.listen(self._server.host, self._server.port)
        for host, port in self._main.addresses:
            told = logger.bind(host=host, port=port, tls=self._tls, keys=self._keys, admin=admin)
            told.bind(connections=self._main.limit).info("listening")

    async def close(self, limit_s: float) -> None:
        """Listen no more; return when those who are connected have their answers, at most after so many seconds."""
        self._remove_file()
        await asyncio.gather(*(listener.close(limit_s) for listener in self._listeners))

    async def wait_closed(self, limit_s: float) -> None:
        """Wait until what was answered has been sent, at most so many seconds; end the connections that are left."""
        self._remove_file()
        await asyncio.gather(*(listener.wait_closed(limit_s) for listener in self._listeners))

    async def _open_admin(self) -> str | None:
        """Listen on the operator's address, if there is one; return it."""
        admin = self._server.admin
        if admin is None or self._admin is None:
            return None
        if (path := _path(admin)) is None:
            await self._admin.listen(host_of(admin), int(admin.rpartition(":")[2]))
            return ", ".join(_shown(*address) for address in self._admin.addresses)
        try:
            self._file = UnixSocket(path, _BACKLOG)
        except OSError as error:
            raise ConfigError(f"cannot listen on {admin}: {_reason(error)}", param="server.admin") from error
        self._admin.serve(self._file.socket)
        return admin

    @property
    def _listeners(self) -> list[Listener]:
        return [self._main] if self._admin is None else [self._main, self._admin]

    def _remove_file(self) -> None:
        if self._file is not None:
            self._file.remove()


def _path(address: str) -> Path | None:
    """Return the file of a unix socket's address."""
    return Path(address.removeprefix("unix:")) if address.startswith("unix:") else None


def _reason(error: OSError) -> str:
    return (str(error) if error.errno is None else os.strerror(error.errno)).lower()


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
