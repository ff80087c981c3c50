"""The headings of Markdown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.outline import outline


def found(text: str) -> list[tuple[int, str]]:
    return [(heading.level, heading.title) for heading in outline(text).headings]


@pytest.mark.parametrize(
    ("text", "headings"),
    [
        ("# A\n## B ##\n### C#\n", [(1, "A"), (2, "B"), (3, "C#")]),
        ("   # A\n\t# not\n    # not\n#not\n####### not\n#\n", [(1, "A"), (1, "")]),
        ("A\n===\nB\n---\n", [(1, "A"), (2, "B")]),
        ("two\nlines\n===\n", [(1, "two lines")]),
        ("# A\r\n\r\nB\r\n---\r\n", [(1, "A"), (2, "B")]),
        ("text\n\n---\n\nmore", []),
        ("- item\n---\n> quote\n---\n| a |\n---\n# A\n---\n", [(1, "A")]),
        ("```\n# no\n```\n# yes\n~~~sh\n# no\n```\n# no\n~~~\n# yes", [(1, "yes"), (1, "yes")]),
        ("````\n```\n# no\n````\n# yes", [(1, "yes")]),
        ("```a`b\n# yes\n", [(1, "yes")]),
        ("- ```\n  # no\n  ```\n# yes", [(1, "yes")]),
        ("1. x\n\n   ```\n   # no\n   ```\n# yes", [(1, "yes")]),
        ("- ```\n  never closed\n# yes", [(1, "yes")]),
        ("```\nnever closed\n# no", []),
        ("---\ntitle: x\n---\n# yes", [(1, "yes")]),
        ("", []),
    ],
)  # fmt: skip
def test_headings_are_found_as_in_commonmark(text: str, headings: list[tuple[int, str]]) -> None:
    assert found(text) == headings


def test_a_heading_knows_its_place() -> None:
    text = "x\n\n  ## B\n\nC\nD\n---\n"
    spans = [text[heading.start : heading.end] for heading in outline(text).headings]
    assert spans == ["  ## B", "C\nD\n---"]


def test_the_path_above_a_place() -> None:
    text = "intro\n# A\na\n### C\nc\n## B\nb\n# D\nd"
    headings = outline(text)
    paths = {word: headings.above(text.index(f"\n{word}") + 1) for word in "acbd"}
    assert paths == {"a": ("A",), "c": ("A", "C"), "b": ("A", "B"), "d": ("D",)}
    assert headings.above(0) == ()


@given(st.text(alphabet="#=-`~ \nab>|1.", max_size=80))
def test_headings_are_in_order_and_do_not_overlap(text: str) -> None:
    position = -1
    for heading in outline(text).headings:
        assert position < heading.start < heading.end <= len(text)
        assert text[heading.start - 1 : heading.start] in ("", "\n")
        position = heading.end - 1


def test_blocks_are_fenced_code_and_tables() -> None:
    text = "a\n```\n| a |\n|---|\n```\n\n| a | b |\n|:--|--:|\n| 1 | 2 |\n\nx | y\n--- | ---\nnot | a\n~~~\nopen"
    blocks = [text[start:end] for start, end in outline(text).blocks]
    assert blocks == [
        "```\n| a |\n|---|\n```",
        "| a | b |\n|:--|--:|\n| 1 | 2 |",
        "x | y\n--- | ---\nnot | a",
    ]


@pytest.mark.parametrize(
    "text", ["|" * 50_000, "-" * 50_000 + "x", "a|b\n" * 10_000, "`" * 50_000, "> " * 30_000 + "x"]
)
def test_hostile_lines_cost_no_more_than_their_length(text: str) -> None:
    outline(text)


def test_headings_before_a_place_come_last_one_first() -> None:
    text = "# A\n\ntext\n\n## B\n\n# C\n"
    assert [heading.title for heading in outline(text).before(text.index("# C"))] == ["B", "A"]
    assert [heading.title for heading in outline(text).before(len(text))] == ["C", "B", "A"]
    assert list(outline(text).before(0)) == []


def test_blocks_are_found_by_where_they_begin() -> None:
    text = "```\na\n```\n\ntext\n\n~~~\nb\n~~~\n"
    found = outline(text)
    assert list(found.blocks_in(0, len(text))) == found.blocks
    assert list(found.blocks_in(1, len(text))) == found.blocks[1:]
    assert list(found.blocks_in(0, found.blocks[1][0])) == found.blocks[:1]
