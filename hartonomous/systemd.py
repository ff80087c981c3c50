"""What systemd gives a service, and what it is told (sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3)).

The service's unit needs:

- `Type=notify` and `NotifyAccess=main`: only the main process tells anything, and an upgrade makes its successor the
  main process (`MAINPID=`). READY comes after the sockets listen and the first health round.
- `ExecStart=` by the path that an upgrade replaces (a fixed path or a symlink): an upgrade executes it again.
- `ExecReload=` sends SIGHUP to the main process, which reads the configuration again; SIGUSR2 upgrades
  (`systemctl kill --kill-whom=main -s USR2 hartonomous`).
- `KillMode=mixed`: a stop's SIGTERM goes to the main process, whose drain still needs its parsers.
- `WatchdogSec=` as wished, 10 s or more; `TimeoutStopSec=` and `TimeoutStartSec=` are extended where it takes longer.
- While it is upgraded two processes live in the unit: `MemoryMax=` and `TasksMax=` must have room for both.
- With `hartonomous.socket` (`ListenStream=`, `Accept=no`, named `main` or not at all) a restart refuses nobody. Another
  socket unit, with `FileDescriptorName=admin` and `Service=hartonomous.service`, is the listener of `server.admin`.

The variables are taken out of the environment by whoever starts the program, so that no child inherits them. The
engine's process, too, says READY and STOPPING where it is the main process: with `--no-restart`.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from hartonomous.errors import ConfigError

FIRST_FD = 3
HANDOVER = "handover"
"""The name of the socket over which a process and its successor talk (`hartonomous.upgrade`)."""

# How many messages are kept for who does not take them.
_KEPT = 16


@dataclass(slots=True, frozen=True)
class Given:
    """What the service manager gave: sockets as name and descriptor, and where and how often it wants to be told."""

    sockets: tuple[tuple[str, int], ...] = ()
    notify_socket: str | None = None
    watchdog_s: float | None = None

    def environ(self, sockets: list[str]) -> dict[str, str]:
        """Return the variables for a successor that gets these sockets, by their names; its number nobody knows yet."""
        given = {"LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": ":".join(sockets)}
        if self.notify_socket is not None:
            given["NOTIFY_SOCKET"] = self.notify_socket
        if self.watchdog_s is not None:
            given["WATCHDOG_USEC"] = str(round(self.watchdog_s * 1e6))
        return given


NOTHING = Given()


def take(environ: MutableMapping[str, str]) -> Given:
    """Return what was given to this process, and take it out of the environment.

    Raises:
        ConfigError: a descriptor that was announced is none.
    """
    names = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
    found = {name: environ.pop(name) for name in names if name in environ}
    return Given(_sockets(found), found.get("NOTIFY_SOCKET") or None, _watchdog_s(found))


def _sockets(found: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    """Return the sockets that are meant for this process, as names and descriptors."""
    count = _number(found.get("LISTEN_FDS"))
    names = found["LISTEN_FDNAMES"].split(":") if "LISTEN_FDNAMES" in found else []
    # A successor's number is not said: by the pair it knows for whom they are, and whether its predecessor lives.
    if _number(found.get("LISTEN_PID")) != os.getpid() and HANDOVER not in names:
        return ()
    for descriptor in range(FIRST_FD, FIRST_FD + count):
        try:
            os.set_inheritable(descriptor, False)
        except OSError as error:
            raise ConfigError(f"LISTEN_FDS announces {count} sockets, but {descriptor} is none") from error
    names += [""] * (count - len(names))
    return tuple((names[index], FIRST_FD + index) for index in range(count))


def _watchdog_s(found: Mapping[str, str]) -> float | None:
    """Return within which time the watchdog wants to hear from this process, None for no watchdog."""
    if "WATCHDOG_PID" in found and _number(found["WATCHDOG_PID"]) != os.getpid():
        return None
    return _number(found.get("WATCHDOG_USEC")) / 1e6 or None


def _number(text: str | None) -> int:
    """Return a decimal number, 0 for what is none."""
    return int(text) if text and text.isascii() and text.isdecimal() else 0


class Notifier:
    """Tells the service manager, where there is one. It raises nothing and waits for nobody.

    What cannot be taken at the moment is kept, in its order, and sent with what comes next.
    """

    def __init__(self, address: str | None) -> None:
        self._address = None if address is None else _address(address)
        self._waiting: deque[bytes] = deque(maxlen=_KEPT)
        self._socket: socket.socket | None = None

    @property
    def is_heard(self) -> bool:
        """Whether there is somebody to tell."""
        return self._address is not None

    def tell(self, **facts: str | int) -> None:
        """Send assignments, all of them or none."""
        if self._address is not None:
            self._waiting.append("\n".join(f"{name}={_line(value)}" for name, value in facts.items()).encode())
            self._send()

    def alive(self) -> None:
        """Send what was kept, and then say that all is well: who does not take it will not miss it."""
        if self._address is not None and self._send():
            self.tell(WATCHDOG=1)

    def close(self) -> None:
        """Tell nothing from now on."""
        self._address = None
        self._waiting.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self) -> bool:
        """Send what is kept; return whether all of it was taken."""
        while self._waiting and self._address is not None:
            try:
                self._opened().sendto(self._waiting[0], self._address)
            except BlockingIOError:
                return False
            except OSError:
                pass  # nobody is there, or will ever take this
            self._waiting.popleft()
        return True

    def _opened(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        return self._socket


def monotonic_us() -> int:
    """Return the time that `RELOADING=1` is told with (`MONOTONIC_USEC`), in microseconds."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000


def _address(text: str) -> str | bytes | None:
    """Return the address of a socket; what is neither a path nor an abstract name is none of a host."""
    if text.startswith("@") and len(text) > 1:
        return b"\0" + os.fsencode(text[1:])
    return os.fsencode(text) if text.startswith("/") else None


def _line(value: str | int) -> str:
    return str(value).replace("\n", " ")
