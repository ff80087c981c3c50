"""PDF to text: page by page, with the exact places of the pages; what cannot be read whole is refused."""

from __future__ import annotations

import zlib

import pytest

from hartonomous.parsing import from_pdf
from hartonomous.parsing.refusal import RefusedError
from tests.parsing.conftest import MIB
from tests.parsing.pdf_writer import content, locked_pdf, pages_pdf, stream, text_pdf, write_pdf


def parse(data: bytes) -> tuple[str, str | None, tuple[int, ...]]:
    return from_pdf.parse(data, MIB)


def reason(data: bytes, max_bytes: int = MIB) -> str:
    with pytest.raises(RefusedError) as caught:
        from_pdf.parse(data, max_bytes)
    return caught.value.reason


def test_pages_are_joined_and_their_places_known() -> None:
    text, title, pages = parse(text_pdf("First line\nsecond line", "Page (two)", "Three", title="A title"))
    assert text == "First line\nsecond line\n\nPage (two)\n\nThree"
    assert title == "A title"
    assert [text[start:].split("\n")[0] for start in pages] == ["Page (two)", "Three"]


def test_a_page_without_text_begins_where_the_next_one_does() -> None:
    assert parse(text_pdf("", "Two", "", "Four", "")) == ("Two\n\nFour", None, (0, 5, 5, 9))


def test_characters_beyond_ascii_count_as_one() -> None:
    text, _, pages = parse(text_pdf("Grüße", "zwei"))
    assert (text, pages) == ("Grüße\n\nzwei", (7,))


def test_characters_beyond_the_basic_plane_are_whole() -> None:
    """A ToUnicode map may give a pair of surrogates, or half of one."""
    mapping = (
        b"begincmap 1 begincodespacerange <00> <ff> endcodespacerange"
        b" 2 beginbfchar <41> <d83dde00> <42> <d83d> endbfchar endcmap"
    )
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode 6 0 R >>"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [4 0 R] /Count 1 >>",
        font,
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources 7 0 R /Contents 5 0 R >>",
        stream(content("xAyBz")),
        stream(mapping),
        b"<< /Font << /F1 3 0 R >> >>",
    ]
    text, _, _ = parse(write_pdf(objects))
    assert text.startswith("x😀y")
    assert text.endswith("z")
    text.encode()


def test_a_word_broken_at_the_end_of_a_line_is_one_word() -> None:
    text, _, _ = parse(text_pdf("an exam-\nple of it"))
    assert text == "an example of it"


@pytest.mark.parametrize("title", ["", "untitled", "  "])
def test_a_title_that_is_none_is_none(title: str) -> None:
    assert not parse(text_pdf("text", title=title))[1]


def test_a_file_that_needs_a_password_is_encrypted() -> None:
    assert reason(locked_pdf()) == "encrypted_file"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"%PDF-1.7",
        b"not a PDF at all %%EOF",
        b"%PDF-1.7\n" + bytes(range(256)) * 50 + b"%%EOF",
        text_pdf("x" * 5_000, "y")[:3_000],
        text_pdf("x" * 5_000, "y")[:-40],
    ],
)
def test_a_broken_file_is_refused(data: bytes) -> None:
    assert reason(data) == "broken_file"


def test_a_file_whose_last_change_was_cut_off_is_refused() -> None:
    """What was there before the change could be read, and would be an old version."""
    assert parse(text_pdf("old"))[0] == "old"
    assert reason(text_pdf("old") + b"9 0 obj\n<< /Length 9999 >>\nstream\n" + b"x" * 8_000) == "broken_file"


def test_a_file_with_rubbish_after_its_end_is_read() -> None:
    assert parse(text_pdf("text") + b"\x00" * 20_000)[0] == "text"
    assert parse(text_pdf("text") + b"rubbish")[0] == "text"


def test_a_file_of_images_says_that_it_has_no_text() -> None:
    assert reason(text_pdf("", "")) == "no_text_layer"


def test_more_text_than_allowed_is_refused() -> None:
    assert reason(text_pdf("x" * 100, "y" * 100), 150) == "text_too_large"
    compressed = pages_pdf([zlib.compress(content("x" * 200))], filters=b"/Filter /FlateDecode")
    assert reason(compressed, 150) == "text_too_large"
    assert from_pdf.parse(text_pdf("x" * 100, "y" * 48), 150)[0].endswith("y")
