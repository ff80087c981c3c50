"""The process that `tests.forked` starts: it has imported what commands need, and forks one off for each connection.

A connection sends the command (JSON and the three standard streams) and is told the process's id and, at its end, its
exit status. When the connection or standard input is closed, whoever asked is gone, and what was started is killed.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import hartonomous.pipelines.reindex
import hartonomous.sending.progress
import hartonomous.sending.tally
import hartonomous.server  # noqa: F401 - all of them are here to be there
from hartonomous.__main__ import main

MAX_BYTES: Final = 1 << 18
_STREAMS: Final = (0, 1, 2)


class _Forks:
    """The children of this process, and who wants to know of them."""

    def __init__(self, listener: socket.socket) -> None:
        self._children: set[int] = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ, self._end)
        self._selector.register(listener, selectors.EVENT_READ, partial(self._accept, listener))

    def serve(self) -> None:
        """Fork until standard input is closed; in a child this ends as a command does."""
        while True:
            (key, _), *_ = self._selector.select()
            key.data()

    def _end(self) -> None:
        for process in self._children:
            signal.pidfd_send_signal(process, signal.SIGKILL)
        os._exit(0)

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        message, streams, _, _ = socket.recv_fds(connection, MAX_BYTES, len(_STREAMS))
        pid = os.fork()
        if pid == 0:
            connection.close()
            self._become(json.loads(message), streams)
        for stream in streams:
            os.close(stream)
        process = os.pidfd_open(pid)
        self._children.add(process)
        connection.send(b"%d" % pid)
        self._selector.register(process, selectors.EVENT_READ, partial(self._ended, connection, process, pid))
        kill = partial(signal.pidfd_send_signal, process, signal.SIGKILL)
        self._selector.register(connection, selectors.EVENT_READ, kill)

    def _become(self, command: dict[str, Any], streams: list[int]) -> None:
        """Be the command, with nothing left of this process but its imports."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            elif key.fd not in _STREAMS:
                os.close(key.fd)
        self._selector.close()
        for stream, place in zip(streams, _STREAMS, strict=True):
            os.dup2(stream, place)
            os.close(stream)
        os.environ.clear()
        os.environ.update(command["environment"])
        os.chdir(command["folder"])
        sys.exit(main(command["argv"]))

    def _ended(self, connection: socket.socket, process: int, pid: int) -> None:
        _, status = os.waitpid(pid, 0)
        self._children.discard(process)
        self._selector.unregister(process)
        self._selector.unregister(connection)
        os.close(process)
        with connection, suppress(OSError):
            connection.send(b"%d" % os.waitstatus_to_exitcode(status))


def _serve(path: Path) -> None:
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a process with threads cannot be forked"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        print("ready", flush=True)
        _Forks(listener).serve()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
