"""`hartonomous COMMAND` as a process of its own that is forked off one which has imported everything already.

It is what `asyncio.create_subprocess_exec(sys.executable, "-m", "hartonomous", ...)` makes, but for the second of
processor time that the imports take. How a command starts by itself is shown by tests of `serve` and `ingest`.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from tests.forking import MAX_BYTES

PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL


class Forked:
    """A process; its methods are those of `asyncio.subprocess.Process`."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._waiting = asyncio.create_task(self._end(connection))

    async def _end(self, connection: socket.socket) -> None:
        with connection:
            told = await asyncio.get_running_loop().sock_recv(connection, MAX_BYTES)
        self.returncode = int(told)

    async def wait(self) -> int:
        """Wait for its end; return its exit status, minus the signal that ended it if one did."""
        await asyncio.shield(self._waiting)
        assert self.returncode is not None
        return self.returncode

    async def communicate(self, data: bytes = b"") -> tuple[bytes, bytes]:
        """Send `data` to its standard input, if that is a pipe, and return what it prints until its end."""
        if self.stdin is not None:
            self.stdin.write(data)
            self.stdin.close()
        printed = await asyncio.gather(*(_read(stream) for stream in (self.stdout, self.stderr)))
        await self.wait()
        return printed[0], printed[1]

    def send_signal(self, number: int) -> None:
        """Send a signal; raise ProcessLookupError where it has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


async def hartonomous(*arguments: object, stdin: int = DEVNULL, stdout: int = DEVNULL, stderr: int = DEVNULL) -> Forked:
    """Start a command; each of its standard streams is a pipe, or nothing."""
    loop = asyncio.get_running_loop()
    ours: list[IO[bytes] | None] = []
    theirs: list[int] = []
    for stream, kind in enumerate((stdin, stdout, stderr)):
        mine, other = _pipe(kind, writes=stream == 0)
        ours.append(mine)
        theirs.append(other)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(str(_server() / "socket"))
    command = {"argv": [str(one) for one in arguments], "folder": str(Path.cwd()), "environment": dict(os.environ)}
    socket.send_fds(connection, [json.dumps(command).encode()], theirs)
    pid = int(connection.recv(MAX_BYTES))
    for other in theirs:
        os.close(other)
    connection.setblocking(False)
    process = Forked(connection, pid)
    process.stdin = await _writer(loop, ours[0])
    process.stdout, process.stderr = [await _reader(loop, one) for one in ours[1:]]
    return process


@functools.cache
def _server() -> Path:
    """Start the process that forks, once; return the folder of its socket. It ends with this process."""
    folder = tempfile.TemporaryDirectory(prefix="hartonomous-")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forking", f"{folder.name}/socket"],
        stdin=PIPE,
        stdout=PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"

    def stop() -> None:
        process.communicate()
        folder.cleanup()

    atexit.register(stop)
    return Path(folder.name)


def _pipe(kind: int, *, writes: bool) -> tuple[IO[bytes] | None, int]:
    if kind == DEVNULL:
        return None, os.open(os.devnull, os.O_RDWR)
    read, write = os.pipe()
    return (os.fdopen(write, "wb", 0), read) if writes else (os.fdopen(read, "rb", 0), write)


async def _reader(loop: asyncio.AbstractEventLoop, pipe: Any) -> asyncio.StreamReader | None:
    if pipe is None:
        return None
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


async def _writer(loop: asyncio.AbstractEventLoop, pipe: Any) -> asyncio.StreamWriter | None:
    if pipe is None:
        return None
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), pipe
    )
    return asyncio.StreamWriter(transport, protocol, None, loop)


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    return b"" if stream is None else await stream.read()
