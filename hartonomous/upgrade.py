"""A server is replaced by a new process of its program, which has its listening sockets: nobody is refused meanwhile.

The old process starts its program again, by the path by which it was started itself, so that whatever has been
installed there since then is what starts. The new one has the sockets as systemd passes them (`LISTEN_FDS`), and with
them one end of a pair over which the two talk: the new one says that it is ready, before it accepts anybody; the old
one says that the sockets are its own from now on, and drains. If the old one ends before, the new one does as well; if
the new one is not ready in time it is killed, and the old one serves on.

Each keeps its end of the pair as long as it lives, by which the other one knows: as long as both are there neither
hears of what the other one changes, so that no answers are kept; when the new one stops it waits for the old one, whose
work a service manager would end with it, and the old one does not wait any more for those who are only connected.

The new process is not the child of the old one but of whoever started that: what systemd hears of as the main process
(`MAINPID=`) while it is somebody else's child it kills at a stop without waiting for it. So a process in between starts
it, says its number over the pair, and ends.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from hartonomous.systemd import FIRST_FD, HANDOVER, Given

_READY = b"ready"
_YOURS = b"yours"
# What is sent to all processes of a service must not end one that does not listen to it yet (`hartonomous.cli.early`).
_KEPT = (signal.SIGHUP, signal.SIGUSR2)
# The process in between: the descriptor of the pair, and the program, which has the defaults of what Python ignores.
_STARTER = """
import os, signal, sys
try:
    pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ, setsigdef=(signal.SIGPIPE, signal.SIGXFSZ))
except OSError as error:
    said = b"failed %d" % error.errno
else:
    said = b"started %d" % pid
os.write(int(sys.argv[1]), said)
"""
_STARTED, _FAILED = b"started ", b"failed "
# How long what was killed may take to end.
_END_S = 5.0


class UpgradeError(Exception):
    """No new process took over; the message says why."""


class Successor:
    """The new process. `start` it, wait until `ready`, then `hand_over`; `kill` it when it is not to be."""

    def __init__(self, given: Given, sockets: Sequence[tuple[str, socket.socket]]) -> None:
        self._given, self._sockets = given, sockets
        self._channel: socket.socket | None = None
        self._starter = 0
        self.pid = 0

    def start(self) -> None:
        """Begin to start the program. Raises UpgradeError."""
        try:
            self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._channel.setblocking(False)
            with theirs:
                passed = [*self._sockets, (HANDOVER, theirs)]
                environ = os.environ | self._given.environ([name for name, _ in passed])
                channel = str(FIRST_FD + len(passed) - 1)
                starter = [sys.executable, "-I", "-S", "-c", _STARTER, channel, *program()]
                self._starter = _spawn(starter, environ, [each.fileno() for _, each in passed])
        except OSError as error:
            raise _not_started(error.errno or 0) from error

    async def ready(self, limit_s: float) -> None:
        """Wait until it says that it is ready, at most so many seconds. Raises UpgradeError."""
        try:
            async with asyncio.timeout(limit_s):
                self._started(await self._said())
                await self._reap()
                said = await self._said()
        except TimeoutError:
            raise UpgradeError(f"the new process was not ready within {limit_s:g} s") from None
        if said != _READY:
            raise UpgradeError("the new process has ended")

    def hand_over(self) -> None:
        """Tell it that it serves from now on. Raises UpgradeError when it has ended."""
        assert self._channel is not None
        try:
            self._channel.send(_YOURS)
        except OSError as error:
            raise UpgradeError("the new process has ended") from error

    @property
    def serves(self) -> bool:
        """Whether it serves: it has neither ended nor begun to stop."""
        assert self._channel is not None
        try:
            return bool(self._channel.recv(64))
        except BlockingIOError:
            return True
        except OSError:
            return False

    async def kill(self) -> None:
        """End it, whatever it is doing, and wait for that."""
        try:
            async with asyncio.timeout(_END_S):
                await self._end()
        except (TimeoutError, UpgradeError):
            pass  # there is none, or it finds that this end of the pair is closed
        finally:
            self.close()

    def close(self) -> None:
        """Close this end of the pair."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    async def _end(self) -> None:
        if self._starter:
            with suppress(ProcessLookupError):
                os.kill(self._starter, signal.SIGKILL)
            await self._reap()
        while self._channel is not None:
            if self.pid:
                with suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
            if not (said := await self._said()):
                return
            if not self.pid:
                self._started(said)

    async def _said(self) -> bytes:
        """Return what the other end says next; nothing when it has ended."""
        assert self._channel is not None
        try:
            return await asyncio.get_running_loop().sock_recv(self._channel, 64)
        except OSError:
            return b""

    def _started(self, said: bytes) -> None:
        """Take over what the process in between says. Raises UpgradeError."""
        if said.startswith(_FAILED):
            raise _not_started(int(said.removeprefix(_FAILED)))
        if not said.startswith(_STARTED):
            raise UpgradeError("the new process has ended")
        self.pid = int(said.removeprefix(_STARTED))

    async def _reap(self) -> None:
        """Wait for the end of the process in between."""
        starter, self._starter = self._starter, 0
        if starter:
            with suppress(ChildProcessError, RuntimeError):  # there may be no room for a thread
                await asyncio.shield(asyncio.to_thread(os.waitpid, starter, 0))


def _not_started(number: int) -> UpgradeError:
    return UpgradeError(f"the program cannot be started ({os.strerror(number)})")


class Predecessor:
    """The process before, at the other end of `channel`; None where there is none. `ended` is set when it has ended."""

    def __init__(self, channel: socket.socket | None) -> None:
        self._channel = channel
        self.ended = asyncio.Event()
        if channel is None:
            self.ended.set()
        else:
            channel.setblocking(False)

    async def has_left(self) -> bool:
        """Say to it that this process is ready; return whether it left the sockets to this one."""
        if self._channel is None:
            return True
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self._channel, _READY)
            if await loop.sock_recv(self._channel, 64) != _YOURS:
                return False
        except OSError:
            return False
        loop.add_reader(self._channel, self._ended, self._channel)
        return True

    def stopping(self) -> None:
        """Say to it that this process stops, and that nobody serves after it."""
        if self._channel is not None:
            with suppress(OSError):
                self._channel.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close this end of the pair."""
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._channel.close()
            self._channel = None

    def _ended(self, channel: socket.socket) -> None:
        """It has nothing more to say: there is its end to be read."""
        asyncio.get_running_loop().remove_reader(channel)
        self.ended.set()


def program() -> list[str]:
    """Return what starts this program again: the file by which it was started, if that can be executed by itself.

    A file's first line names its interpreter, which is another one where the file is a new one.
    """
    file = Path(sys.argv[0])
    if file.is_file() and os.access(file, os.X_OK):
        return [str(file.absolute()), *sys.argv[1:]]
    return [sys.executable, *sys.orig_argv[1:]]


def _spawn(argv: list[str], environ: dict[str, str], descriptors: list[int]) -> int:
    """Start a program that has these descriptors from `FIRST_FD` on; return its process id. Raises OSError."""
    free = FIRST_FD + len(descriptors)
    with ExitStack() as stack:
        actions = []
        for index, descriptor in enumerate(descriptors):
            # Out of the way first: one of them may stand where another one is to be.
            copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, free)
            stack.callback(os.close, copy)
            actions.append((os.POSIX_SPAWN_DUP2, copy, FIRST_FD + index))
        return os.posix_spawn(argv[0], argv, environ, file_actions=actions, setsigmask=_KEPT)
