"""The metrics of the backends: calls, circuits, queues, retries, hedges, by service.

Part of `metrics.Metrics`; names, labels and kept children follow its rules. Those of each address are `addressmetrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sized
from functools import cache, partial
from weakref import WeakSet

from prometheus_client import CollectorRegistry

from hartonomous.addressmetrics import AddressGauges, AddressMetrics
from hartonomous.core.call import Priority
from hartonomous.ragmetrics import STAGE_S
from hartonomous.tally import Counter, Gauge, Histogram

_WAIT_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Backends:
    """All services."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._services: dict[str, ServiceMetrics] = {}
        self.watched: dict[str, WeakSet[Sized]] = {}
        self.addresses = AddressGauges(registry)
        self._calls(registry)
        self._line(registry)
        self._failures(registry)

    def _calls(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "hartonomous_backend_requests_total",
            "Calls to a backend, by service and outcome (status class, or the kind of failure).",
            ("service", "outcome"),
            registry=registry,
        )
        self.latency = Histogram(
            "hartonomous_backend_request_duration_seconds",
            "Time of one call to a backend, to the end of its answer.",
            ("service",),
            buckets=STAGE_S,
            registry=registry,
        )
        self.in_flight = Gauge(
            "hartonomous_backend_requests_in_flight", "Calls to a backend under way.", ("service",), registry=registry
        )
        self.up = Gauge(
            "hartonomous_backend_up",
            "Whether the last health poll found the service up (1), down (0) or has not found out (-1).",
            ("service",),
            registry=registry,
        )

    def _line(self, registry: CollectorRegistry) -> None:
        self.queue = Gauge(
            "hartonomous_backend_queue_length",
            "Calls that wait for their turn, by whose turn comes first: query, batch, ingest.",
            ("service", "priority"),
            registry=registry,
        )
        self.queue_limit = Gauge(
            "hartonomous_backend_queue_limit",
            "Calls of queries that may wait at once; those of batches and ingests are bounded otherwise.",
            ("service",),
            registry=registry,
        )
        self.queue_wait = Histogram(
            "hartonomous_backend_queue_wait_seconds",
            "How long calls waited for their turn that had to wait, also those that gave up.",
            ("service",),
            buckets=_WAIT_S,
            registry=registry,
        )
        self.slots = Gauge(
            "hartonomous_backend_slots",
            "Calls that the addresses which are asked take at once.",
            ("service",),
            registry=registry,
        )
        self.refusals = Counter(
            "hartonomous_backend_refusals_total",
            "Calls refused before they were sent: queue_full, too_late (the turn would come after the deadline), open "
            "(every circuit is open).",
            ("service", "reason"),
            registry=registry,
        )

    def _failures(self, registry: CollectorRegistry) -> None:
        self.retries = Counter(
            "hartonomous_backend_retries_total",
            "Calls sent again, by what had failed; refused: the retry budget was used up.",
            ("service", "reason"),
            registry=registry,
        )
        self.hedges = Counter(
            "hartonomous_backend_hedges_total",
            "Calls sent to a second address because the first was slow.",
            ("service",),
            registry=registry,
        )
        self.saved = Counter(
            "hartonomous_backend_cancelled_total",
            "Calls that a backend was spared of or need not finish, because nobody waited for them any more: queued, "
            "running, streaming.",
            ("service", "state"),
            registry=registry,
        )
        self.breaker_changes = Counter(
            "hartonomous_breaker_changes_total",
            "Changes of circuits, by the state that they took.",
            ("service", "state"),
            registry=registry,
        )

    def service(self, name: str) -> ServiceMetrics:
        """Return the metrics of one service, always the same ones as long as it is configured."""
        if name not in self._services:
            self._services[name] = ServiceMetrics(self, name)
        return self._services[name]

    def keep(self, names: Collection[str]) -> None:
        """Show no longer how the others are than these: a reload has taken them out. What they counted stays."""
        for name in self._services.keys() - names:
            del self._services[name]
            for gauge in (self.up, self.queue_limit, self.slots):
                gauge.remove(name)
            for priority in Priority:
                self.queue.remove(name, priority.name.lower())


class ServiceMetrics:
    """The children of one backend service, made once."""

    def __init__(self, metrics: Backends, service: str) -> None:
        self.watched = watched = metrics.watched.setdefault(service, WeakSet())
        """What holds the calls under way, of each pool."""
        metrics.in_flight.labels(service).set_function(lambda: sum(map(len, watched)))
        self.latency = metrics.latency.labels(service)
        self.up = metrics.up.labels(service)
        self.queues = tuple(metrics.queue.labels(service, priority.name.lower()) for priority in Priority)
        self.queue_limit = metrics.queue_limit.labels(service)
        self.queue_wait = metrics.queue_wait.labels(service)
        self.slots = metrics.slots.labels(service)
        self.hedges = metrics.hedges.labels(service)
        self.count: Callable[[str], Counter] = cache(partial(metrics.requests.labels, service))
        self.retry: Callable[[str], Counter] = cache(partial(metrics.retries.labels, service))
        self.refused: Callable[[str], Counter] = cache(partial(metrics.refusals.labels, service))
        self.saved: Callable[[str], Counter] = cache(partial(metrics.saved.labels, service))
        self.address: Callable[[str], AddressMetrics] = partial(metrics.addresses.hold, service)
        self.breaker_change: Callable[[str], Counter] = cache(partial(metrics.breaker_changes.labels, service))
        self._begin()

    def _begin(self) -> None:
        for reason in ("queue_full", "too_late", "open"):
            self.refused(reason)
        self.count("2xx")
        self.retry("refused")
        self.breaker_change("open")
