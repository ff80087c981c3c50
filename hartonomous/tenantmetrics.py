"""What each owner of keys uses: requests, tokens, bytes, refusals.

The configuration bounds how many series there are: an owner has some, for as long as it has a key. What is counted is
plain numbers, made into samples when the metrics are read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector


@dataclass(slots=True)
class Tenant:
    """What one owner has used. `requests` are by the class of their status (`2xx`), `refusals` by limit."""

    tokens: float = 0.0
    received: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)


class Tenants(Collector):
    """The owners of the keys that are known now. One whose last key has gone is forgotten, numbers and all."""

    def __init__(self) -> None:
        self._by_owner: dict[str, Tenant] = {}
        self._by_key: dict[str, Tenant] = {}

    def serve(self, owners: Mapping[str, str]) -> None:
        """Take over the owners of these keys, by key id, from now on."""
        known = self._by_owner
        self._by_owner = {owner: known.get(owner) or Tenant() for owner in owners.values()}
        self._by_key = {key: self._by_owner[owner] for key, owner in owners.items()}

    def of_key(self, key_id: str | None) -> Tenant | None:
        """Return whose key this is; None for callers without a key, and for a key that is gone."""
        return None if key_id is None else self._by_key.get(key_id)

    def of_owner(self, owner: str) -> Tenant | None:
        """Return the owner of this name, None when it is gone."""
        return self._by_owner.get(owner)

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Return the samples."""
        if not self._by_owner:
            return
        yield self._family("tokens", "Tokens that the backends reported for an owner's requests.", lambda it: it.tokens)
        yield self._family("received_bytes", "Bytes of bodies that an owner has sent.", lambda it: it.received)
        yield self._split(
            "requests", "Requests of an owner, by the class of their status.", "status", lambda it: it.requests
        )
        yield self._split("refusals", "Requests of an owner that a limit refused.", "limit", lambda it: it.refusals)

    def _family(self, name: str, text: str, read: Callable[[Tenant], float]) -> CounterMetricFamily:
        family = CounterMetricFamily(f"hartonomous_tenant_{name}", text, labels=("owner",))
        for owner, tenant in self._by_owner.items():
            family.add_metric((owner,), read(tenant))
        return family

    def _split(self, name: str, text: str, label: str, read: Callable[[Tenant], Counter[str]]) -> CounterMetricFamily:
        family = CounterMetricFamily(f"hartonomous_tenant_{name}", text, labels=("owner", label))
        for owner, tenant in self._by_owner.items():
            for value, count in read(tenant).items():
                family.add_metric((owner, value), count)
        return family
