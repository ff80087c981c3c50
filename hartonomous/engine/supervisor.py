"""The engine's parent: a small process that starts the engine again when it dies.

What is done is decided by how a worker ends:

- asked to (SIGTERM or SIGINT, which are passed on), or by itself with 0: the supervisor ends with its exit code;
- before any worker was ready (the folder is in use, the port is taken): likewise, for that is the operator's to mend;
- in any other way: it is started again, with the waits of `hartonomous.supervision.Restarts`.

A worker that is ready writes the address that it listens on as a line into the pipe that READY_FD of its environment
names. The next worker is given this address, so that a port chosen by the kernel stays the same.

The kernel kills the worker when the supervisor dies (SIGKILL: what was acknowledged is durable, and a new engine must
not wait for an old one to let go of the folder). No heavy package is imported here, not even the one that logs, until
there is something to log: the process has one thread and 13 MB.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from hartonomous.supervision import Restarts, die_with_parent

READY_FD: Final = "HARTONOMOUS_READY_FD"
Command = Callable[[str | None], Sequence[str]]
"""Makes a worker's command line; given is the address of the worker before, None the first time."""
Tell = Callable[[int, float], None]
"""Called with the exit code of a worker that died (negative: a signal) and the seconds until the next one."""

_STOP = frozenset({signal.SIGTERM, signal.SIGINT})
_CANNOT_EXECUTE = 127  # the shell's
_MOST_BYTES = 4096


def tell_ready(address: str) -> None:
    """Tell the supervisor, if there is one, that this worker listens on `address`."""
    descriptor = os.environ.pop(READY_FD, None)
    if descriptor is not None:
        with contextlib.suppress(OSError, ValueError), os.fdopen(int(descriptor), "w") as pipe:
            pipe.write(f"{address}\n")


def supervise(command: Command, tell: Tell, restarts: Restarts | None = None) -> int:
    """Keep a worker alive until a signal comes or it ends in order; return the exit status.

    Called in the main thread of a process that has no other. Raises OSError when the first worker cannot be started.
    """
    # Signals are fetched where they are waited for: none comes in between, none is lost.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP | {signal.SIGCHLD})
    try:
        return _Supervisor(command, tell, restarts or Restarts()).run()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Supervisor:
    def __init__(self, command: Command, tell: Tell, restarts: Restarts) -> None:
        self._command = command
        self._tell = tell
        self._restarts = restarts
        self._address: str | None = None
        self._stopping = False

    def run(self) -> int:
        while True:
            code, lived_s = self._live_once()
            if code == 0 or self._stopping or self._address is None:
                return self._status(code)
            wait_s = self._restarts.wait_after(lived_s)
            # No memory to load what logs, a full volume: it is started again all the same.
            with contextlib.suppress(OSError, MemoryError, ImportError):
                self._tell(code, wait_s)
            if self._stopped_within(wait_s):
                return 0

    def _live_once(self) -> tuple[int, float]:
        """Run one worker; return its exit code, negative for a signal, and how many seconds it lived."""
        try:
            worker = _Worker(self._command(self._address))
        except OSError:
            if self._address is None:
                raise
            return os.EX_OSERR, 0.0  # too little memory, too many processes: a death like others
        while (code := worker.poll()) is None:
            number = signal.sigwaitinfo(_STOP | {signal.SIGCHLD}).si_signo
            if number in _STOP:
                self._stopping = True
                os.kill(worker.pid, number)
        # A signal to the whole group may have ended the worker before it is seen here.
        self._stopping = self._stopping or self._stopped_within(0.0)
        self._address = worker.address() or self._address
        return code, worker.lived_s

    def _stopped_within(self, seconds: float) -> bool:
        return signal.sigtimedwait(_STOP, seconds) is not None

    def _status(self, code: int) -> int:
        if code >= 0:
            return code
        # A worker that a signal to stop ended outright had not begun: it handles them before it opens the folder.
        return 0 if self._stopping and -code in _STOP else 128 - code


class _Worker:
    """A child process; it is reaped by `poll`."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._ready, told = os.pipe()
        parent = os.getpid()
        try:
            self.pid = os.fork()
        except OSError:
            os.close(self._ready)
            raise
        else:
            if self.pid == 0:
                _become(argv, parent, told)
        finally:
            os.close(told)
        self._started = time.monotonic()
        self.lived_s = 0.0

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it lives."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        self.lived_s = time.monotonic() - self._started
        return os.waitstatus_to_exitcode(status)

    def address(self) -> str | None:
        """Return what it said when it was ready, None if it never was. To be called once, when it has ended."""
        os.set_blocking(self._ready, False)  # if it left a process that holds the other end
        with os.fdopen(self._ready, "rb", buffering=0) as pipe:
            said = pipe.read(_MOST_BYTES) or b""
        return said.decode(errors="replace").strip() or None


def _become(argv: Sequence[str], parent: int, told: int) -> NoReturn:
    """Turn this process, just forked, into the worker."""
    try:
        die_with_parent(parent, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # one that waits ends it as SIGTERM does, not by an exception
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.set_inheritable(told, True)
        os.execve(argv[0], list(argv), os.environ | {READY_FD: str(told)})  # noqa: S606 - our own, and no shell in between
    except OSError as error:
        os.write(2, f"{argv[0]} cannot be started: {error}\n".encode())
    finally:
        os._exit(_CANNOT_EXECUTE)
