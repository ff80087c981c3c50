"""What the harness believes: which versions of a document a reader may see."""

from __future__ import annotations

from tests.chaos.ledger import GRACE_S, Ledger
from tests.chaos.texts import Name, Version, body_of, text_of, version_of

A = Name("c", "a")
ONE, TWO = Version(1, 1), Version(2, 2)


def test_what_was_acknowledged_is_all_that_may_be_seen() -> None:
    ledger = Ledger()
    assert ledger.allowed(A, 0.0, 0.0) == {None}
    ledger.succeeded(ledger.begin(A, ONE, 1.0), 2.0, "")
    assert ledger.allowed(A, 0.5, 0.6) == {None}
    assert ledger.allowed(A, 1.5, 1.6) == {None, ONE}
    assert ledger.allowed(A, 2.1, 2.2) == {ONE}
    ledger.succeeded(ledger.begin(A, None, 3.0), 4.0, "")
    assert ledger.allowed(A, 4.1, 4.2) == {None}
    assert ledger.settled(A)


def test_an_attempt_that_failed_may_be_seen_until_a_later_one_is_acknowledged() -> None:
    ledger = Ledger()
    ledger.succeeded(ledger.begin(A, ONE, 1.0), 2.0, "")
    ledger.failed(ledger.begin(A, TWO, 3.0), 4.0, "")
    assert ledger.allowed(A, 9.0, 9.1) == {ONE, TWO}
    assert not ledger.settled(A)
    ledger.succeeded(ledger.begin(A, ONE, 4.0 + GRACE_S / 2), 9.0, "")
    assert ledger.allowed(A, 10.0, 10.1) == {ONE, TWO}, "it may have had its effect after the later one"
    ledger.succeeded(ledger.begin(A, ONE, 11.0), 12.0, "")
    assert ledger.allowed(A, 13.0, 13.1) == {ONE}


def test_of_two_at_the_same_time_either_may_be_the_last() -> None:
    ledger = Ledger()
    one, two = ledger.begin(A, ONE, 1.0), ledger.begin(A, TWO, 1.1)
    ledger.succeeded(two, 2.0, "")
    ledger.succeeded(one, 3.0, "")
    assert ledger.allowed(A, 4.0, 4.1) == {ONE, TWO}


def test_a_mix_of_two_versions_is_none() -> None:
    body = body_of(A, ONE)
    assert version_of(A, body["text"], body["title"], body["metadata"]) == ONE
    assert version_of(A, body["text"], "Title 2", body["metadata"]) is None
    assert version_of(A, body["text"][:20], body["title"], body["metadata"]) == ONE
    mixed = text_of(A, 1)[:60] + text_of(A, 2)[60:]
    assert version_of(A, mixed, body["title"], body["metadata"]) is None
