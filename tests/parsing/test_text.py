"""Plain text: its encodings, and the cleaning that every format ends with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.parsing.cleaning import clean, clean_title, join_pages
from hartonomous.parsing.decoding import decode
from hartonomous.parsing.refusal import RefusedError


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("Grüße 日本 😀".encode(), "Grüße 日本 😀"),
        ("\ufeffGrüße".encode(), "Grüße"),
        ("\ufeffGrüße".encode("utf-16-le"), "Grüße"),
        ("\ufeffGrüße".encode("utf-16-be"), "Grüße"),
        ("\ufeffGrüße".encode("utf-32-le"), "Grüße"),
        ("„Grüße“: 5 €".encode("cp1252"), "„Grüße“: 5 €"),
        (b"", ""),
        ("Grüße, ".encode() * 20 + "ü".encode()[:1], "Grüße, " * 20 + "\ufffd"),
        (b"a form feed\x0c and a colour \x1b[1m", "a form feed\x0c and a colour \x1b[1m"),
    ],
)
def test_text_is_read_in_the_encoding_that_it_is_in(data: bytes, expected: str) -> None:
    assert decode(data) == expected


@pytest.mark.parametrize(
    "data",
    [
        bytes(1_000),
        bytes(range(256)) * 10,
        b"\x89PNG\r\n\x1a\n" + bytes(range(128, 256)) * 3 + b"\x00",
        b"\xff\xd8\xff\xe0" + bytes(range(1, 256)) * 5,
        "no mark".encode("utf-16-le"),
    ],
)
def test_what_is_no_text_is_refused(data: bytes) -> None:
    with pytest.raises(RefusedError) as caught:
        decode(data)
    assert caught.value.reason == "not_text"


def test_cleaning_leaves_lines_and_takes_what_is_no_text() -> None:
    dirty = "\r\n\x00a \t\r\nb\rc\x0bd\x1b[0m\u2028e\ud800\ufffe\x85\n\n\n\n\nf\u00a0\n  \n"
    assert clean(dirty) == "a\nb\nc\nd[0m\ne\n\n\nf"


@given(st.text(st.characters(), max_size=200))
def test_what_was_cleaned_is_clean(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    cleaned.encode()


def test_a_title_is_one_line_of_some_length() -> None:
    assert clean_title(" A\n\ttitle\x00 ") == "A title"
    assert clean_title("") is None
    assert clean_title(None) is None
    assert len(clean_title("x" * 10_000) or "") == 500


@given(st.lists(st.text("ab \n\u00fc\U0001f600", max_size=12), max_size=12))
def test_pages_begin_where_they_are_said_to(pages: list[str]) -> None:
    text, starts = join_pages(pages, 10_000)
    cleaned = [clean(page) for page in pages]
    assert text == "\n\n".join(filter(None, cleaned))
    assert len(starts) == max(0, len(pages) - 1)
    for page, start in zip(cleaned[1:], starts, strict=True):
        assert text.startswith(page, start)


def test_pages_over_the_limit_are_refused() -> None:
    assert join_pages(["aaaa", "bbbb"], 10)[0] == "aaaa\n\nbbbb"
    with pytest.raises(RefusedError):
        join_pages(["aaaa", "bbbb"], 9)
