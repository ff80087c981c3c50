"""The metrics of the caches, by cache.

Part of `metrics.Metrics`; names, labels and kept children follow its rules.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from hartonomous.tally import Counter, Gauge


class Caches:
    """All caches."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "hartonomous_cache_requests_total",
            "Look-ups in a cache, by outcome (hit, miss; joined: another was asking for the same already).",
            ("cache", "outcome"),
            registry=registry,
        )
        self.evictions = Counter(
            "hartonomous_cache_evictions_total",
            "Entries that made room for others before their time.",
            ("cache",),
            registry=registry,
        )
        self.entries = Gauge(
            "hartonomous_cache_entries", "Entries of a cache in this process.", ("cache",), registry=registry
        )
        self.bytes = Gauge(
            "hartonomous_cache_bytes", "Memory that a cache in this process takes.", ("cache",), registry=registry
        )

    def cache(self, name: str) -> CacheMetrics:
        """Return the metrics of one cache, to be kept."""
        return CacheMetrics(self, name)


class CacheMetrics:
    """The children of one cache, made once. `joined` are look-ups that waited for what another was asking already."""

    def __init__(self, metrics: Caches, name: str) -> None:
        outcomes = (metrics.requests.labels(name, outcome) for outcome in ("hit", "miss", "joined"))
        self.hits, self.misses, self.joined = outcomes
        self.evicted = metrics.evictions.labels(name)
        self._entries, self._bytes = metrics.entries.labels(name), metrics.bytes.labels(name)

    def watch(self, entries: Callable[[], float], size: Callable[[], float]) -> None:
        """Let the cache be looked at when the metrics are read, so that no operation pays for it."""
        self._entries.set_function(entries)
        self._bytes.set_function(size)
