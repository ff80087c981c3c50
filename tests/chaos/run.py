"""A whole run: everything started, warmed up, loaded while faults are played, looked at, reported."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos import leaks
from tests.chaos.checks import Checks, filled
from tests.chaos.client import Client
from tests.chaos.ledger import Ledger
from tests.chaos.load import Load
from tests.chaos.player import Player
from tests.chaos.reading import Reader
from tests.chaos.relaying import Relayer
from tests.chaos.report import Report
from tests.chaos.schedule import Fault, draw
from tests.chaos.stack import BREAKER_OPEN_S, Stack, running
from tests.chaos.texts import COLLECTIONS
from tests.chaos.writing import Writer, all_names

_READY_S = 30.0
# The longest that a circuit is open, its jitter, and what the queues still hold.
_ANSWERS_S = 3 * BREAKER_OPEN_S + 4.0

Tell = Callable[[str], object]


class Run:
    """One run on a stack that is up."""

    def __init__(self, stack: Stack, report: Report, tell: Tell) -> None:
        self.stack = stack
        self.report = report
        self._tell = tell
        self.client = Client(stack.server, report)
        self._ledger = Ledger()
        self._writer = Writer(self.client, self._ledger)
        self._reader = Reader(self.client, self._ledger)
        self._relayer = Relayer(self.client)

    async def close(self) -> None:
        """Close the client's connections."""
        await self.client.close()

    async def whole(self) -> None:
        """Run it; the report has everything."""
        before = await self._warm_up()
        await self._load(self.faults())
        await self._recover()
        self._tell("looking at every document")
        checks = Checks(self.client, self._ledger, self._writer, self._reader, self.stack.store_url)
        await checks.all()
        await self.client.close()
        await leaks.judge(self.stack.server, before, self.report)
        self._sum_up()

    def faults(self) -> list[Fault]:
        """Return what is to go wrong."""
        return draw(self.report.seed, self.report.seconds, engine=self.stack.engine is not None)

    def others(self) -> Iterable[Coroutine[Any, Any, None]]:
        """Return what else is to run beside the load."""
        return ()

    async def _warm_up(self) -> leaks.Idle:
        """Let each thing happen once while nothing is wrong: caches have their place then.

        Files, sockets and tasks are those of before: what is kept alive for a moment would hide a leak.
        """
        await self.stack.server.until("/ready", _READY_S)
        fresh = await leaks.look(self.stack.server)
        await filled(self.client, self._writer, all_names(), self._ledger)
        reader, relayer, chance = self._reader, self._relayer, Random(0)
        actions = (reader.query, reader.query_streamed, reader.batch, relayer.chat, relayer.embeddings, relayer.rerank)
        await asyncio.gather(*(action(chance) for action in actions))
        if self.report.failed or self.report.requests("200") != self.report.requests():
            raise RuntimeError(f"the warm-up failed: {self.report.outcomes} {self.report.violations}")
        warm = await leaks.look(self.stack.server)
        return replace(fresh, usage=replace(fresh.usage, memory=warm.usage.memory))

    async def _load(self, faults: list[Fault]) -> None:
        self._tell(f"{self.report.seconds:g} s of load, {len(faults)} faults")
        self.client.player = player = Player(self.stack, faults)
        load = Load(self.report.seed, self._writer, self._reader, self._relayer)
        async with asyncio.TaskGroup() as group:
            group.create_task(player.play())
            group.create_task(load.run(self.report.seconds))
            for other in self.others():
                group.create_task(other)
        self.report.faults = player.played

    async def _recover(self) -> None:
        """Wait until the server is ready and answers questions, and nothing is under way."""
        try:
            took = await self.stack.server.until("/ready", _READY_S)
        except TimeoutError:
            self.report.violate("not ready", f"{_READY_S:g} s after the last fault")
            return
        self.report.figures["ready again after"] = f"{took:.1f} s"
        await self._answers()
        ends = time.monotonic() + _READY_S
        busy = (await leaks.look(self.stack.server)).busy
        while busy and time.monotonic() < ends:
            await asyncio.sleep(0.1)
            busy = (await leaks.look(self.stack.server)).busy
        if busy:
            self.report.violate("leak", f"still under way {_READY_S:g} s after the last request: {busy}")

    async def _answers(self) -> None:
        """Wait until every backend is asked again: a circuit may be open for a moment, and then is tried."""
        began, question = time.monotonic(), {"query": "valve", "max_tokens": 1, "rerank": True}
        headers = {"Cache-Control": "no-store"}
        while (took := time.monotonic() - began) < _ANSWERS_S:
            exchange = await self.client.send("query", "POST", "/rag/query", question, headers=headers)
            if exchange.ok and not exchange.json["degraded"]:
                self.report.figures["answers whole again after"] = f"{took:.1f} s"
                return
            await asyncio.sleep(0.1)
        self.report.violate(
            "not ready", f"no whole answer {_ANSWERS_S:g} s after it was ready: {exchange.body[:300]!r}"
        )

    def _sum_up(self) -> None:
        for line in self.stack.server.complaints():
            self.report.violate("log", line if len(line) < 1_200 else f"{line[:300]} … {line[-800:]}")
        figures = self.report.figures
        figures["500s"] = str(self.report.count("500"))
        figures["reads held against what was acknowledged"] = str(self._reader.looks)
        figures["leaks"] = str(self.report.count("leak"))


Kind = Callable[[Stack, Report, Tell], Run]


async def run(seed: int, seconds: float, tell: Tell = print, kind: Kind = Run) -> Report:
    """Run for so many seconds of load (start, end and checks take some more); return the report.

    `kind` is the kind of run: another one may have no faults, and do more beside the load.
    """
    report = Report(seed, seconds)
    tell(f"seed {seed}")
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-"))
        parts = await stack.enter_async_context(running(Path(folder), seed, COLLECTIONS))
        one = kind(parts, report, tell)
        stack.push_async_callback(one.close)
        await one.whole()
    return report
