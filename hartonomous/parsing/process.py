"""One worker process, as the server sees it: asked one file at a time, and killed when in doubt."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Final, cast

import hartonomous
from hartonomous.parsing.protocol import HELLO, LENGTH, Answer, Request, head

# What a worker is given of the environment: what it needs to find Python's libraries, no secrets.
_ENVIRONMENT: Final = ("PATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
# Folders that Python looks into by itself.
_INSTALLED: Final = ("site-packages", "dist-packages")
_MAX_HEAD: Final = 1024 * 1024
_STEP: Final = 256 * 1024


class StartError(Exception):
    """No worker could be started."""


class DiedError(Exception):
    """The worker ended before it had answered; `returncode` is minus the signal that ended it, if one did."""

    def __init__(self, returncode: int) -> None:
        super().__init__(returncode)
        self.returncode = returncode


class Worker:
    """A process that parses; `idle` says whether it can take a file, `files` how many it has had."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._process: asyncio.subprocess.Process | None = None
        self._busy = False
        self._spent = False
        self.files = 0
        self.resident = 0

    @property
    def idle(self) -> bool:
        """Whether it is alive, has answered all that it was asked, and does not mean to end."""
        return self.alive and not self._busy and not self._spent

    @property
    def alive(self) -> bool:
        """Whether its process was started and has not ended, as far as is known."""
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int | None:
        """The id of its process."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the process; raise StartError when that fails. Cancelled, it leaves one that `kill` ends."""
        self._busy = True
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-B", "-m", "hartonomous.parsing.worker"),
                *(str(os.getpid()), str(self._memory_bytes)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                cwd="/",
                env=_environment(),
                start_new_session=True,
                limit=_STEP,
            )
        except OSError as error:
            raise StartError(error.strerror) from error
        if await self._output.read(len(HELLO)) != HELLO:
            raise StartError(f"it ended with {await self._process.wait()}")
        self._busy = False

    async def ask(self, request: Request, data: bytes) -> tuple[Answer, bytes]:
        """Return the worker's answer and the text with it.

        Raises DiedError when there is none. However it is left but by returning, the worker is of no use any more.
        """
        self._busy = True
        self.files += 1
        try:
            # A worker that has died, or has answered before it had read everything, shows when the answer is read.
            with contextlib.suppress(ConnectionError):
                await self._send(head(request), data)
            answer, text = await self._receive(request["max_text_bytes"])
        except asyncio.IncompleteReadError:
            # It is not killed to make sure: that looks after it behind asyncio's back, which then misses how it ended.
            raise DiedError(await self._running.wait()) from None
        except (ValueError, KeyError, TypeError):
            raise DiedError(0) from None
        self.resident, self._spent, self._busy = answer["resident"], answer["spent"], False
        return answer, text

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self._running.kill()

    async def wait(self) -> None:
        """Wait until the process is gone, and its pipes with it."""
        if self._process is not None:
            while await self._output.read(_STEP):
                pass
            await self._process.wait()

    @property
    def _running(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    @property
    def _output(self) -> asyncio.StreamReader:
        assert self._running.stdout is not None
        return self._running.stdout

    async def _send(self, request: bytes, data: bytes) -> None:
        pipe = self._running.stdin
        assert pipe is not None
        pipe.write(request)
        view = memoryview(data)
        for start in range(0, len(view), _STEP):
            pipe.write(view[start : start + _STEP])
            await pipe.drain()
        await pipe.drain()

    async def _receive(self, max_text_bytes: int) -> tuple[Answer, bytes]:
        """Read an answer; raise ValueError, KeyError or TypeError for one that no honest worker gives."""
        (length,) = LENGTH.unpack(await self._output.readexactly(LENGTH.size))
        if length > _MAX_HEAD:
            raise ValueError
        answer = cast("Answer", json.loads(await self._output.readexactly(length)))
        if answer["size"] > max_text_bytes:
            raise ValueError
        return answer, await self._output.readexactly(answer["size"])


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    root = Path(hartonomous.__file__).resolve().parent.parent
    if root.name not in _INSTALLED:  # a checkout, which the server may have found in its working directory
        paths.insert(0, str(root))
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUTF8": "1"}
