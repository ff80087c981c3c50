"""The health monitor: a background task that polls each backend and remembers what it found.

`/health` and `/ready` answer from here and never ask a backend themselves. A poll costs the backend nothing:
llama.cpp's `/health` never wakes a sleeping model; Qdrant's `/readyz` of a single node is always 200, so its
collections are asked for as well. Polls are jittered, each has a timeout of its own, and what is older than three
intervals reads `unknown`. Log lines mark changes alone.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Literal

from hartonomous.clients.pool import Pool, Replica
from hartonomous.config import Health
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.errors import HartonomousError
from hartonomous.log import logger
from hartonomous.metrics import Metrics

Status = Literal["up", "down", "unknown"]

_GAUGE = {"up": 1, "down": 0, "unknown": -1}
_PATHS = {"qdrant": ("/readyz", "/collections")}
_MODEL_PATHS = ("/health",)


class Monitor:
    """Polls every address of every service until it is cancelled."""

    def __init__(
        self, pools: Sequence[Pool], config: Health, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pools = {pool.name: pool for pool in pools}
        self._config = config
        self._gauges = {name: metrics.service(name).up for name in self._pools}
        self._clock = clock
        self._polled: dict[str, float] = {}
        self._told: dict[str, Status] = {}
        self.first_round = asyncio.Event()

    def status(self, service: str) -> Status:
        """Return what is known of a service: any of its addresses up, all down, or nothing recent."""
        polled = self._polled.get(service)
        if polled is None or self._clock() - polled > 3 * self._config.interval_s:
            return "unknown"
        up = self._pools[service].up
        return "unknown" if up is None else "up" if up else "down"

    def statuses(self) -> dict[str, Status]:
        """Return what is known of every configured service."""
        return {name: self.status(name) for name in self._pools}

    def missing(self) -> list[str]:
        """Return the services that `/ready` needs and that are not up."""
        return [name for name in self._config.ready if self.status(name) != "up"]

    async def run(self) -> None:
        """Poll for ever."""
        while True:
            await asyncio.gather(*(self._poll_service(pool) for pool in self._pools.values()))
            self.first_round.set()
            await asyncio.sleep(self._config.interval_s * random.uniform(0.8, 1.2))  # noqa: S311 - jitter

    async def _poll_service(self, pool: Pool) -> None:
        await asyncio.gather(*(self._poll(pool, replica) for replica in pool.replicas))
        self._polled[pool.name] = self._clock()
        status = self.status(pool.name)
        self._gauges[pool.name].set(_GAUGE[status])
        if self._told.get(pool.name) != status:
            self._told[pool.name] = status
            logger.bind(service=pool.name, status=status).log(
                "INFO" if status == "up" else "WARNING", "backend health changed"
            )

    async def _poll(self, pool: Pool, replica: Replica) -> None:
        call = Call("health", Deadline(self._config.timeout_s), {"X-Request-ID": "health"})
        try:
            for path in _PATHS.get(pool.name, _MODEL_PATHS):
                await pool.poll(path, replica, call)
        except HartonomousError:
            replica.up = False
        else:
            replica.up = True
