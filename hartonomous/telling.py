"""What the service manager hears of a server: that it is ready, reloads, stops, has a successor, and that it lives.

All of it is said by the event loop itself, so that a loop that hangs falls silent, and its watchdog ends it.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from hartonomous.doors import Doors
from hartonomous.keys import STATE
from hartonomous.reload import first_round
from hartonomous.systemd import Given, Notifier, monotonic_us

# How often it is looked whether the status is another.
_LOOK_S = 1.0
# How often the watchdog hears of this process within its time.
_A_TIME = 3


class Telling:
    """Tells the service manager of one server; says nothing where there is none."""

    def __init__(self, app: web.Application, doors: Doors, given: Given) -> None:
        self._state, self._doors = app[STATE], doors
        self._notifier = Notifier(given.notify_socket)
        self._interval_s = min(_LOOK_S, (given.watchdog_s or _LOOK_S) / _A_TIME)
        self._has_watchdog = given.watchdog_s is not None
        self._is_ready = False
        self._told = ""
        self._state.on_reload = self._reloading

    async def run(self) -> None:
        """Say that the server is ready when it is known how its backends are, and then how it is, until cancelled."""
        if not self._notifier.is_heard:
            return
        await first_round(self._state.current)
        self._is_ready = True
        self._ready()
        while True:
            if self._status != self._told:
                self._tell()
            if self._has_watchdog:
                self._notifier.alive()
            await asyncio.sleep(self._interval_s)

    def stopping(self, limit_s: float) -> None:
        """Say that the server stops, and for how long it may."""
        self._is_ready = False
        self._tell(STOPPING=1, EXTEND_TIMEOUT_USEC=round(limit_s * 1e6))

    def main_process(self, pid: int) -> None:
        """Say which process is the service from now on."""
        self._notifier.tell(MAINPID=pid)

    def close(self) -> None:
        """Say nothing any more."""
        self._notifier.close()

    def _ready(self) -> None:
        self._tell(READY=1)

    def _reloading(self, begins: bool) -> None:
        if not self._is_ready:
            return
        if begins:
            self._tell(RELOADING=1, MONOTONIC_USEC=monotonic_us())
        else:
            self._ready()

    def _tell(self, **facts: int) -> None:
        self._told = self._status
        self._notifier.tell(**facts, STATUS=self._told)

    @property
    def _status(self) -> str:
        if self._state.stopping:
            return f"draining: requests under way: {self._state.active}"
        statuses = self._state.current.monitor.statuses()
        wrong = [f"{name} is {status}" for name, status in statuses.items() if status != "up"]
        return f"serving on {', '.join(self._doors.addresses)}; {', '.join(wrong) or 'all backends are up'}"
