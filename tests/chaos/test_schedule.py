"""The faults of a run follow from its seed."""

from __future__ import annotations

from tests.chaos.schedule import PLACES, SERVICES, draw, service_of
from tests.faults.kinds import parse


def test_a_seed_draws_the_same_faults_again_and_every_one_of_them_can_be_played() -> None:
    seen = set()
    for seed in range(1, 20):
        faults = draw(seed, 100.0)
        assert faults == draw(seed, 100.0) != draw(seed + 1, 100.0)
        for fault in faults:
            assert 0 < fault.at < fault.until <= 100.0
            seen.add(fault.kind)
            if fault.where in PLACES and fault.kind == fault.what.partition(":")[0]:
                parse(fault.what)
    assert {"kill", "refuse", "hang", "blackhole", "latency", "reset", "lie:error-500", "lie:write-lost"} <= seen
    assert {service_of(place) for place in PLACES} == set(SERVICES)
