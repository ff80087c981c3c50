"""The health monitor: a background task a service that polls its addresses and remembers what it found.

`/health` and `/ready` answer from here and never ask a backend themselves. A poll costs the backend nothing:
llama.cpp's `/health` and `/props` never wake a sleeping model; Qdrant's `/readyz` of a single node is always 200, so
its collections are asked for as well. Polls are jittered, one service's never wait for another's, each has a timeout of
its own, and what is older than three intervals reads `unknown`. Log lines mark changes alone. Where a service has
several addresses each is asked which model it serves as well, and has log lines of its own.

An embedding server can answer its health poll and embed nothing but nulls. So an address that has been used since the
last time gets a canary now and then: one short text, whose vector must be finite and as wide as the model's. What fails
it is down until it passes. A circuit whose time has passed is made half-open by a good poll, so that it closes without
waiting for a caller's luck; where there is a canary, that is the probe.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from weakref import WeakKeyDictionary

from hartonomous import codec
from hartonomous.clients.addresses import Standing as Status
from hartonomous.clients.addresses import standing
from hartonomous.clients.failures import BackendBusyError, tls_problem
from hartonomous.clients.models import served
from hartonomous.clients.pool import Pool
from hartonomous.clients.replica import Replica
from hartonomous.config import Health
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.errors import BackendError, DeadlineExceededError, HartonomousError
from hartonomous.log import logger
from hartonomous.metrics import Metrics
from hartonomous.services import ModelService

Canary = Callable[[Replica, Call], Awaitable[None]]
"""Makes a small call of one address and raises one of our errors when its answer is not what it should be."""

_GAUGE = {"up": 1, "down": 0, "unknown": -1}
_PATHS = {"qdrant": ("/readyz", "/collections")}
_MODEL_PATHS = ("/health",)


class Monitor:
    """Polls every address of every service until it is cancelled. `canaries` are by service."""

    def __init__(
        self,
        pools: Sequence[Pool],
        config: Health,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        *,
        canaries: Mapping[str, Canary] | None = None,
    ) -> None:
        self._pools = {pool.name: pool for pool in pools}
        self._config = config
        self._gauges = {name: metrics.service(name).up for name in self._pools}
        self._clock = clock
        self._canaries = canaries or {}
        self._birds: WeakKeyDictionary[Replica, _Bird] = WeakKeyDictionary()
        self._polled: dict[str, float] = {}
        self._told: dict[tuple[str, str | None], tuple[Status, str | None]] = {}
        self.first_round = asyncio.Event()
        self.is_told = True
        """Whether it tells of what it finds by log and metric: of two monitors of a service only the newer one does."""

    def status(self, service: str) -> Status:
        """Return what is known of a service: any of its addresses up, all down, or nothing recent.

        An address is down as well while its circuit is open, or while it has another model: it is not called.
        """
        polled = self._polled.get(service)
        if polled is None or self._clock() - polled > 3 * self._config.interval_s:
            return "unknown"
        return self._pools[service].addresses.standing

    def statuses(self) -> dict[str, Status]:
        """Return what is known of every configured service."""
        return {name: self.status(name) for name in self._pools}

    def missing(self) -> list[str]:
        """Return the services that `/ready` needs and that are not up."""
        return [name for name in self._config.ready if self.status(name) != "up"]

    async def run(self) -> None:
        """Poll for ever; one service never waits for another."""
        async with asyncio.TaskGroup() as group:
            for pool in self._pools.values():
                group.create_task(self._watch(pool))

    async def look(self) -> None:
        """Wait until each address has been polled, also those that a reload brings."""
        await self.first_round.wait()
        new = (pool for pool in self._pools.values() if any(one.up is None for one in pool.addresses.watched))
        await asyncio.gather(*map(self._poll_service, new))

    async def _watch(self, pool: Pool) -> None:
        while True:
            await self._poll_service(pool)
            if len(self._polled) == len(self._pools):
                self.first_round.set()
            await asyncio.sleep(self._config.interval_s * random.uniform(0.8, 1.2))  # noqa: S311 - jitter

    async def _poll_service(self, pool: Pool) -> None:
        watched = pool.addresses.watched
        found = dict(zip(watched, await asyncio.gather(*(self._poll(pool, one) for one in watched)), strict=True))
        pool.agree()
        self._polled[pool.name] = self._clock()
        if not self.is_told:
            return
        status = self.status(pool.name)
        self._gauges[pool.name].set(_GAUGE[status])
        self._tell(pool.name, status, next(filter(None, found.values()), None))
        if len(pool.replicas) > 1:
            for replica in pool.replicas:
                self._tell(pool.name, standing(replica), found.get(replica), replica.url)
        self._forget_others(pool)

    def _forget_others(self, pool: Pool) -> None:
        """Forget what was told of addresses that a reload has taken away."""
        kept = {None, *(replica.url for replica in pool.replicas)}
        self._told = {one: told for one, told in self._told.items() if one[0] != pool.name or one[1] in kept}

    def _tell(self, service: str, status: Status, problem: str | None, address: str | None = None) -> None:
        """Log what is known of a service, or of one of its addresses, if it is something else than before."""
        told = self._told.get((service, address))
        if told == (status, problem):
            return
        self._told[service, address] = status, problem
        why = {} if problem is None else {"tls": problem}
        level = "INFO" if status == "up" else "WARNING"
        if address is None:
            logger.bind(service=service, status=status, **why).log(level, "backend health changed")
        elif told is not None or status != "up":
            bound = logger.bind(service=service, address=address, status=status, **why)
            bound.log(level, "an address's health changed")

    async def _poll(self, pool: Pool, replica: Replica) -> str | None:
        """Ask an address how it is; return what is wrong with its TLS."""
        call = Call("health", Deadline(self._config.timeout_s), {"X-Request-ID": "health"})
        try:
            for path in _PATHS.get(pool.name, _MODEL_PATHS):
                await pool.poll(path, replica, call)
            await self._look_closer(pool, replica, call)
        except HartonomousError as error:
            pool.polled(replica, False)
            return tls_problem(error)
        pool.polled(replica, True)
        return None

    async def _look_closer(self, pool: Pool, replica: Replica, call: Call) -> None:
        """Ask an address that is up what it has not told yet."""
        if pool.name == "generative" and pool.config.concurrency is None:
            slots = (await _props(pool, replica, call)).get("total_slots")
            if type(slots) is int and slots > 0:
                pool.set_slots(replica, slots)
        if isinstance(pool.config, ModelService) and len(pool.addresses.watched) > 1:
            replica.model = await served(pool, replica, call, pool.config.model) or replica.model
        bird = self._bird(pool, replica)
        if bird is None or not bird.is_due(replica):
            return
        if (await _props(pool, replica, call)).get("is_sleeping") is not True:
            await bird.sing(replica, call)

    def _bird(self, pool: Pool, replica: Replica) -> _Bird | None:
        """Return the canary of an address that is asked, if its service has one."""
        canary = self._canaries.get(pool.name)
        if canary is None or replica not in pool.addresses.asked:
            return None
        bird = self._birds.get(replica)
        if bird is None:
            bird = self._birds[replica] = _Bird(canary, self._config.canary_interval_s, self._clock)
        return bird


class _Bird:
    """The canary of one address: when it was sent down last, and whether it came back."""

    def __init__(self, canary: Canary, interval_s: float, clock: Callable[[], float]) -> None:
        self._canary, self._interval_s, self._clock = canary, interval_s, clock
        self._next = clock() + interval_s
        self._entered = 0
        self._is_well = True

    def is_due(self, replica: Replica) -> bool:
        """Whether it is time, and the address was used meanwhile; at every poll until it passes once it has failed, and
        whenever the circuit wants a probe."""
        if _wants_probe(replica) or not self._is_well:
            return True
        return self._clock() >= self._next and replica.entered != self._entered

    async def sing(self, replica: Replica, call: Call) -> None:
        """Make the call, as the probe of a circuit that wants one; raises what is wrong.

        An address that is busy with calls may let the canary wait for longer than it can: those calls tell how it is.
        """
        ticket = replica.breaker.admit() if _wants_probe(replica) else None
        try:
            await self._canary(replica, call)
        except HartonomousError as error:
            if self._is_well and ticket is None and _is_busy(replica, error):
                return
            self._is_well = False
            if ticket is not None:
                ticket.failed()
            raise
        except BaseException:
            if ticket is not None:
                ticket.cancelled()
            raise
        if ticket is not None:
            ticket.succeeded()
        self._is_well = True
        self._entered = replica.entered
        self._next = self._clock() + self._interval_s * random.uniform(0.8, 1.2)  # noqa: S311 - jitter


def _wants_probe(replica: Replica) -> bool:
    return replica.breaker.state != "closed" and replica.breaker.admits


def _is_busy(replica: Replica, error: HartonomousError) -> bool:
    if isinstance(error, BackendBusyError):
        return error.is_overload
    return isinstance(error, DeadlineExceededError) and replica.active > 0


async def _props(pool: Pool, replica: Replica, call: Call) -> Mapping[str, object]:
    """Return llama.cpp's `/props`; servers that have none are no less up."""
    try:
        props = codec.loads((await pool.poll("/props", replica, call)).body)
    except (BackendError, codec.NotJsonError):
        return {}
    return props if isinstance(props, dict) else {}
