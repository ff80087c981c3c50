"""What is counted: owners whose keys go, the pace of a generation, what answers rest on, the memory there may be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from hartonomous.metrics import Metrics, memory_limit
from hartonomous.ragmetrics import Outcome, Pace, RagMetrics, outcome_of
from hartonomous.tenantmetrics import Tenants

REQUESTS = "hartonomous_tenant_requests_total"


def owners(metrics: Metrics) -> set[str]:
    return {
        sample.labels["owner"]
        for family in metrics.registry.collect()
        for sample in family.samples
        if "owner" in sample.labels
    }


def test_keys_of_one_owner_are_counted_together() -> None:
    tenants = Tenants()
    tenants.serve({"first": "team", "second": "team", "third": "other"})
    assert tenants.of_key("first") is tenants.of_key("second") is tenants.of_owner("team")
    assert tenants.of_key("third") is not tenants.of_key("first")
    assert tenants.of_key("unknown") is tenants.of_key(None) is None


def test_an_owner_without_keys_loses_its_series_and_the_others_keep_their_numbers() -> None:
    metrics = Metrics()
    metrics.tenants.serve({"a": "a", "b": "b"})
    for key in ("a", "b"):
        tenant = metrics.tenants.of_key(key)
        assert tenant is not None
        tenant.requests["2xx"] += 3
    assert owners(metrics) == {"a", "b"}
    metrics.tenants.serve({"b-2": "b"})
    assert owners(metrics) == {"b"}
    assert metrics.registry.get_sample_value(REQUESTS, {"owner": "b", "status": "2xx"}) == 3


def test_a_request_that_outlives_its_key_is_counted_nowhere_and_does_not_fail() -> None:
    tenants = Tenants()
    tenants.serve({"a": "a"})
    under_way = tenants.of_key("a")
    tenants.serve({})
    assert under_way is not None
    under_way.tokens += 5
    assert list(tenants.collect()) == []


@pytest.mark.parametrize(
    ("supported", "outcome"),
    [
        ([], "ungrounded"),
        ([False, False], "ungrounded"),
        ([True, False], "partly_grounded"),
        ([True, True], "grounded"),
    ],
)
def test_an_answer_rests_on_what_its_sentences_rest_on(supported: list[bool], outcome: Outcome) -> None:
    assert outcome_of(supported) == outcome


def test_a_generations_pace_is_its_first_token_and_the_mean_of_the_others() -> None:
    registry = CollectorRegistry()
    pace = Pace(RagMetrics(registry))
    for _ in range(3):
        pace.token()
    pace.counted(3)
    assert registry.get_sample_value("hartonomous_generation_first_token_seconds_count") == 1
    assert registry.get_sample_value("hartonomous_generation_token_seconds_count") == 1


def test_a_generation_of_one_token_has_no_pace() -> None:
    registry = CollectorRegistry()
    pace = Pace(RagMetrics(registry))
    pace.counted(0)
    pace.token()
    pace.counted(1)
    assert registry.get_sample_value("hartonomous_generation_token_seconds_count") == 0


def test_the_memory_limit_is_the_lowest_of_the_control_groups_and_the_host(tmp_path: Path) -> None:
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    groups, root = tmp_path / "cgroup", tmp_path / "fs"
    own = root / "system.slice" / "hartonomous.service"
    own.mkdir(parents=True)
    groups.write_text("0::/system.slice/hartonomous.service\n", encoding="ascii")
    assert memory_limit(groups, root) == host
    (own / "memory.max").write_text("max\n", encoding="ascii")
    (own.parent / "memory.max").write_text("2000000\n", encoding="ascii")
    assert memory_limit(groups, root) == 2_000_000
    (own / "memory.max").write_text("1000000\n", encoding="ascii")
    assert memory_limit(groups, root) == 1_000_000


def test_a_host_without_control_groups_has_its_own_memory(tmp_path: Path) -> None:
    assert memory_limit(tmp_path / "none", tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_no_series_tells_since_when_it_is_counted() -> None:
    metrics = Metrics()
    metrics.route_latency("/rag/query").observe(1)
    assert b"_created" not in generate_latest(metrics.registry)


def test_what_alerts_look_at_is_there_before_it_happens() -> None:
    metrics = Metrics()
    metrics.service("generative")
    for name, labels in (
        ("hartonomous_http_failures_total", {"status": "507"}),
        ("hartonomous_http_failures_total", {"status": "500"}),
        ("hartonomous_backend_retries_total", {"service": "generative", "reason": "refused"}),
        ("hartonomous_backend_refusals_total", {"service": "generative", "reason": "queue_full"}),
        ("hartonomous_degraded_answers_total", {"stage": "reranking"}),
        ("hartonomous_answers_total", {"outcome": "ungrounded"}),
        ("hartonomous_ingested_documents_total", {"status": "failed"}),
        ("hartonomous_limit_refusals_total", {"whose": "address", "limit": "too_many_failed_authentications"}),
    ):
        assert metrics.registry.get_sample_value(name, labels) == 0, name
