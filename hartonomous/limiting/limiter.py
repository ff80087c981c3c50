"""The limits of a configuration: who has which, and whether a request may begin."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import lru_cache
from typing import Protocol

from hartonomous.config import Config
from hartonomous.core.addresses import network_of
from hartonomous.errors import RateLimitedError
from hartonomous.limiting.memory import MemoryStore
from hartonomous.limiting.meter import Meter
from hartonomous.limiting.policy import CODES, Asked, Cost, Entry, Kind, Policy, Refusal, asked
from hartonomous.metrics import Metrics


class Store(Protocol):
    """Where it is counted what is used: in this process, or in Redis for several."""

    async def enter(self, name: str, asked: Asked) -> Entry | Refusal:
        """Let a request in, or say what it has reached; one that is refused uses nothing."""
        ...

    async def take(self, name: str, cost: Cost) -> Refusal | None:
        """Use something, or say what is reached."""
        ...

    def settle(self, name: str, place: str | None, costs: Sequence[Cost] = ()) -> None:
        """Give the place back, and use what is known only now. Never waits."""
        ...


class Limiter:
    """Applies the limits. It is made once for a configuration; what was used is the store's and outlives it."""

    def __init__(self, config: Config, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._here = store if isinstance(store, MemoryStore) else None
        self._refused = metrics.limit_refusals
        self._tenants = metrics.tenants
        self.address = Policy.of_address(config.limits.address)
        if config.redis.url is None:  # which the configuration wants for all other limits of several processes
            self.address = self.address.of_failures_shared(config.server.processes)
        self.limits_addresses = self.address.limits_requests
        """Whether addresses have limits that every request is held against."""
        self._keys: dict[str | None, tuple[str, Policy]] = {
            key.id: (f"key {key.owner or key.id}", policy)
            for key in config.auth.keys
            if (policy := Policy.of_key(key.limits or config.limits.key)).limits_requests
        }

    def of_key(self, key_id: str | None) -> tuple[str, Policy] | None:
        """Return the name under which the owner's requests are counted and the key's limits; None without any."""
        return self._keys.get(key_id)

    async def enter(self, name: str, policy: Policy, body_bytes: int | None) -> Meter:
        """Let a request begin whose body has so many bytes (0 where that is unknown, None without a body).

        Raises:
            RateLimitedError: a limit is reached.
        """
        return self._met(name, policy, await self._store.enter(name, asked(policy, body_bytes)), body_bytes or 0)

    def begin(self, name: str, policy: Policy, body_bytes: int | None) -> Meter | Awaitable[Meter]:
        """Do the same at once where nobody is to be asked, which spares a coroutine; raises as `enter`."""
        if self._here is None:
            return self.enter(name, policy, body_bytes)
        wanted = policy.always if body_bytes is None else asked(policy, body_bytes)
        return self._met(name, policy, self._here.admit(name, wanted), body_bytes or 0)

    def _met(self, name: str, policy: Policy, entry: Entry | Refusal, body_bytes: int) -> Meter:
        if isinstance(entry, Refusal):
            raise self._error(name, entry)
        return Meter(name, policy, entry, entry.place, self._store, self._error, body_bytes)

    async def failed(self, address: str) -> None:
        """Count a wrong key. Raises RateLimitedError when there were too many from this address."""
        rate = self.address.failures
        if rate is not None:
            name = name_of(address)
            if (refusal := await self._store.take(name, (Kind.FAILURES, rate, 1.0))) is not None:
                raise self._error(name, refusal)

    def _error(self, name: str, refusal: Refusal) -> RateLimitedError:
        """Count a refusal, and return what the caller is told."""
        whose, _, who = name.partition(" ")
        self._refused.labels(whose, CODES[refusal.kind]).inc()
        if whose == "key" and (tenant := self._tenants.of_owner(who)) is not None:
            tenant.refusals[CODES[refusal.kind]] += 1
        return refusal.error()


@lru_cache(maxsize=4_096)
def name_of(address: str) -> str:
    """Return the name under which an address is counted."""
    return f"address {network_of(address)}"
