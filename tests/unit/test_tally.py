"""What is counted by plain additions is shown as prometheus_client shows its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from hartonomous import tally

_BUCKETS = (0.005, 0.1, 1, 30)
_TRACE = {"trace_id": "0af7651916cd43dd8448eb211c80319c"}


def _count(library: Any) -> CollectorRegistry:
    registry = CollectorRegistry()
    requests = library.Counter(
        "requests_total", 'Requests, "quoted"\\ and all.', ("route", "status"), registry=registry
    )
    requests.labels("/b", "200").inc()
    requests.labels("/a", 'odd "one"\n').inc(2.5)
    requests.labels("/b", "200").inc()
    library.Counter("bytes_total", "Bytes.", registry=registry).inc(12_345_678_901)
    library.Counter("never_total", "What has no child is shown by its name.", ("one",), registry=registry)
    open_now = library.Gauge("open", "Open.", registry=registry)
    open_now.inc(3)
    open_now.dec()
    lengths = library.Gauge("lengths", "Lengths.", ("line",), registry=registry)
    lengths.labels("first").set(True)
    lengths.labels("second").set_function(lambda: len("four"))
    lengths.labels("gone").inc()
    lengths.remove("gone")
    took = library.Histogram("took_seconds", "Time.", ("route",), buckets=_BUCKETS, registry=registry)
    for seconds in (0.0, 0.005, 0.0051, 0.2, 7, 30, 31):
        took.labels("/a").observe(seconds, _TRACE if seconds in {0.2, 31} else None)
    library.Histogram("sizes", "Sizes.", buckets=_BUCKETS, registry=registry).observe(4)
    return registry


@pytest.mark.parametrize("shown", [prometheus_client.generate_latest, openmetrics])
def test_all_is_shown_as_the_library_shows_its_own(
    shown: Callable[[CollectorRegistry], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prometheus_client.metrics._use_created", False)
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.25)
    assert shown(_count(tally)).decode() == shown(_count(prometheus_client)).decode()


def test_the_child_of_the_same_labels_is_always_the_same_one_until_it_is_removed() -> None:
    counter = tally.Counter("requests_total", "Requests.", ("route",))
    child = counter.labels("/a")
    assert counter.labels("/a") is child is not counter.labels("/b")
    counter.remove("/a")
    assert counter.labels("/a") is not child


def test_as_many_labels_are_wanted_as_there_are() -> None:
    with pytest.raises(ValueError, match=re.escape("requests has the labels ('route',), not 2 of them")):
        tally.Counter("requests_total", "Requests.", ("route",)).labels("/a", "200")


def test_what_has_labels_has_no_number_of_its_own() -> None:
    with pytest.raises(AttributeError):
        tally.Counter("requests_total", "Requests.", ("route",)).inc()


def test_buckets_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ValueError, match="the buckets of took_seconds do not rise"):
        tally.Histogram("took_seconds", "Time.", buckets=(1, 0.5))


def test_two_metrics_of_one_name_are_refused() -> None:
    registry = CollectorRegistry()
    tally.Counter("requests_total", "Requests.", registry=registry)
    with pytest.raises(ValueError, match="requests"):
        tally.Gauge("requests", "Requests.", registry=registry)
