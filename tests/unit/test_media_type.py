"""What a `Content-Type` names, whatever stands behind it."""

from __future__ import annotations

import pytest

from hartonomous import codec


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("application/json", "application/json"),
        ("Application/JSON; charset=utf-8", "application/json"),
        ("application/json;charset*", "application/json"),
        ("text/event-stream ; 0*", "text/event-stream"),
        (";", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_a_media_type_is_read_without_its_parameters(header: str | None, found: str) -> None:
    assert codec.media_type(header) == found
