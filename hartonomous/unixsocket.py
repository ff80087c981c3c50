"""A unix socket to listen on: its file's mode, what a process that was killed left there, and its end.

Of several that start at once one has it: each holds a lock while it looks and binds (`admin.sock.lock`, which stays; a
lock whose file is removed would be another one for who comes next).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISSOCK
from typing import Self

# Who may connect: the server's user, and its group.
_MODE = 0o660


class UnixSocket:
    """A listening socket at `path`.

    Raises:
        OSError: there is no such folder, somebody listens there, or the file is none of a socket.
    """

    def __init__(self, path: Path, backlog: int) -> None:
        self.path = path
        self._file: os.stat_result | None = None
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _locked(path):
                _remove_stale(path)
                self.socket.bind(os.fsencode(path))
                self._file = os.lstat(path)
                path.chmod(_MODE)
                self.socket.listen(backlog)  # nobody can have connected before
        except BaseException:
            self.socket.close()
            raise

    @classmethod
    def taken_over(cls, path: Path, listening: socket.socket) -> Self:
        """Return the socket that the process before listens on at `path`; its file is that one's until `own`."""
        taken = cls.__new__(cls)
        taken.path, taken.socket, taken._file = path, listening, None
        return taken

    def own(self) -> None:
        """Have the file for one's own, to be removed at the end."""
        if self._file is None:
            with suppress(OSError):  # somebody may have tidied up
                self._file = os.lstat(self.path)

    def remove(self) -> None:
        """Remove the file, unless another process has put its own there; who has connected is still to be accepted.

        To be called before the socket is closed, and does nothing afterwards: until then nobody else takes the place,
        and the number of the file is not given to another one.
        """
        if self.socket.fileno() < 0 or self._file is None:
            return
        with suppress(OSError):
            if os.path.samestat(os.lstat(self.path), self._file):
                self.path.unlink()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process is about to take the path, and let none begin."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(path.with_name(path.name + ".lock"), flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _remove_stale(path: Path) -> None:
    """Remove the file of a socket on which nobody listens any more."""
    try:
        is_socket = S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fsencode(path))
        except FileNotFoundError:
            return  # whose it was has just ended
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # many wait to be accepted
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
