"""The `Retry-After` header."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.retry import parse_retry_after

NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0.5", 0.5),
        ("31", 30.0),
        (formatdate(NOW + 12, usegmt=True), 12.0),
        (formatdate(NOW + 600, usegmt=True), 30.0),
    ],
)
def test_seconds_and_dates_are_read_and_capped(value: str, seconds: float) -> None:
    assert parse_retry_after(value, now=NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "-1",
        "soon",
        "1e3",
        "nan",
        "inf",
        "9999999999999",
        "100000",
        "\u0663",
        "1_0",
        "5, 6",
        "Mon, 99 Foo 2026 99:99:99 GMT",
        "x" * 10_000,
        formatdate(NOW - 5, usegmt=True),
        formatdate(NOW + 10 * 86_400, usegmt=True),
    ],
)
def test_what_is_negative_absurd_or_no_wait_at_all_is_ignored(value: str | None) -> None:
    assert parse_retry_after(value, now=NOW) is None


@given(st.text(max_size=80))
def test_no_header_makes_it_raise(value: str) -> None:
    seconds = parse_retry_after(value, now=NOW)
    assert seconds is None or 0 <= seconds <= 30
