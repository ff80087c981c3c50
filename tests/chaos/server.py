"""`hartonomous serve` as a process of its own: started, killed, and what `/proc` knows of it."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import yaml

from hartonomous.trial import child
from tests.chaos.serve import MARK
from tests.service.vector_store import free_port

_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What the process holds: open files, those of them that are sockets, resident memory in bytes, threads."""

    files: int
    sockets: int
    memory: int
    threads: int


class Server:
    """The application on a port of its own, configured by a file. `kills` counts how often it was killed."""

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        self.kills = 0
        self._here = asyncio.Event()
        self.config = folder / "hartonomous.yaml"
        own = {"host": "127.0.0.1", "port": self.port, **config.get("server", {})}
        self.config.write_text(yaml.safe_dump({**config, "server": own}), encoding="utf-8")
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it answers; it need not be ready."""
        command = child.command(sys.executable, "-m", "tests.chaos.serve", "serve", "--config", str(self.config))
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*command, stderr=log)
        await self.until("/health", _START_S)
        self._here.set()

    @property
    def away(self) -> bool:
        """Whether it has not been started, or was ended."""
        return not self._here.is_set()

    async def here(self) -> None:
        """Wait until it is started."""
        await self._here.wait()

    async def until(self, path: str, limit_s: float) -> float:
        """Wait until a path answers 200; return how long that took. TimeoutError: it did not."""
        began = time.monotonic()
        async with asyncio.timeout(limit_s), aiohttp.ClientSession() as session:
            while True:
                assert self._process is not None
                assert self._process.returncode is None, f"the server ended:\n{self.log.read_text()[-4_000:]}"
                with suppress(aiohttp.ClientError):
                    async with session.get(self.url + path) as response:
                        if response.status == 200:
                            return time.monotonic() - began
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """End it as `kill -9` does."""
        self.kills += 1
        self._here.clear()
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """End it with SIGTERM; with SIGKILL when it does not end."""
        self._here.clear()
        try:
            async with asyncio.timeout(20):
                await self._end(signal.SIGTERM)
        except TimeoutError:
            await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
            await self._process.wait()

    def usage(self) -> Usage:
        """Return what the process holds now."""
        assert self._process is not None
        process = Path("/proc") / str(self._process.pid)
        files = [_target(entry) for entry in (process / "fd").iterdir()]
        lines = (process / "status").read_text(encoding="ascii", errors="replace").splitlines()
        status = dict(line.split(":", 1) for line in lines)
        return Usage(
            files=len(files),
            sockets=sum(name.startswith("socket:") for name in files),
            memory=int(status["VmRSS"].split()[0]) * 1024,
            threads=int(status["Threads"]),
        )

    def tell_tasks(self) -> None:
        """Let the process write where its tasks stand, which `tasks` returns a moment later."""
        if not self.away and self._process is not None:
            self._process.send_signal(signal.SIGUSR1)

    def tasks(self) -> list[str]:
        """Return where the tasks of the process stood when it was last asked, each place once with its number."""
        told = [line for line in self._lines() if line.startswith(MARK)]
        places = orjson.loads(told[-1].removeprefix(MARK)) if told else []
        return [f"{count} x {place}" for place, count in Counter(places).most_common()]

    def _lines(self) -> list[bytes]:
        return self.log.read_bytes().splitlines() if self.log.exists() else []

    def complaints(self) -> list[str]:
        """Return the lines of the log that tell of a bug: errors, and what is no record of ours."""
        return [line.decode(errors="replace") for line in self._lines() if line.strip() and not _harmless(line)]


def _target(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except OSError:
        return ""


def _harmless(line: bytes) -> bool:
    if line.startswith(MARK):
        return True
    try:
        return orjson.loads(line)["level"].lower() not in {"error", "critical"}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return False
