"""The sockets that listen: those that were passed to the process (`hartonomous.systemd`), and those that it binds.

What was passed by a service manager outlives the process: who connects while none serves waits in its queue. What a
process bound itself and handed on to its successor (`hartonomous.upgrade`) does not, and is used where it is what the
configuration asks for.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from hartonomous.config import Config
from hartonomous.core.addresses import is_loopback
from hartonomous.errors import ConfigError
from hartonomous.systemd import HANDOVER, Given

Door = Literal["main", "admin"]

BACKLOG = 256
# Before the name of a socket that the process bound itself.
_OWN = "bound-"
# What systemd calls a socket without a name: by its unit, and of none by either of these.
_UNNAMED = frozenset(("", "unknown", "connection"))
_FAMILIES = frozenset((socket.AF_INET, socket.AF_INET6, socket.AF_UNIX))
# What `localhost` means also where IPv6 is switched off.
_NO_SUCH_FAMILY = frozenset((errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL))


@dataclass(slots=True)
class Adopted:
    """What was passed: sockets of others, those that the process before had bound, and how to talk with that one."""

    lent: dict[Door, list[socket.socket]] = field(default_factory=lambda: {"main": [], "admin": []})
    bound: dict[Door, list[socket.socket]] = field(default_factory=lambda: {"main": [], "admin": []})
    channel: socket.socket | None = None

    def close(self) -> None:
        """Close all of it."""
        doors = (*self.lent.values(), *self.bound.values())
        for each in (each for sockets in doors for each in sockets):
            each.close()
        if self.channel is not None:
            self.channel.close()


def adopt(given: Given, config: Config) -> Adopted:
    """Return the sockets that were passed, by what they are for.

    Raises:
        ConfigError: one is not known by its name, does not listen, or may not be served by this configuration.
    """
    adopted = Adopted()
    try:
        for name, descriptor in given.sockets:
            _add(adopted, name, descriptor)
        _check(adopted, config)
    except ConfigError:
        adopted.close()
        raise
    return adopted


def names(door: Door, count: int, *, lent: bool) -> list[str]:
    """Return the names under which sockets are handed on."""
    return [door if lent else f"{_OWN}{door}"] * count


async def bind(
    host: str, port: int, there: Iterable[socket.socket] = (), *, shared: bool = False
) -> list[socket.socket]:
    """Return listening sockets for an address: of those that are there already the ones that fit.

    With `shared` other processes can listen there as well.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    left, made = list(there), list[socket.socket]()
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        _bind(dict.fromkeys((each[0], each[4]) for each in found), left, made, shared=shared)
    except OSError as error:
        for each in made:
            each.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {reason(error)}") from error
    return made


def _bind(
    addresses: Iterable[tuple[int, Any]], left: list[socket.socket], made: list[socket.socket], *, shared: bool
) -> None:
    """Add a listening socket for each address to `made`; a family that there is not matters when there is no other.

    Raises:
        OSError: an address cannot be had.
    """
    missing: OSError | None = None
    for family, address in addresses:
        fitting = list(_fitting(family, address, left))
        for each in fitting:
            left.remove(each)
            made.append(each)
        try:
            if not fitting:
                made.append(socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=shared))
        except OSError as error:
            if error.errno not in _NO_SUCH_FAMILY:
                raise
            missing = error
    if missing is not None and not made:
        raise missing


def _fitting(family: int, address: Any, left: list[socket.socket]) -> Iterator[socket.socket]:
    """Yield the sockets that listen on an address; any port is fine where the address has none."""
    for each in left:
        if each.family == family:
            host, port = each.getsockname()[:2]
            if host == address[0] and address[1] in {0, port}:
                yield each


def shown(listening: socket.socket) -> str:
    """Return where a socket listens, as people write it."""
    if listening.family == socket.AF_UNIX:
        return f"unix:{path_of(listening)}"
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def path_of(listening: socket.socket) -> str:
    """Return the path of a unix socket; an abstract name begins with @."""
    name = listening.getsockname()
    return os.fsdecode(b"@" + name[1:]) if isinstance(name, bytes) else str(name)


def reason(error: OSError) -> str:
    """Return the system's own words; Python wraps them into a sentence of its own."""
    if isinstance(error, socket.gaierror) or error.errno is None:
        return error.strerror or str(error).lower() or "unknown address"
    return os.strerror(error.errno).lower()


def _add(adopted: Adopted, name: str, descriptor: int) -> None:
    """Add a socket that was passed. Raises ConfigError."""
    if name == HANDOVER:
        adopted.channel = socket.socket(fileno=descriptor)
        return
    found = _listening(name, descriptor)
    try:
        door = _door(name.removeprefix(_OWN))
    except ConfigError:
        found.close()
        raise
    (adopted.bound if name.startswith(_OWN) else adopted.lent)[door].append(found)


def _door(name: str) -> Door:
    """Return what a socket is for, by its name or that of its unit. Raises ConfigError."""
    if name == "admin" or name.endswith("-admin.socket"):
        return "admin"
    if name == "main" or name in _UNNAMED or name.endswith(".socket"):
        return "main"
    raise ConfigError(f"a socket named {name} was passed: main and admin are known")


def _listening(name: str, descriptor: int) -> socket.socket:
    """Return the socket of a descriptor. Raises ConfigError."""
    name = name or "a socket"
    try:
        found = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(f"what was passed as {name} is none: {reason(error)}") from error
    is_stream = found.type == socket.SOCK_STREAM and found.family in _FAMILIES
    if not is_stream or not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        found.close()
        raise ConfigError(f"what was passed as {name} is no stream socket that listens (Accept=no)")
    return found


def _check(adopted: Adopted, config: Config) -> None:
    """Refuse what nobody serves and, without keys, what other hosts reach. Raises ConfigError."""
    if adopted.lent["admin"] and config.server.admin is None:
        raise ConfigError("a socket named admin was passed, but server.admin is not set", param="server.admin")
    if config.auth.keys:
        return
    for each in (*adopted.lent["main"], *adopted.lent["admin"]):
        if each.family != socket.AF_UNIX and not is_loopback(each.getsockname()[0]):
            problem = f"a socket was passed that listens on {shown(each)}"
            raise ConfigError(f"without keys only loopback addresses can be served: {problem}", param="auth.keys")
