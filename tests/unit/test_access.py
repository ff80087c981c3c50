"""Grants: what they allow follows from names alone."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.access import EVERYTHING, LOCAL, NOBODY, NOTHING, Grant
from hartonomous.errors import PermissionDeniedError

NAMES = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=12)
PATTERNS = st.lists(st.builds(str.__add__, NAMES, st.sampled_from(["", "*"])), max_size=5)


@given(PATTERNS, NAMES)
def test_a_name_is_allowed_by_a_pattern_that_is_it_or_that_it_begins_with(patterns: list[str], name: str) -> None:
    wanted = any(name.startswith(one[:-1]) if one.endswith("*") else name == one for one in patterns)
    assert Grant.of(patterns).allows(name) is wanted


@given(PATTERNS, NAMES)
def test_what_is_not_allowed_is_refused_in_the_same_words(patterns: list[str], name: str) -> None:
    grant = Grant.of(patterns)
    if grant.allows(name):
        grant.check(name)
        return
    with pytest.raises(PermissionDeniedError) as caught:
        grant.check(name)
    error = caught.value
    assert (error.status, error.param, error.error_code) == (403, "collection", "collection_denied")
    assert error.message == "The key does not reach this collection."


@given(PATTERNS, PATTERNS, NAMES)
def test_within_another_grant_is_what_both_allow(one: list[str], other: list[str], name: str) -> None:
    first, second = Grant.of(one), Grant.of(other)
    assert first.within(second).allows(name) is (first.allows(name) and second.allows(name))
    assert first.within(first) == first


@given(PATTERNS)
def test_a_grant_is_made_again_from_its_patterns_in_any_order(patterns: list[str]) -> None:
    grant = Grant.of(patterns)
    assert Grant.of(grant.patterns) == Grant.of(reversed(patterns)) == grant
    assert Grant.of(reversed(patterns)).patterns == grant.patterns


@given(NAMES)
def test_nobody_sees_anything_and_a_local_caller_everything(name: str) -> None:
    assert not NOTHING.allows(name)
    assert not NOBODY.grant.allows(name)
    assert EVERYTHING.allows(name)
    assert LOCAL.grant.allows(name)
    assert Grant.of(["*"]) == EVERYTHING


def test_letters_are_what_they_are() -> None:
    grant = Grant.of(["team-a", "team-b-*"])
    assert [
        name for name in ("team-a", "Team-a", "team-ab", "team-b", "team-b-", "team-b-x") if grant.allows(name)
    ] == [
        "team-a",
        "team-b-",
        "team-b-x",
    ]
