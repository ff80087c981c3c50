"""`hartonomous serve` as a process of a test: its configuration, its address, its log, its end."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.service.application import eventually


class Served:
    """A running server whose log goes into a file."""

    def __init__(self, process: Process, log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of the log, each of which is JSON; one that is being written is none yet."""
        written = self.log.read_text(encoding="utf-8")
        return [json.loads(line) for line in written[: written.rfind("\n") + 1].splitlines()]

    @property
    def port(self) -> int:
        """Where it listens."""
        return next(int(line["port"]) for line in self.lines if line["message"] == "listening")

    @property
    def url(self) -> str:
        """The base address."""
        return f"http://127.0.0.1:{self.port}"

    def told(self, message: str) -> int:
        """How many lines of the log have this message."""
        return sum(line["message"] == message for line in self.lines)

    def stop(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def limit(self, resource_number: int, value: int) -> None:
        """Set the soft limit of a resource of the process."""
        hard = resource.prlimit(self.process.pid, resource_number)[1]
        resource.prlimit(self.process.pid, resource_number, (value, hard))

    async def exit_code(self) -> int:
        """Wait for the end."""
        async with asyncio.timeout(30):
            return await self.process.wait()


@asynccontextmanager
async def serving(folder: Path, limits: dict[int, int] | None = None, /, **sections: Any) -> AsyncIterator[Served]:
    """Start a server with a configuration of these sections, on a free port; kill it if it lives at the end."""
    config, log = folder / "config.yaml", folder / "serve.log"
    sections["server"] = {"port": 0} | sections.get("server", {})
    config.write_text(yaml.safe_dump(sections), encoding="utf-8")
    program = [sys.executable, "-m", "hartonomous", "serve", "--config", str(config)]
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(*_limited(limits or {}), *program, stderr=file)
    served = Served(process, log)
    try:
        await eventually(
            lambda: process.returncode is not None or b'"listening"' in log.read_bytes(), "the server listens"
        )
        yield served
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _limited(limits: dict[int, int]) -> list[str]:
    """Return what starts a program with these soft limits."""
    if not limits:
        return []
    program = (
        "import os, resource, sys\n"
        f"for number, value in {list(limits.items())!r}:\n"
        "    resource.setrlimit(number, (value, resource.getrlimit(number)[1]))\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", program]


def backends(url: str, store: str = "http://127.0.0.1:9", **options: Any) -> dict[str, Any]:
    """Return the section `backends` for one model server that is all three, and a vector store."""
    services: dict[str, Any] = {name: {"urls": [url], **options} for name in ("embedding", "generative")}
    return {**services, "qdrant": {"url": store}}
