"""Every metric, declared once, with bounded labels.

Names follow Prometheus' conventions: base units, `_seconds`, `_bytes`, `_total`. A label's values come from fixed
sets: route templates, services, methods, outcome classes, and what the configuration names (addresses, the owners of
keys); never a path, a model or a collection that a caller chose. `labels()` costs a look-up on each call, so what the
hot path uses are kept children (`tally`). What alerts look at is there from the start, with 0.

Those of retrieval, generation and ingest are `ragmetrics`, those of each owner of keys `tenantmetrics`, of the backends
`backendmetrics` and `addressmetrics`, of the caches `cachemetrics`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from prometheus_client import CollectorRegistry, Info, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from hartonomous import __version__, log
from hartonomous.backendmetrics import Backends
from hartonomous.cachemetrics import Caches
from hartonomous.core import walltime
from hartonomous.ragmetrics import FIRST_TOKEN_S, RagMetrics
from hartonomous.tally import Counter, Gauge, Histogram
from hartonomous.tenantmetrics import Tenants

# Answers from memory to generations that last until the deadline.
_REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_ACTIONS = ("closed_idle", "surplus", "paused", "exhausted", "failed", "address", "header_timeout", "write_timeout")
_LIMITS = (
    ("address", "too_many_concurrent_requests"),
    ("address", "too_many_requests"),
    ("address", "too_many_failed_authentications"),
    ("key", "too_many_concurrent_requests"),
    ("key", "too_many_requests"),
    ("key", "too_many_tokens"),
    ("key", "too_many_bytes"),
)
_LAG = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

# Of the process, like its names: all applications in it show the same.
DNS_FALLBACKS = Counter(
    "hartonomous_dns_fallbacks_total",
    "Lookups of a backend's host name that failed and were answered with its last good address.",
    ("host",),
)


class _LogCollector(Collector):
    """Asks the log, which is the process's and no application's."""

    def collect(self) -> list[CounterMetricFamily]:
        """Return the count of lost lines."""
        text = "Lines of the log that could not be written."
        return [CounterMetricFamily("hartonomous_log_dropped", text, value=log.lost())]


def _memory_limit(registry: CollectorRegistry) -> None:
    Gauge(
        "hartonomous_memory_limit_bytes",
        "Memory that the process may have: the lowest limit of its control groups, or what the host has.",
        registry=registry,
    ).set(memory_limit())


def memory_limit(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes of memory that this process may have, by its control groups (version 2) and the host."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError):
        own = groups.read_text(encoding="utf-8").rpartition("0::/")[2].strip()
        for folder in (root / own, *(root / own).parents):
            with suppress(OSError, ValueError):  # "max" is no number
                limits.append(int((folder / "memory.max").read_text(encoding="ascii")))
    return min(limits)


class Metrics:
    """All metrics of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        registry.register(_LogCollector())
        registry.register(DNS_FALLBACKS)
        _memory_limit(registry)
        self.build = Info("hartonomous_build", "The version that runs.", registry=registry)
        self.build.info({"version": __version__, "python": platform.python_version()})
        self._requests(registry)
        self._connections(registry)
        self._process(registry)
        self._limits(registry)
        self._configuration(registry)
        self._trails(registry)
        self.tenants = Tenants()
        registry.register(self.tenants)
        self.rag = RagMetrics(registry)
        self.backends = Backends(registry)
        self.service = self.backends.service
        self.cache = cache(Caches(registry).cache)
        self.route_latency = cache(self.latency.labels)
        self.route_first_token = cache(self.first_token.labels)
        self.route_requests = cache(self.requests.labels)

    def _requests(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "hartonomous_http_requests_total",
            "Requests answered, by route template, method and status.",
            ("route", "method", "status"),
            registry=registry,
        )
        failures = Counter(
            "hartonomous_http_failures_total",
            "Requests answered with 5xx, probes among them: there before the first one, unlike those of a route.",
            ("status",),
            registry=registry,
        )
        self.failure: Callable[[str], Counter] = cache(failures.labels)
        for status in ("500", "502", "503", "504", "507"):
            self.failure(status)
        self.latency = Histogram(
            "hartonomous_http_request_duration_seconds",
            "Time from the request's headers to the end of the answer.",
            ("route",),
            buckets=_REQUEST_S,
            registry=registry,
        )
        self.first_token = Histogram(
            "hartonomous_http_first_token_seconds",
            "Time from the request's headers to the first token of an answer that is streamed, by route template.",
            ("route",),
            buckets=FIRST_TOKEN_S,
            registry=registry,
        )
        self.received = Counter(
            "hartonomous_http_received_bytes_total", "Bytes of requests' bodies that were read.", registry=registry
        )
        self.shed = Counter(
            "hartonomous_http_shed_total",
            "Requests refused at once (503 overloaded) because the process could not see to more in time.",
            registry=registry,
        )
        self.in_flight = Gauge("hartonomous_http_requests_in_flight", "Requests being served now.", registry=registry)

    def _connections(self, registry: CollectorRegistry) -> None:
        self.connections = Gauge("hartonomous_http_connections", "Connections that are open.", registry=registry)
        self.connections_limit = Gauge(
            "hartonomous_http_connections_limit", "Connections that there may be, of callers.", registry=registry
        )
        self.tls_failed = Counter(
            "hartonomous_tls_handshakes_failed_total",
            "TLS handshakes that failed: without a client's certificate (no_certificate), with a wrong one "
            "(bad_certificate), with something else than TLS (not_tls), without a version or cipher in common "
            "(refused), or the client left or took too long (unfinished).",
            ("reason",),
            registry=registry,
        )
        for reason in ("no_certificate", "bad_certificate", "not_tls", "refused", "unfinished"):
            self.tls_failed.labels(reason)
        self.connections_limited = Counter(
            "hartonomous_http_connections_limited_total",
            "What was done for want of room for connections: an idle one closed (closed_idle), one taken for health "
            "alone (surplus), accepting stopped for a while (paused), because no descriptor was left (exhausted) or "
            "the network said no (failed); and those closed whose address had too many (address), whose headers did "
            "not come (header_timeout), who did not read what they were answered (write_timeout).",
            ("action",),
            registry=registry,
        )
        for action in _ACTIONS:
            self.connections_limited.labels(action)

    def _process(self, registry: CollectorRegistry) -> None:
        self.draining = Gauge(
            "hartonomous_draining", "Whether the server is about to stop (1) or serves (0).", registry=registry
        )
        self.cut_off = Counter(
            "hartonomous_cut_off_requests_total",
            "Requests that were under way when the drain time was over.",
            registry=registry,
        )
        self.upgrades_failed = Counter(
            "hartonomous_upgrades_failed_total",
            "Upgrades (SIGUSR2) whose new process did not become ready: the old one serves on.",
            registry=registry,
        )
        self.loop_lag = Histogram(
            "hartonomous_event_loop_lag_seconds",
            "How much later than asked the event loop woke a timer.",
            buckets=_LAG,
            registry=registry,
        )
        self.tasks = Gauge("hartonomous_asyncio_tasks", "Tasks of the event loop.", registry=registry)
        Gauge(
            "hartonomous_wall_clock_jump_seconds",
            "How far the wall clock has been moved since the start: ahead, or (negative) back.",
            registry=registry,
        ).set_function(walltime.jumped)
        self.tokens = Counter(
            "hartonomous_tokens_total",
            "Tokens of answers, searches and ingests, as the backends count them, by service and direction (in, out); "
            "what is relayed is not read.",
            ("service", "direction"),
            registry=registry,
        )

    def _limits(self, registry: CollectorRegistry) -> None:
        self.redis_up = Gauge(
            "hartonomous_redis_up",
            "Whether Redis answered when it was last asked (1), did not (0), or was not asked (-1).",
            registry=registry,
        )
        self.redis_up.set(-1)
        self.limit_refusals = Counter(
            "hartonomous_limit_refusals_total",
            "Requests refused with 429 because of a limit, by whose it was (address, key) and which.",
            ("whose", "limit"),
            registry=registry,
        )
        for whose, limit in _LIMITS:
            self.limit_refusals.labels(whose, limit)
        self.limits_alone = Gauge(
            "hartonomous_limits_counted_alone",
            "Whether Redis is away and each process counts its share of the limits (1).",
            registry=registry,
        )

    def _configuration(self, registry: CollectorRegistry) -> None:
        self.config_reloads = Counter(
            "hartonomous_config_reloads_total",
            "Reloads of the configuration, by outcome (reloaded, unchanged, failed).",
            ("outcome",),
            registry=registry,
        )
        for outcome in ("reloaded", "unchanged", "failed"):
            self.config_reloads.labels(outcome)
        self.config_successful = Gauge(
            "hartonomous_config_last_reload_successful",
            "Whether the last reading of the configuration was of use (1), or the one before serves on (0).",
            registry=registry,
        )
        self.config_succeeded_at = Gauge(
            "hartonomous_config_last_reload_success_timestamp_seconds",
            "When the configuration was last read with success, in Unix time.",
            registry=registry,
        )
        self.certificate_ends_at = Gauge(
            "hartonomous_tls_certificate_not_after_timestamp_seconds",
            "When the certificate of the listening socket expires, in Unix time; 0 without TLS.",
            registry=registry,
        )

    def _trails(self, registry: CollectorRegistry) -> None:
        self.audit_lines = Counter(
            "hartonomous_audit_lines_total", "Lines that the audit trail has taken.", registry=registry
        )
        self.audit_lost = Counter(
            "hartonomous_audit_lines_lost_total",
            "Lines of the audit trail that could not be written.",
            registry=registry,
        )
        self.spans = Counter(
            "hartonomous_trace_spans_total",
            "Spans that have ended, by what became of them (exported; dropped: the collector did not take them, or "
            "there was no room to wait for it).",
            ("outcome",),
            registry=registry,
        )
        for outcome in ("exported", "dropped"):
            self.spans.labels(outcome)
