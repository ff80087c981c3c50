"""`Cache-Control` of a request: what is said is followed, what is malformed is ignored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.cachecontrol import CacheControl, parse


@pytest.mark.parametrize(
    ("header", "read"),
    [
        ("", CacheControl()),
        ("no-store", CacheControl(no_store=True)),
        ("No-Cache", CacheControl(no_cache=True)),
        ("max-age=60", CacheControl(max_age_s=60)),
        ('max-age="60"', CacheControl(max_age_s=60)),
        ("max-age=60, max-age=5", CacheControl(max_age_s=5)),
        (" no-cache ,, max-age=0 ", CacheControl(no_cache=True, max_age_s=0)),
        ("private, no-store=1, foo", CacheControl(no_store=True)),
        ("max-age=" + "9" * 5_000, CacheControl(max_age_s=2**31)),
        ("max-age, max-age=, max-age=-1, max-age=1.5, max-age=\u0665", CacheControl()),
        ('x="no-store, no-cache"', CacheControl()),
        ('x="no-store', CacheControl()),
        ("no store, no-cache", CacheControl(no_cache=True)),
    ],
)
def test_a_header_is_read(header: str, read: CacheControl) -> None:
    assert parse(header) == read


@given(st.text(st.characters(codec="latin-1"), max_size=60) | st.text('no-stricachem=", 09\\', max_size=60))
def test_no_header_is_too_strange(header: str) -> None:
    parse(header)


@pytest.mark.parametrize(
    ("header", "allows"), [("", True), ("max-age=2", True), ("max-age=1", False), ("no-cache", False)]
)
def test_a_stored_answer_is_allowed_by_its_age(header: str, allows: bool) -> None:
    assert parse(header).allows(1.5) is allows
