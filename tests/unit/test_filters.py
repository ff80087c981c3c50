"""The check of a caller's filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.filters import MAX_VALUES, check, combine
from hartonomous.errors import ValidationFailedError
from tests.effort import Work, growth

TEAM = {"key": "metadata.team", "match": {"value": "ops"}}


def one(**condition: Any) -> dict[str, Any]:
    return {"must": [{"key": "metadata.team", **condition}]}


def refused(value: object, **limits: int) -> str | None:
    with pytest.raises(ValidationFailedError) as caught:
        check(value, **limits)
    assert caught.value.param is not None
    assert caught.value.param.startswith("filter")
    return caught.value.param


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"must": None, "should": []},
        {"must": TEAM},
        {"must": [TEAM], "should": [TEAM], "must_not": [TEAM]},
        {"min_should": {"conditions": [TEAM], "min_count": 1}},
        {"must": [{"should": [TEAM, {"must_not": [TEAM]}]}]},
        one(match={"value": True}),
        one(match={"value": 5}),
        one(match={"text": "words"}),
        one(match={"any": ["a", "b"]}),
        one(match={"except": [1, 2]}),
        one(match={"any": []}),
        one(range={"gte": 1, "lt": 2.5}),
        one(range={"gte": "2024-01-01T00:00:00Z", "lt": "2024-06-30T12:00:00.5+02:00"}),
        one(range={"gt": "2024-01-01"}),
        one(values_count={"gte": 2}),
        one(match={"value": "ops"}, range=None) | {"min_should": None},
        {"must": [{"is_empty": {"key": "metadata.a.b"}}, {"is_null": {"key": "source"}}]},
        {"must": [{"key": 'metadata."a key".list[].x', "match": {"value": "y"}}]},
        {"must": [{"key": "document_id", "match": {"value": "x"}}, {"key": "source", "match": {"any": ["x"]}}]},
    ],
)
def test_what_qdrant_understands_on_allowed_keys_passes(value: dict[str, Any]) -> None:
    check(value)


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (None, "filter"),
        ([TEAM], "filter"),
        ("must", "filter"),
        ({"musty": [TEAM]}, "filter.musty"),
        ({"must": "x"}, "filter.must"),
        ({"must": ["x"]}, "filter.must.0"),
        ({"must": [TEAM, {}]}, "filter.must.1"),
        ({"must": [{"has_id": [1]}]}, "filter.must.0.has_id"),
        ({"must": [{"has_vector": "dense"}]}, "filter.must.0.has_vector"),
        ({"must": [{"nested": {"key": "metadata.a", "filter": {}}}]}, "filter.must.0.nested"),
        ({"must": [{"key": "metadata.a", "geo_radius": {}}]}, "filter.must.0.geo_radius"),
        ({"must": [{"key": "metadata.a"}]}, "filter.must.0"),
        ({"must": [TEAM | {"range": {"gt": 1}}]}, "filter.must.0"),
        ({"should": [{"must": [TEAM, {"must_not": [{"x": 1}]}]}]}, "filter.should.0.must.1.must_not.0.x"),
        ({"must": [{"match": {"value": 1}}]}, "filter.must.0.key"),
        (one(match={"value": 1.5}), "filter.must.0.match.value"),
        (one(match={"value": 1 << 63}), "filter.must.0.match.value"),
        (one(match={"value": ["a"]}), "filter.must.0.match.value"),
        (one(match={"text": 1}), "filter.must.0.match.text"),
        (one(match={"any": "a"}), "filter.must.0.match.any"),
        (one(match={"any": ["a", 1]}), "filter.must.0.match.any"),
        (one(match={"except": [True]}), "filter.must.0.match.except"),
        (one(match={"any": ["a"] * (MAX_VALUES + 1)}), "filter.must.0.match.any"),
        (one(match={}), "filter.must.0.match"),
        (one(match={"value": 1, "text": "a"}), "filter.must.0.match"),
        (one(match={"phrase": "a"}), "filter.must.0.match.phrase"),
        (one(match="x"), "filter.must.0.match"),
        (one(range={}), "filter.must.0.range"),
        (one(range={"gt": True}), "filter.must.0.range.gt"),
        (one(range={"gt": float("inf")}), "filter.must.0.range.gt"),
        (one(range={"gt": 1, "lt": "2024-01-01"}), "filter.must.0.range.lt"),
        (one(range={"gt": "2024-01-01", "lt": 1}), "filter.must.0.range.lt"),
        (one(range={"gt": "yesterday"}), "filter.must.0.range.gt"),
        (one(range={"gt": "2024-13-01"}), "filter.must.0.range.gt"),
        (one(range={"above": 1}), "filter.must.0.range.above"),
        (one(values_count={"gt": 1.5}), "filter.must.0.values_count.gt"),
        (one(values_count={"gt": -1}), "filter.must.0.values_count.gt"),
        ({"must": [{"is_empty": {"key": "text"}}]}, "filter.must.0.is_empty.key"),
        ({"must": [{"is_null": {"key": "source", "x": 1}}]}, "filter.must.0.is_null.x"),
        ({"min_should": {"conditions": [], "min_count": 1}}, "filter.min_should.conditions"),
        ({"min_should": {"conditions": [TEAM], "min_count": 0}}, "filter.min_should.min_count"),
        ({"min_should": {"conditions": [TEAM]}}, "filter.min_should.min_count"),
        ({"min_should": [TEAM]}, "filter.min_should"),
    ],
)
def test_the_first_fault_is_named_by_its_path(value: object, param: str) -> None:
    assert refused(value) == param


STRANGE_KEYS = ["", "text", "metadata", "metadata.", "metadata..a", "metadatas.a", "visible", "sequence", "Source", 5]
MALFORMED_KEYS = ["metadata.a b", "metadata.a\n", 'metadata."', "metadata.a[x]", "source.x", None, ["source"]]


@pytest.mark.parametrize("key", [*STRANGE_KEYS, *MALFORMED_KEYS, "metadata." + "a" * 300, "metadata" + ".a" * 17])
def test_a_key_outside_the_callers_own_is_refused(key: object) -> None:
    assert refused({"must": [{"key": key, "match": {"value": 1}}]}) == "filter.must.0.key"


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"must": [TEAM]}
    for _ in range(levels - 1):
        value = {"must": [value]}
    return value


def test_eight_levels_pass_and_nine_do_not() -> None:
    check(nested(8))
    assert refused(nested(9)) == "filter" + ".must.0" * 8
    assert refused(nested(3), max_depth=2) == "filter.must.0.must.0"


def test_64_clauses_pass_and_65_do_not() -> None:
    check({"must": [TEAM] * 64})
    check({"must": [TEAM] * 32, "should": [TEAM] * 32})
    refused({"must": [TEAM] * 65})
    refused({"must": [TEAM] * 32, "should": [TEAM] * 33})
    refused({"must": [{"should": [TEAM] * 32}] + [TEAM] * 32})
    refused({"must": [TEAM, TEAM]}, max_clauses=1)


@pytest.mark.parametrize(
    "made",
    [
        nested,
        lambda size: {"must": [TEAM] * size},
        lambda size: {"must": [[]] * size},
        lambda size: {str(number): 1 for number in range(size)},
        lambda size: one(match={"any": ["a"] * size}),
        lambda size: {"must": [{"x" * size: 1}]},
    ],
    ids=["levels", "conditions", "lists", "clauses", "values", "a long key"],
)
def test_a_hostile_filter_is_refused_at_once_however_large_it_is(made: Callable[[int], object]) -> None:
    def prepared(size: int) -> Work:
        value = made(size)
        return lambda: [refused(value) for _ in range(10)]

    assert growth(prepared, 2_000, 200_000, 10) < 10  # 100 if it were looked through
    param = refused(made(200_000))
    assert param is not None
    assert len(param) < 200


def test_the_path_shows_control_characters_escaped() -> None:
    assert refused({"a\n\x1b": 1}) == "filter.a\\n\\x1b"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["must", "should", "min_should", "key", "match", "range", "value", "any", "conditions"])
                | st.text(max_size=5),
                inner,
                max_size=3,
            )
        ),
        max_leaves=20,
    )
)
def test_nothing_but_our_own_error_comes_out(value: object) -> None:
    try:
        check(value)
    except ValidationFailedError as error:
        assert error.param is not None  # noqa: PT017 (whether it raises is not the question)


def test_the_users_filter_stands_under_the_required_one() -> None:
    required = {"key": "visible", "match": {"value": True}}
    user = {"should": [TEAM], "must": [{"key": "source", "match": {"value": "x"}}]}
    assert combine(user, required) == {"must": [required, user]}
    assert combine(user) == {"must": [user]}
    assert combine(None, required) == {"must": [required]}
    assert combine({"must": [], "should": None}, required) == {"must": [required]}
    assert combine({}) is None
    assert combine(None) is None


def test_a_filter_that_wants_everything_gets_no_more_than_allowed() -> None:
    """`should` beside `must` in one filter would be a choice; as a condition of its own it is a demand."""
    required = {"key": "visible", "match": {"value": True}}
    combined = combine({"should": [{"must_not": [required]}, TEAM]}, required)
    assert combined is not None
    assert set(combined) == {"must"}
    assert combined["must"][0] == required
