"""TLS handshakes that failed are told of, but no flood of them floods the log or the trail."""

from __future__ import annotations

import json
import ssl
from typing import Any

from hartonomous.audit import Trail
from hartonomous.handshakes import Handshakes
from hartonomous.metrics import Metrics
from hartonomous.security import Audit


def _told(trail: Trail) -> list[dict[str, Any]]:
    records, _ = trail.kept.all()
    return [json.loads(record.line) for record in records]


def test_a_flood_is_counted_and_told_of_a_few_times_with_how_many_were_left_out() -> None:
    metrics, now = Metrics(), 5.0
    trail = Trail(Audit(), metrics, 1_000)
    handshakes = Handshakes(metrics, trail, lambda: now)
    for _ in range(100):
        handshakes.failed(ssl.SSLCertVerificationError(1, "no"), "192.0.2.1")
    assert len(_told(trail)) == 10
    now += 1
    handshakes.failed(ssl.SSLCertVerificationError(1, "no"), "192.0.2.1")
    last = _told(trail)[-1]
    assert (last["event"], last["remote"], last["left_out"]) == ("authentication_failed", "192.0.2.1", 90)
    counted = metrics.registry.get_sample_value(
        "hartonomous_tls_handshakes_failed_total", {"reason": "bad_certificate"}
    )
    assert counted == 101


def test_a_probe_that_leaves_before_it_says_a_word_is_counted_alone() -> None:
    metrics = Metrics()
    trail = Trail(Audit(), metrics, 1_000)
    Handshakes(metrics, trail, lambda: 5.0).failed(ConnectionResetError(), "192.0.2.1")
    assert not _told(trail)
    assert metrics.registry.get_sample_value("hartonomous_tls_handshakes_failed_total", {"reason": "unfinished"}) == 1
