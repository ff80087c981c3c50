"""A unix socket to listen on: its file's mode, what a process that was killed left there, and its end."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path
from stat import S_ISSOCK

# Who may connect: the server's user, and its group.
_MODE = 0o660


class UnixSocket:
    """A listening socket at `path`.

    Raises:
        OSError: there is no such folder, somebody listens there, or the file is none of a socket.
    """

    def __init__(self, path: Path, backlog: int) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale(path)
            self.socket.bind(os.fsencode(path))
            self._file = os.lstat(path).st_ino
            path.chmod(_MODE)
            self.socket.listen(backlog)  # nobody can have connected before
        except BaseException:
            self.socket.close()
            raise

    def remove(self) -> None:
        """Remove the file, unless another process has put its own there."""
        with suppress(OSError):
            if os.lstat(self.path).st_ino == self._file:
                self.path.unlink()


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
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # many wait to be accepted
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
