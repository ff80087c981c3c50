"""A service manager of a test, as far as systemd is one: it holds sockets, passes them, and hears what it is told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from tests.service.application import eventually
from tests.service.serving import Served

PROGRAM = (sys.executable, "-m", "hartonomous")
# Puts descriptors where they belong, says for whom they are, and becomes the program.
_LAUNCHER = """
import fcntl, os, sys
descriptors, argv = eval(sys.argv[1]), sys.argv[2:]
copies = [fcntl.fcntl(each, fcntl.F_DUPFD, 64) for each in descriptors]
for index, copy in enumerate(copies):
    os.dup2(copy, 3 + index, inheritable=True)
    os.close(copy)
if descriptors:
    os.environ["LISTEN_PID"] = str(os.getpid())
if "WATCHDOG_USEC" in os.environ:
    os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(argv[0], argv)
"""
_CREDENTIALS = struct.Struct("3i")


class Logged(Served):
    """A server whose log may hold the sentence of a successor that could not start, which is no JSON."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of the log that are JSON."""
        written = self.log.read_text(encoding="utf-8")
        return [json.loads(line) for line in written[: written.rfind("\n") + 1].splitlines() if line.startswith("{")]


class Manager:
    """One service. `sockets` are by their names; `told` is what its main process has told, oldest first.

    As with `NotifyAccess=main`, nobody else is heard: what others say is `unheard`.
    """

    def __init__(self, folder: Path, sockets: Iterable[tuple[str, socket.socket]] = (), **variables: str) -> None:
        self.folder, self.log = folder, folder / "serve.log"
        self.program: tuple[str, ...] = PROGRAM
        self.told: list[dict[str, str]] = []
        self.unheard: list[dict[str, str]] = []
        self.pids: list[int] = []
        self._variables, self._sockets = variables, list(sockets)
        self._processes: list[Process] = []
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._notify.setblocking(False)
        self._notify.bind(str(folder / "notify.sock"))
        self.log.touch()

    def configure(self, **sections: Any) -> None:
        """Write the configuration."""
        sections["server"] = {"port": 0} | sections.get("server", {})
        (self.folder / "config.yaml").write_text(yaml.safe_dump(sections), encoding="utf-8")

    async def start(self) -> Served:
        """Start the program; return it as soon as there is a process."""
        self.hear()
        config = str(self.folder / "config.yaml")
        descriptors = [each.fileno() for _, each in self._sockets]
        environ = {"NOTIFY_SOCKET": str(self.folder / "notify.sock"), **self._variables}
        if descriptors:
            environ["LISTEN_FDS"] = str(len(descriptors))
            environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in self._sockets)
        with self.log.open("ab") as file:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _LAUNCHER, repr(descriptors), *self.program, "serve", "--config", config),
                env={**os.environ, **environ},
                stderr=file,
                pass_fds=descriptors,
            )
        self.pids.append(process.pid)
        self._processes.append(process)
        return Logged(process, self.log)

    async def stop(self) -> None:
        """Stop the main process, which says that it was content."""
        self._processes[-1].send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await self._processes[-1].wait() == 0

    @property
    def main_pid(self) -> int:
        """The main process."""
        self.hear()
        return self.pids[-1]

    def hear(self) -> list[dict[str, str]]:
        """Take what was told; return all of it."""
        with suppress(BlockingIOError):
            while True:
                data, ancillary, *_ = self._notify.recvmsg(65_536, socket.CMSG_SPACE(_CREDENTIALS.size))
                pid = _CREDENTIALS.unpack(ancillary[0][2])[0]
                facts = dict(line.split("=", 1) for line in data.decode().splitlines())
                if pid != self.pids[-1]:
                    self.unheard.append(facts)
                    continue
                self.told.append(facts)
                if "MAINPID" in facts:
                    self.pids.append(int(facts["MAINPID"]))
        return self.told

    def has_told(self, name: str) -> int:
        """How often the main process has told something of this name."""
        return sum(name in facts for facts in self.hear())

    @property
    def status(self) -> str:
        """What it says of itself."""
        return next((facts["STATUS"] for facts in reversed(self.hear()) if "STATUS" in facts), "")

    async def ready(self, times: int = 1) -> None:
        """Wait until it has been ready so often."""
        await eventually(lambda: self.has_told("READY") >= times, f"ready for the {times}. time")

    async def ended(self, pid: int) -> None:
        """Wait until a process has ended, whoever its parent is."""
        await eventually(lambda: not is_alive(pid), "the end of a process")

    async def close(self) -> None:
        """Kill what is left of the service."""
        self.hear()
        for pid in reversed(self.pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._processes:
            await process.wait()
        self._notify.close()


@asynccontextmanager
async def managing(
    folder: Path,
    sockets: Iterable[tuple[str, socket.socket]] = (),
    variables: dict[str, str] | None = None,
    **sections: Any,
) -> AsyncIterator[Manager]:
    """Make a manager of a service with a configuration of these sections; nothing of it is left at the end."""
    manager = Manager(folder, sockets, **variables or {})
    manager.configure(**sections)
    try:
        yield manager
    finally:
        await manager.close()


def is_alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and that nobody has asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def listening(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Return a socket as a socket unit has it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=1_024)


def successors(pid: int) -> list[int]:
    """Return the other processes that serve the same configuration; they are nobody's children that we know."""
    wanted = strings(pid, "cmdline")[-3:]
    found = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()]
    return [other for other in found if other != pid and _follows(other, pid, wanted)]


def _follows(pid: int, predecessor: int, wanted: list[str]) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        argv = strings(pid, "cmdline")
        if argv[-3:] != wanted or "-I" in argv:  # which is how the process in between is started
            return False
        # Before that one has its own arguments, it is a child with those of its parent.
        return _parent(pid) != predecessor
    return False


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def strings(pid: int, name: str) -> list[str]:
    """Return the arguments or the environment of a process."""
    return Path(f"/proc/{pid}/{name}").read_text(encoding="utf-8").split("\0")
