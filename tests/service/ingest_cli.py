"""`hartonomous ingest` as the tests run it: in a thread, or as a process of its own that can be interrupted."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from hartonomous.__main__ import main
from hartonomous.sending import faults


def hurry(monkeypatch: pytest.MonkeyPatch, *, base_s: float, cap_s: float = 30.0) -> None:
    """Make the waits before another try those of tests, and let no key of whoever runs them go out."""
    monkeypatch.setattr(faults, "_BASE_S", base_s)
    monkeypatch.setattr(faults, "_CAP_S", cap_s)
    monkeypatch.delenv("HARTONOMOUS_API_KEY", raising=False)


class Outcome(NamedTuple):
    """How a run ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def summary(self) -> str:
        """The last line of standard output."""
        return self.out.splitlines()[-1]


class Cli:
    """Runs the command in a thread, where a debugger and coverage see it."""

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = url
        self._capsys = capsys

    async def __call__(self, *arguments: str | Path) -> Outcome:
        """Run it to its end."""
        status = await asyncio.to_thread(main, ["ingest", "--url", self.url, *map(str, arguments)])
        printed = self._capsys.readouterr()
        assert "Traceback" not in printed.err
        return Outcome(status, printed.out, printed.err)


class Running:
    """The command as a process, and what it has printed so far."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.out: list[str] = []
        self.err: list[str] = []
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = asyncio.gather(_read(process.stdout, self.out), _read(process.stderr, self.err))

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        self._process.send_signal(signal.SIGINT)

    async def outcome(self) -> Outcome:
        """Wait for its end."""
        async with asyncio.timeout(60):
            await self._readers
            status = await self._process.wait()
        return Outcome(status, "".join(self.out), "".join(self.err))

    async def stop(self) -> None:
        """End it whatever it does."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._readers


async def _read(stream: asyncio.StreamReader, lines: list[str]) -> None:
    while line := await stream.readline():
        lines.append(line.decode())


@asynccontextmanager
async def process(*arguments: str | Path) -> AsyncIterator[Running]:
    """Start the command; it is ended at the end."""
    program = [sys.executable, "-m", "hartonomous", "ingest", *map(str, arguments)]
    running = Running(await asyncio.create_subprocess_exec(*program, stdout=PIPE, stderr=PIPE))
    try:
        yield running
    finally:
        await running.stop()
