"""The metrics of each address of a service, which are there as long as it is configured or has calls under way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from hartonomous.tally import Gauge

_LABELS = ("service", "address")


class AddressGauges:
    """The gauges of all addresses. Those of one end with the last of its holders: a reload may make another one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.in_flight = Gauge(
            "hartonomous_backend_address_requests_in_flight",
            "Calls to an address under way. It goes when the address is configured no longer and the last has ended.",
            _LABELS,
            registry=registry,
        )
        self.weight = Gauge(
            "hartonomous_backend_address_weight",
            "The share of calls that an address gets among those of its service; 0: no new ones.",
            _LABELS,
            registry=registry,
        )
        self.up = Gauge(
            "hartonomous_backend_address_up",
            "Whether an address is up (1), down (0), or it is not known yet (-1).",
            _LABELS,
            registry=registry,
        )
        self.breaker = Gauge(
            "hartonomous_breaker_state",
            "The circuit towards an address: closed (0), half-open (1), open (2).",
            _LABELS,
            registry=registry,
        )
        self._holders: Counter[tuple[str, str]] = Counter()

    def hold(self, service: str, address: str) -> AddressMetrics:
        """Return the metrics of one address, to be released."""
        self._holders[service, address] += 1
        return AddressMetrics(self, service, address)

    def release(self, service: str, address: str) -> None:
        """Let an address go: without holders it is shown no longer."""
        self._holders[service, address] -= 1
        if not self._holders[service, address]:
            del self._holders[service, address]
            for gauge in (self.in_flight, self.weight, self.up, self.breaker):
                gauge.remove(service, address)


class AddressMetrics:
    """The metrics of one address. What is under way there is counted over all holders."""

    def __init__(self, gauges: AddressGauges, service: str, address: str) -> None:
        self._gauges, self._labels = gauges, (service, address)
        self.in_flight = gauges.in_flight.labels(service, address)

    def show(self, weight: Callable[[], float], up: Callable[[], float], breaker: Callable[[], float]) -> None:
        """Let these values be shown, and no longer another holder's."""
        self._gauges.weight.labels(*self._labels).set_function(weight)
        self._gauges.up.labels(*self._labels).set_function(up)
        self._gauges.breaker.labels(*self._labels).set_function(breaker)

    def release(self) -> None:
        """End: nothing is counted any more."""
        self._gauges.release(*self._labels)
