"""A soak: the callers of `tests.chaos` without any faults; beside them reloads, refused requests, and who looks."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

import yaml

from tests.chaos import leaks
from tests.chaos.client import Wish
from tests.chaos.report import Report
from tests.chaos.run import Run, run
from tests.chaos.schedule import Fault
from tests.chaos.stack import Stack
from tests.soak.course import HEADING, Verdict, judge

_RELOAD_EVERY_S = 20.0
_REFUSED_EVERY_S = 0.5
_SAMPLES = 400
_OFTEN_S = 0.25
_SELDOM_S = 5.0

Course = dict[str, list[float]]


class Soak(Run):
    """A run in which nothing goes wrong; `times` and `course` are what the server held, and when."""

    def faults(self) -> list[Fault]:
        """Return that nothing goes wrong."""
        return []

    def others(self) -> Iterable[Coroutine[Any, Any, None]]:
        """Reload, be refused, and look."""
        self.times: list[float] = []
        self.course: Course = {name: [] for name in ("memory", "tasks", "sockets", "files", "threads")}
        return self._reload(), self._refused(), self._look()

    async def _reload(self) -> None:
        """Let another configuration take over now and then."""
        async for number in self._every(_RELOAD_EVERY_S):
            config = yaml.safe_load(self.stack.server.config.read_text(encoding="utf-8"))
            config["log"]["kept_records"] = 1_000 + number % 2
            self.stack.server.config.write_text(yaml.safe_dump(config), encoding="utf-8")
            exchange = await self.client.send("reload", "POST", "/admin/config/reload", {})
            if exchange.ok and exchange.json["changed"] != ["log.kept_records"]:
                self.client.wrong(exchange, f"{exchange.json} was reloaded")

    async def _refused(self) -> None:
        """Ask what cannot be answered."""
        wrong: tuple[tuple[str, str, Any, int], ...] = (
            ("POST", "/rag/query", {"nothing": 1}, 422),
            ("GET", "/nowhere", None, 404),
            ("GET", "/rag/query", None, 405),
            ("GET", "/rag/collections/none/documents/none", None, 404),
        )
        async for number in self._every(_REFUSED_EVERY_S):
            method, path, body, status = wrong[number % len(wrong)]
            exchange = await self.client.send("refused", method, path, body, Wish(also=frozenset({status})))
            if exchange.whole and exchange.status != status:
                self.client.wrong(exchange, f"not {status}")

    async def _look(self) -> None:
        began = time.monotonic()
        seconds = min(_SELDOM_S, max(_OFTEN_S, self.report.seconds / _SAMPLES))
        async for _ in self._every(seconds):
            with suppress(TimeoutError):
                async with asyncio.timeout(_SELDOM_S):
                    held = await leaks.look(self.stack.server)
                    self._note(time.monotonic() - began, held)

    def _note(self, at: float, held: leaks.Idle) -> None:
        self.times.append(at)
        values = {
            "memory": held.usage.memory / 2**20,
            "tasks": held.held["asyncio tasks"],
            "sockets": held.usage.sockets,
            "files": held.usage.files,
            "threads": held.usage.threads,
        }
        for name, value in values.items():
            self.course[name].append(value)

    async def _every(self, seconds: float) -> AsyncIterator[int]:
        """Yield numbers, so far apart, until the load ends."""
        ends = time.monotonic() + self.report.seconds
        for number in itertools.count():
            if time.monotonic() + seconds > ends:
                return
            await asyncio.sleep(seconds)
            yield number


async def soak(seed: int, seconds: float, tell: Callable[[str], object] = print) -> tuple[Report, list[Verdict], Soak]:
    """Run for so many seconds of load; return the report, in which what grows is a violation, and what was seen."""
    runs: list[Soak] = []

    def made(stack: Stack, report: Report, tell: Callable[[str], object]) -> Soak:
        runs.append(one := Soak(stack, report, tell))
        return one

    report = await run(seed, seconds, tell, made)
    verdicts = judge(runs[0].times, runs[0].course, seconds)
    for verdict in verdicts:
        if not verdict.holds:
            report.violate("grows", f"{HEADING}\n  {verdict.line()}")
    return report, verdicts, runs[0]
