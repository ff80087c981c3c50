"""The keyring: the caller of a key that is known and has not expired, and nothing of any other."""

from __future__ import annotations

import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core import apikey
from hartonomous.core.access import Grant
from hartonomous.keyring import Keyring, Presented
from hartonomous.security import Auth
from tests.service.keyed import PEPPER, Key, auth_section

A = Key("team-a", ("query", "ingest"), ("team-a-*", "docs"))
B = Key("team-b", ("query",), ("*",))
LATE = Key("late", ("query",), ("*",), options={"expires": "2020-01-01"})
NEVER = Key("never", options={"expires": "9999-12-31T23:59:59+00:00"})


def _ring(*keys: Key, **changes: Any) -> Keyring:
    return Keyring(Auth.model_validate(auth_section(*keys, **changes)))


RING = _ring(A, B, LATE, NEVER)


def test_a_key_is_its_callers() -> None:
    caller = RING.caller(A.text)
    assert caller is not None
    assert (caller.key_id, sorted(caller.scopes)) == ("team-a", ["ingest", "query"])
    assert caller.grant == Grant.of(A.collections)


def test_what_is_not_given_is_denied() -> None:
    caller = RING.caller(NEVER.text)
    assert caller is not None
    assert not caller.scopes
    assert not caller.grant.allows("docs")


@pytest.mark.parametrize(
    "key",
    [
        LATE.text,
        Key("nobody").text,
        Key("team-a", secret="another").text,
        "",
        "hart_",
        A.text + "\n",
        "\udcff" * 60,
        "\ud800",
        "x" * 100_000,
        A.entry["hash"],
    ],
    ids=range(10),
)
def test_any_other_is_nobodys(key: str) -> None:
    assert RING.caller(key) is None


@given(st.text())
def test_no_text_opens(text: str) -> None:
    assert RING.caller(text) is None


def test_an_entry_moved_to_another_id_opens_nothing() -> None:
    """The hash is of the whole key, the id with it."""
    moved = Auth.model_validate({"pepper": PEPPER, "keys": (B.entry | {"hash": A.entry["hash"]},)})
    assert Keyring(moved).caller(A.text) is None
    assert Keyring(moved).caller(B.text) is None


def test_another_pepper_opens_nothing() -> None:
    assert _ring(A, pepper="another-pepper-of-tests").caller(A.text) is None


def test_without_keys_it_is_empty_and_opens_nothing() -> None:
    assert not Keyring(Auth())
    assert Keyring(Auth()).caller(A.text) is None
    assert RING


def test_something_is_compared_whatever_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that there is not costs what a wrong key of one that there is costs."""
    compared = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return left == right

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for key in (A.text, Key("nobody").text, Key("team-a", secret="another").text, "nonsense"):
        RING.caller(key)
    assert compared == [(32, 32)] * 4


def test_neither_a_ring_nor_a_caller_shows_hash_or_pepper() -> None:
    shown = f"{RING!r} {RING._keys!r} {RING.caller(A.text)!r}"
    assert "team-a" in shown
    digest = apikey.digest(A.text, PEPPER.encode())
    assert not any(secret in shown for secret in (PEPPER, A.text, repr(digest), digest.hex()))


def test_a_connection_that_presented_a_key_is_known_by_it_again_and_by_no_other() -> None:
    presented = Presented()
    first = RING.caller(A.text, presented)
    assert first is not None
    assert RING.caller(A.text, presented) is first
    wrong = A.text[:-1] + ("0" if A.text[-1] != "0" else "1")
    assert [RING.caller(key, presented) for key in (wrong, "", A.text + "é", "\ud800")] == [None] * 4
    other = RING.caller(B.text, presented)
    assert other is not None
    assert other.key_id == "team-b"
    assert RING.caller(A.text, presented) is first


def test_a_key_that_a_connection_presented_is_nothing_to_another_keyring() -> None:
    presented = Presented()
    assert RING.caller(A.text, presented) is not None
    assert _ring(B).caller(A.text, presented) is None
    narrowed = _ring(Key("team-a", ("query",), ("docs",))).caller(A.text, presented)
    assert narrowed is not None
    assert sorted(narrowed.scopes) == ["query"]


def test_a_key_that_a_connection_presented_expires_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    soon = Key("soon", ("query",), ("*",), options={"expires": "2090-01-01"})
    ring, presented = _ring(soon), Presented()
    assert ring.caller(soon.text, presented) is not None
    monkeypatch.setattr("hartonomous.keyring.time.time", lambda: 3_800_000_000.0)
    assert ring.caller(soon.text, presented) is None
