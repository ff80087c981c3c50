"""What the server must have given back when nobody asks it anything: tasks, sockets, files, memory."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass

import aiohttp

from tests.chaos.report import Report
from tests.chaos.server import Server, Usage

# Connections to backends that are kept alive, and what a poll of their health holds for a moment.
_SLACK = {"files": 8, "sockets": 8, "asyncio tasks": 5}
_PATIENCE_S = 20.0
_SAMPLE = re.compile(r"^(hartonomous_\w*(?:in_flight|queue_length|asyncio_tasks))(?:\{(.*)\})? (\S+)$", re.MULTILINE)
# Judged after so long a run only: until then caches fill.
_MEMORY_AFTER_S = 240.0
_MEMORY_BYTES = 96 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Idle:
    """What the process holds, and what its gauges of work under way say."""

    usage: Usage
    gauges: dict[str, float]

    @property
    def held(self) -> dict[str, float]:
        """Return what must not grow."""
        tasks = self.gauges.get("hartonomous_asyncio_tasks", 0.0)
        return {"files": self.usage.files, "sockets": self.usage.sockets, "asyncio tasks": tasks}

    @property
    def busy(self) -> dict[str, float]:
        """Return the gauges of work under way that are not 0; the request that reads them is one."""
        own = {"hartonomous_http_requests_in_flight": 1.0}
        gauges = {name: value - own.get(name, 0.0) for name, value in self.gauges.items() if "tasks" not in name}
        return {name: value for name, value in gauges.items() if value}


async def look(server: Server) -> Idle:
    """Return what the server holds now."""
    async with aiohttp.ClientSession() as session, session.get(server.url + "/metrics") as response:
        text = await response.text()
        gauges = {name + (labels and f" {labels}"): float(value) for name, labels, value in _SAMPLE.findall(text)}
        return Idle(server.usage(), gauges)


async def judge(server: Server, before: Idle, report: Report) -> None:
    """Wait until the server holds no more than `before`; what it never gives back is a leak."""
    ends = time.monotonic() + _PATIENCE_S
    now = await look(server)
    while _leaked(before, now) and time.monotonic() < ends:
        await asyncio.sleep(0.2)
        now = await look(server)
    for what in _leaked(before, now):
        report.violate("leak", what)
    if any("tasks" in what for what in _leaked(before, now)):
        server.tell_tasks()
        await asyncio.sleep(0.5)
        report.violations["leak"] += [f"  {place}" for place in server.tasks()]
    for name, value in now.held.items():
        report.figures[f"{name} of the idle server"] = f"{value:.0f} (before {before.held[name]:.0f})"
    _memory(before.usage.memory, now.usage.memory, report)


def _leaked(before: Idle, now: Idle) -> list[str]:
    grown = [
        f"{value:.0f} {name}, {before.held[name]:.0f} before"
        for name, value in now.held.items()
        if value > before.held[name] + _SLACK[name]
    ]
    return grown + [f"{name} is {value:g}" for name, value in now.busy.items()]


def _memory(before: int, now: int, report: Report) -> None:
    growth = now - before
    report.figures["memory of the server"] = f"{now / 2**20:.0f} MiB, {growth / 2**20:+.0f} MiB since the warm-up"
    if report.seconds >= _MEMORY_AFTER_S and growth > _MEMORY_BYTES:
        report.violate("memory", f"{growth / 2**20:.0f} MiB more than after the warm-up")
