"""A service's admission on true circuits, with no service behind it: what its line and its guard do by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hartonomous.clients.admission import Admission, Place
from hartonomous.clients.breaker import Breaker
from hartonomous.clients.failures import Verdict
from hartonomous.clients.replica import Replica
from hartonomous.core.access import EVERYTHING
from hartonomous.core.call import Call, Priority
from hartonomous.core.deadline import Deadline
from hartonomous.metrics import Metrics

FAILED = Verdict("failed", True)
GONE = Verdict("cancelled", None)


class Stage:
    """One service: `addresses` of so many slots each. A circuit opens at the first of `failures` in a row."""

    def __init__(
        self,
        slots: int = 1,
        *,
        queue: int = 1_000,
        addresses: int = 1,
        failures: int = 1_000,
        is_adaptive: bool = False,
    ) -> None:
        self.now = 1_000.0
        self.metrics = Metrics()
        self.replicas = [
            Replica(f"http://{name}", slots, self._breaker(name, failures), is_adaptive=is_adaptive)
            for name in "abcdefgh"[:addresses]
        ]
        self.admission = Admission("embedding", self.replicas, queue, self.metrics.service("embedding"))

    def _breaker(self, name: str, failures: int) -> Breaker:
        return Breaker(name, failures, 1.0, 30.0, lambda *_: None, lambda: self.now, lambda: 0.5)

    @property
    def active(self) -> list[int]:
        """How many places are taken at each address."""
        return [replica.active for replica in self.replicas]

    @property
    def circuits(self) -> list[str]:
        """The state of each address's circuit."""
        return [replica.breaker.state for replica in self.replicas]

    def sample(self, name: str, **labels: str) -> float:
        """Return the value of one of the service's metrics; 0 when it is not there."""
        labels["service"] = "embedding"
        return self.metrics.registry.get_sample_value(f"hartonomous_backend_{name}", labels) or 0.0

    async def enter(self, seconds: float = 30.0, priority: Priority = Priority.QUERY) -> Place:
        """Take a place, or wait for one."""
        return await self.admission.enter(call(seconds, priority))

    def entering(self, seconds: float = 30.0, priority: Priority = Priority.QUERY) -> asyncio.Task[Place]:
        """Let a task of its own take a place."""
        return asyncio.create_task(self.enter(seconds, priority))

    async def waiting(self, count: int) -> list[asyncio.Task[Place]]:
        """Let so many wait in line."""
        tasks = [self.entering() for _ in range(count)]
        await ticks()
        assert self.admission.waiting >= count
        return tasks


def call(seconds: float = 30.0, priority: Priority = Priority.QUERY) -> Call:
    """Return a call that has so many seconds."""
    return Call("test", Deadline(seconds), grant=EVERYTHING, priority=priority)


async def ticks(count: int = 5) -> None:
    """Let the tasks that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


def complaints(loop: asyncio.AbstractEventLoop) -> Sequence[str]:
    """Return a list that gets what the event loop complains of, such as an exception that nobody asked for."""
    heard: list[str] = []
    loop.set_exception_handler(lambda _, context: heard.append(context["message"]))
    return heard
