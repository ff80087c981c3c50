"""A real Prometheus as a process: it scrapes one server each second and evaluates our rules."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from hartonomous.trial import child
from tests.monitoring.asked import PROMETHEUS, Asked
from tests.service.vector_store import free_port

SCRAPE_S = 1.0
_START_S = 30.0
_POINTS = 500


@dataclass(frozen=True, slots=True)
class Found:
    """What an expression has returned over a time: series, and numbers among their samples."""

    series: int
    numbers: int


class Prometheus:
    """The API of a running Prometheus."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of the API; fails where it is an error."""
        async with self._session.post(f"{self.url}/api/v1/{path}", data=parameters) as response:
            answer = await response.json()
        assert answer["status"] == "success", f"{parameters}: {answer}"
        return answer["data"]

    async def read(self, path: str) -> Any:
        """Return the data of what is only read."""
        async with self._session.get(f"{self.url}/api/v1/{path}") as response:
            return (await response.json())["data"]

    async def over(self, asked: Asked, start: float, end: float) -> Found:
        """Return what an expression has between two times."""
        step = max(SCRAPE_S, (end - start) / _POINTS)
        times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        result = (await self.ask("query_range", query=asked.expression, **times))["result"]
        numbers = sum(math.isfinite(float(value)) for series in result for _, value in series["values"])
        return Found(len(result), numbers)

    async def number(self, expression: str) -> float:
        """Return the one number that an expression is now, NaN where it is nothing."""
        result = (await self.ask("query", query=expression))["result"]
        return float(result[0]["value"][1]) if result else math.nan

    async def faults(self) -> list[str]:
        """Return what is wrong with rules and targets."""
        rules = [rule for group in (await self.read("rules"))["groups"] for rule in group["rules"]]
        targets = (await self.read("targets"))["activeTargets"]
        found = [f"{rule['name']}: {rule['lastError']}" for rule in rules if rule["health"] != "ok"]
        return found + [f"{target['scrapeUrl']}: {target['lastError']}" for target in targets if target["lastError"]]


@asynccontextmanager
async def prometheus(folder: Path, target: str, key: str, ca: Path) -> AsyncIterator[Prometheus]:
    """Start a Prometheus that scrapes `target` (HOST:PORT, over TLS) with a key; end it at the end."""
    program = shutil.which("prometheus")
    assert program is not None, "the Debian package prometheus is missing"
    port, config = free_port(), _config(folder, target, key, ca)
    command = [
        *child.command(program),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    ]
    log = folder / "prometheus.log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(*command, stdout=file, stderr=file)
    try:
        async with aiohttp.ClientSession() as session:
            started = Prometheus(f"http://127.0.0.1:{port}", session)
            await _ready(started.url, session, process, log)
            yield started
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _config(folder: Path, target: str, key: str, ca: Path) -> Path:
    """Write the example's configuration for a test: its own target, each second, with the same rules."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    key_file = folder / "prometheus.key"
    key_file.write_text(key, encoding="ascii")
    config["global"] = {"scrape_interval": f"{int(SCRAPE_S)}s", "evaluation_interval": f"{int(SCRAPE_S)}s"}
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    config["scrape_configs"][0] |= {
        "scheme": "https",
        "tls_config": {"ca_file": str(ca)},
        "authorization": {"credentials_file": str(key_file)},
        "static_configs": [{"targets": [target]}],
    }
    del config["alerting"]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


async def _ready(url: str, session: aiohttp.ClientSession, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(_START_S):
        while True:
            assert process.returncode is None, f"it ended: {log}"
            with suppress(aiohttp.ClientError):
                async with session.get(f"{url}/-/ready") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.05)
