"""Plays the schedule: faults come and go at their times, what is killed is started again."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence

from tests.chaos.schedule import ENGINE, SERVER, Fault
from tests.chaos.stack import Stack

# What a fault did may show a little after it is over: a call that waits, a breaker that is still open.
_ECHO_S = 8.0


class Player:
    """Faults over time; `wrong` tells what was the matter while a request ran."""

    def __init__(self, stack: Stack, faults: Sequence[Fault]) -> None:
        self.played: Counter[tuple[str, str]] = Counter()
        self._stack = stack
        self._faults = faults
        self._began = 0.0
        self._spans: list[tuple[float, float, Fault]] = []

    async def play(self) -> None:
        """Play everything; returns when the last fault is over and everything is running again."""
        self._began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for fault in self._faults:
                group.create_task(self._one(fault))

    def wrong(self, service: str, since: float) -> list[Fault]:
        """Return the faults of a service (its replicas, or what is killed) that a request begun then may have felt."""
        return [fault for _, until, fault in self._spans if fault.where.startswith(service) and until + _ECHO_S > since]

    def during(self, since: float, until: float) -> str:
        """Return which faults there were in a time, for people."""
        felt = [fault for began, ended, fault in self._spans if began < until and ended > since]
        return ", ".join(f"{fault.where} {fault.what}" for fault in felt)

    async def _one(self, fault: Fault) -> None:
        await asyncio.sleep(self._began + fault.at - time.monotonic())
        self.played[fault.where, fault.kind] += 1
        self._spans.append(span := (time.monotonic(), float("inf"), fault))
        if fault.where == SERVER:
            await self._stack.server.kill()
            await asyncio.sleep(fault.lasts_s)
            await self._stack.server.start()
        elif fault.where == ENGINE:
            await self._kill_engine(fault)
        else:
            await self._stack.places[fault.where].spoil(fault.what)
            await asyncio.sleep(self._began + fault.until - time.monotonic())
            await self._stack.places[fault.where].heal()
        self._spans[self._spans.index(span)] = (span[0], time.monotonic(), fault)

    async def _kill_engine(self, fault: Fault) -> None:
        """Kill its worker, which its keeper starts again, or both, which stay away for a while."""
        engine = self._stack.engine
        assert engine is not None
        if fault.what == "kill-worker":
            if worker := engine.worker:  # 0 where it is being started
                os.kill(worker, signal.SIGKILL)
            return
        await asyncio.to_thread(engine.kill)
        await asyncio.sleep(fault.lasts_s)
        await asyncio.to_thread(engine.start)
