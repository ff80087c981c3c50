"""What a terminal shows of a source."""

from __future__ import annotations

from hartonomous.sending.reading import cited


def test_a_source_shows_its_place_and_the_first_line_that_is_no_heading() -> None:
    shown = cited(
        {
            "marker": 2,
            "document_id": "manual.pdf",
            "title": None,
            "page": 3,
            "headings": ["Care", "Battery"],
            "score": 0.8571,
            "text": "# Care\n\n## Battery\n\nIt  lasts\t14 hours.\nMore.",
        }
    )
    assert shown == "[2] manual.pdf, page 3, Care > Battery  0.857\n    It lasts 14 hours.\n"


def test_a_source_of_headings_alone_shows_them() -> None:
    assert cited({"marker": 1, "document_id": "a", "text": "# One\n# Two"}) == "[1] a\n    # One # Two\n"


def test_a_long_line_is_cut() -> None:
    line = cited({"marker": 1, "document_id": "a", "text": "word " * 100}).splitlines()[1]
    assert len(line) < 110
    assert line.endswith("word…")
