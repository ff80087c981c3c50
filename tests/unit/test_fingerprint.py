"""Ids and hashes."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.fingerprint import (
    EmbeddingFingerprint,
    attributes_hash,
    content_hash,
    cut_hash,
    document_id,
    is_same_content,
    point_id,
    version,
)

MODEL = EmbeddingFingerprint("all-MiniLM-L6-v2", 384, "", "")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def content(text: str = "text", **changes: Any) -> str:
    usual: dict[str, Any] = {"format": "markdown", "max_tokens": 256, "overlap_tokens": 32, "fingerprint": MODEL}
    return content_hash(text, **(usual | changes))


def test_a_fingerprint_survives_its_dictionary() -> None:
    value = MODEL.as_dict()
    assert value == {"model": "all-MiniLM-L6-v2", "dimension": 384, "query_prefix": "", "document_prefix": ""}
    assert EmbeddingFingerprint.from_dict(value | {"later": 1}) == MODEL


@pytest.mark.parametrize(
    "value",
    [
        {},
        MODEL.as_dict() | {"dimension": "384"},
        MODEL.as_dict() | {"dimension": True},
        MODEL.as_dict() | {"model": None},
    ],
)
def test_what_is_no_fingerprint_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="fingerprint"):
        EmbeddingFingerprint.from_dict(value)


def test_every_field_of_a_fingerprint_counts() -> None:
    others = {
        EmbeddingFingerprint("other", 384, "", ""),
        EmbeddingFingerprint(MODEL.model, 385, "", ""),
        EmbeddingFingerprint(MODEL.model, 384, "a", ""),
        EmbeddingFingerprint(MODEL.model, 384, "", "a"),
        MODEL,
    }
    assert len({one.digest() for one in others}) == 5


def test_a_document_without_an_id_is_known_by_its_source_or_else_by_its_content() -> None:
    assert document_id("https://a", "x") == document_id("https://a", "y")
    assert document_id(None, "x") == document_id("", b"x")
    assert document_id(None, "x") != document_id(None, "y")
    assert document_id("x", "y") != document_id(None, "x")
    assert 1 <= len(document_id(None, "x")) <= 256


def test_whatever_is_embedded_otherwise_has_another_content_hash() -> None:
    changed = [
        content(),
        content(text="Text"),
        content(format="text"),
        content(max_tokens=255),
        content(overlap_tokens=31),
        content(fingerprint=EmbeddingFingerprint("m", 384, "", "")),
    ]
    assert len(set(changed)) == len(changed)
    assert content() == content()


def test_blanks_at_the_end_of_a_text_do_not_count_as_no_chunk_has_them() -> None:
    assert content(text="text") == content(text="text\n") == content(text="text \r\n\t")
    assert content(text="text") != content(text="\ntext")


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_the_order_of_metadata_does_not_count(metadata: dict[str, Any]) -> None:
    turned = dict(reversed(metadata.items()))
    assert attributes_hash("t", None, metadata) == attributes_hash("t", None, turned)


def test_each_attribute_counts_and_none_runs_into_another() -> None:
    given_: list[tuple[str | None, str | None, dict[str, Any]]] = [
        ("a", None, {}),
        (None, "a", {}),
        ("a", "", {}),
        (None, None, {"a": 1}),
        (None, None, {"a": "1"}),
        (None, None, {"a": [1]}),
        ("null", None, {}),
        (None, None, {}),
    ]
    assert len({attributes_hash(*one) for one in given_}) == len(given_)
    assert attributes_hash(None, None, None) == attributes_hash(None, None, {})
    with pytest.raises(ValueError, match="JSON compliant"):
        attributes_hash(None, None, {"a": float("nan")})


def test_a_version_names_its_hash() -> None:
    assert version("a", "b").startswith("sha256:")
    assert len(version("a", "b")) == 7 + 64
    assert len({version("a", "b"), version("b", "a"), version("ab", ""), version("", "ab")}) == 4


@given(st.text(), st.text(), st.integers(0, 10_000))
def test_a_point_id_is_a_uuid_of_version_8(document: str, content_: str, index: int) -> None:
    made = uuid.UUID(point_id(document, content_, index))
    assert made.version == 8
    assert made.variant == uuid.RFC_4122
    assert str(made) == point_id(document, content_, index)


@given(st.tuples(st.text(), st.text(), st.integers(0, 200)), st.tuples(st.text(), st.text(), st.integers(0, 200)))
def test_different_chunks_have_different_points(one: tuple[str, str, int], other: tuple[str, str, int]) -> None:
    assert (point_id(*one) == point_id(*other)) == (one == other)


def test_a_content_that_is_cut_otherwise_has_another_hash_and_the_same_version() -> None:
    one, other = cut_hash(content(), [(0, 4), (5, 9)]), cut_hash(content(), [(0, 9)])
    assert one != other != content()
    assert one == cut_hash(one, [(0, 4), (5, 9)]), "what a copy brings along is made of the cut already"
    assert is_same_content(one, other)
    assert is_same_content(one, content())
    assert not is_same_content(one, cut_hash(content("other"), [(0, 4), (5, 9)]))
    assert version(one, "a") == version(other, "a") == version(content(), "a")


def test_parts_never_run_into_each_other() -> None:
    assert point_id("a", "b1", 1) != point_id("a", "b", 11)
    assert point_id("ab", "c", 1) != point_id("a", "bc", 1)
    assert content(max_tokens=25, overlap_tokens=63) != content(max_tokens=256, overlap_tokens=3)


def test_ids_stay_what_they_were() -> None:
    """Stored points are found again by these: a change of the recipe is a migration."""
    assert document_id(None, "x") == "500c124dbd7084a7c8ebb2014bd42d8781d5c004203ce11ff8cd901e8db8f7e3"
    assert point_id("d", "c", 0) == "6d001a58-d1e2-8173-a44d-9e740105340c"
    assert content() == "8ed1b113c43c9902d8298492a0bc2227ae09e2a019e0c6cd8043211dbff277af"
    assert (
        attributes_hash("t", "s", {"b": 1, "a": "ü"})
        == "f3b94db57258fccac301fa91f1df467fcab42b3edddcb7fe9c9dad268dc05a2b"
    )


def test_a_lone_surrogate_has_a_hash_too() -> None:
    assert document_id(None, "\ud800") != document_id(None, "?")
