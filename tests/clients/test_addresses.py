"""The addresses of a service: what is proposed, adopted and withdrawn, what is shown, which model they serve."""

from __future__ import annotations

import pytest

from hartonomous.clients.addresses import Addresses, standing
from hartonomous.clients.breaker import Breaker
from hartonomous.clients.replica import Replica
from hartonomous.core.served import Served
from hartonomous.metrics import Metrics

A, B, C = "http://a", "http://b", "http://c"


class Known:
    """The addresses of an embedding service, without anything behind them."""

    def __init__(self, **weights: int) -> None:
        self.metrics = Metrics()
        self.made: list[str] = []
        self.addresses = self.another(**weights)

    def another(self, **weights: int) -> Addresses:
        """Return addresses of the same service by other settings."""
        hold = self.metrics.service("embedding").address
        return Addresses("embedding", urls(**weights), self._make, hold, must_agree=True)

    def _make(self, url: str) -> Replica:
        self.made.append(url)
        return Replica(url, 1, Breaker(url, 5, 1.0, 2.0, lambda *_: None))

    def reload(self, **weights: int) -> None:
        """Propose and adopt."""
        self.addresses.propose(urls(**weights))
        self.addresses.adopt()

    def __getitem__(self, name: str) -> Replica:
        return next(replica for replica in self.addresses.watched if replica.url == f"http://{name}")

    def asked(self) -> list[str]:
        """Return the names of those that are asked."""
        return [replica.url.removeprefix("http://") for replica in self.addresses.asked]

    def gauge(self, name: str, url: str) -> float | None:
        """Return an address's metric, None where there is none."""
        labels = {"service": "embedding", "address": url}
        return self.metrics.registry.get_sample_value(f"hartonomous_{name}", labels)

    def under_way(self, url: str) -> float | None:
        """Return how many calls are shown."""
        return self.gauge("backend_address_requests_in_flight", url)


def urls(**weights: int) -> dict[str, int]:
    return {f"http://{name}": weight for name, weight in weights.items()}


def test_nothing_has_changed_until_a_proposal_is_adopted_and_nothing_if_it_is_withdrawn() -> None:
    known = Known(a=1, b=1)
    asked, lineage = known.addresses.asked, known.addresses.lineage
    proposal = known.addresses.propose(urls(c=2, a=5))
    assert [replica.url for replica in known.addresses.watched] == [A, B, C]
    assert (known.asked(), known["a"].weight, known.under_way(C)) == (["a", "b"], 1, None)
    known.addresses.withdraw(proposal)
    known.addresses.adopt()
    assert known.asked() == ["a", "b"]
    assert known.addresses.watched == known.addresses.all
    assert known.addresses.asked is asked
    assert known.addresses.lineage is lineage


def test_a_proposal_of_before_withdraws_none_of_after() -> None:
    known = Known(a=1)
    old = known.addresses.propose(urls(a=1, b=1))
    known.addresses.adopt()
    known.addresses.propose(urls(c=1))
    known.addresses.withdraw(old)
    known.addresses.adopt()
    assert known.asked() == ["c"]


def test_an_address_that_stays_is_the_same_one_whatever_its_weight_and_place() -> None:
    known = Known(a=1, b=1)
    first, asked = known["a"], known.addresses.asked
    known.reload(c=1, b=1, a=0)
    known.reload(a=7, c=1)
    assert known["a"] is first
    assert first.weight == 7
    assert known.made == [A, B, C]
    assert known.addresses.asked is asked


def test_it_is_another_service_when_no_address_stays() -> None:
    known = Known(a=1, b=1)
    lineage = known.addresses.lineage
    known.reload(b=1, c=1)
    assert known.addresses.lineage is lineage
    proposal = known.addresses.propose(urls(a=1))
    coming = known.addresses.lineage
    assert coming is not lineage
    known.addresses.withdraw(proposal)
    assert known.addresses.lineage is lineage
    known.reload(a=1)
    assert known.addresses.lineage is not lineage


def test_what_is_shown_of_a_removed_address_goes_with_its_last_call() -> None:
    known = Known(a=1, b=1)
    leaving = known["a"]
    leaving.begin(has_slot=True)
    leaving.begin(has_slot=False)
    known.reload(b=1)
    assert (known.under_way(A), known.gauge("backend_address_weight", A)) == (2, 0)
    leaving.end(has_slot=True)
    assert known.under_way(A) == 1
    leaving.end(has_slot=False)
    gauges = ("backend_address_requests_in_flight", "backend_address_weight", "backend_address_up", "breaker_state")
    assert [known.gauge(name, A) for name in gauges] == [None] * 4
    assert [known.gauge(name, B) for name in gauges] == [0, 1, -1, 0]
    known.reload(a=1, b=1)
    assert known["a"] is not leaving
    assert known.under_way(A) == 0


def test_an_idle_address_goes_at_once() -> None:
    known = Known(a=1, b=1)
    known.reload(b=1)
    assert known.under_way(A) is None


def test_one_that_comes_back_in_time_is_the_same_one_and_is_to_be_polled() -> None:
    known = Known(a=1, b=1)
    leaving = known["a"]
    leaving.up = True
    leaving.begin(has_slot=True)
    known.reload(b=1)
    known.addresses.propose(urls(b=1, a=2))
    assert standing(leaving) == "unknown"
    known.addresses.adopt()
    assert (known["a"], leaving.weight) == (leaving, 2)
    leaving.end(has_slot=True)
    assert known.under_way(A) == 0


def test_calls_by_two_settings_of_a_service_are_counted_together() -> None:
    known = Known(a=1, b=1)
    newer = known.another(a=3)
    known["a"].begin(has_slot=True)
    newer.all[0].begin(has_slot=True)
    assert (known.under_way(A), known.gauge("backend_address_weight", A)) == (2, 3)
    known.addresses.follow(newer)
    assert known.asked() == ["a"]
    assert known.under_way(B) is None
    known.addresses.show()
    known.addresses.close()
    newer.show()
    assert (known.under_way(A), known.gauge("backend_address_weight", A)) == (2, 3)
    newer.close()
    assert known.under_way(A) is None


@pytest.mark.parametrize("weights", [{"c": 1}, {"a": 0, "c": 1}])
def test_who_would_have_no_address_left_keeps_those_of_before(weights: dict[str, int]) -> None:
    known = Known(a=1)
    known.addresses.follow(known.another(**weights))
    assert known.asked() == ["a"]


def models(known: Known, **names: str) -> None:
    for name, model in names.items():
        known[name].model = Served(model, 32)


def foreign(known: Known) -> list[str]:
    known.addresses.agree()
    return [replica.url.removeprefix("http://") for replica in known.addresses.all if replica.is_foreign]


def test_who_comes_has_no_say_in_which_model_is_right() -> None:
    known = Known(b=1)
    known.addresses.propose(urls(a=1_000, b=1))
    models(known, a="new", b="old")
    known.addresses.adopt()
    assert foreign(known) == ["a"]


def test_another_model_is_right_when_nobody_is_asked_any_more_who_had_the_old_one() -> None:
    known = Known(a=1, b=1)
    models(known, a="old", b="new")
    assert foreign(known) == ["b"]
    known["a"].up = False
    assert foreign(known) == ["b"]
    known.reload(a=0, b=1)
    assert foreign(known) == ["a"]
    known.reload(b=1)
    assert foreign(known) == []


def test_with_other_addresses_altogether_the_model_of_before_is_forgotten() -> None:
    known = Known(a=1)
    models(known, a="old")
    known.addresses.agree()
    known.addresses.propose(urls(b=1, c=1))
    models(known, b="new", c="old")
    known.addresses.adopt()
    assert foreign(known) == ["c"]


def test_who_does_not_say_which_model_it_has_is_believed() -> None:
    known = Known(a=1, b=1)
    models(known, a="old")
    assert foreign(known) == []
