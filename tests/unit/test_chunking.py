"""Chunks of documents."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hartonomous.core.chunking import Chunk, estimate_tokens, split
from hartonomous.core.outline import outline
from tests.effort import Work, growth

CODE = "```python\n# no heading\nfirst = 1\n\nsecond = 2\n```"
TABLE = "| model | weight |\n| --- | --- |\n| HX-100 | 4 kg |\n| HX-200 | 3 kg |"
WORDS = "Some plain words in a sentence of middling length. "

BLOCK = st.one_of(
    st.sampled_from(
        [
            "# One",
            "## Two",
            "### Three",
            "Set\n===",
            CODE,
            TABLE,
            "- a\n- b\n  - c",
            "> quoted",
            "---",
            "日本語。文です。",
        ]
    ),
    st.integers(1, 30).map(lambda count: (WORDS * count).strip()),
    st.text(max_size=40),
)
MARKDOWN = st.lists(BLOCK, max_size=12).map("\n\n".join)


def cut(text: str, limit: int = 60, overlap: int = 0, *, markdown: bool = True) -> list[Chunk]:
    return split(text, markdown=markdown, max_tokens=limit, overlap_tokens=overlap)


@given(MARKDOWN, st.integers(1, 120), st.integers(0, 200), st.booleans())
@example("a\ud800b " * 50, 20, 5, True)
@example("x" * 500, 7, 3, False)
@example("\x1c\n\n# A\n\n\u2028", 5, 0, True)
@example("# One\n\n00\U000109b80\U00014647\U00010000\U00016fa0", 14, 7, True)
@settings(deadline=None)
def test_chunks_are_spans_in_order_that_cover_the_text(text: str, limit: int, overlap: int, markdown: bool) -> None:
    chunks = cut(text, limit, overlap, markdown=markdown)
    covered = [False] * len(text)
    for index, chunk in enumerate(chunks):
        assert chunk.index == index
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text.strip()
        assert estimate_tokens(chunk.text) <= limit or len(chunk.text.strip()) == 1
        covered[chunk.start : chunk.end] = [True] * (chunk.end - chunk.start)
    assert all(done or char.isspace() for done, char in zip(covered, text, strict=True))
    starts = [chunk.start for chunk in chunks]
    assert starts == sorted(starts)
    assert [chunk.end for chunk in chunks] == sorted(chunk.end for chunk in chunks)


@given(MARKDOWN, st.integers(30, 120), st.integers(0, 30))
@settings(deadline=None)
def test_no_chunk_ends_with_a_heading_whose_text_would_fit_beside_it(text: str, limit: int, overlap: int) -> None:
    chunks = cut(text, limit, overlap)
    headings = outline(text).headings
    for chunk, following in pairwise(chunks):
        last = [one for one in headings if chunk.start <= one.start and one.end == chunk.end]
        if last and following.start >= chunk.end and not following.text.lstrip().startswith(("```", "|")):
            assert estimate_tokens(text[last[0].start : last[0].end]) + 20 > limit / 2 or chunk.text == "---"


@pytest.mark.parametrize("text", ["", " ", "\n\t\n", "\u2003"])
def test_a_blank_text_has_no_chunks(text: str) -> None:
    assert cut(text) == []
    assert cut(text, markdown=False) == []


@pytest.mark.parametrize(("limit", "overlap"), [(0, 0), (-1, 0), (10, -1)])
def test_impossible_sizes_are_refused(limit: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="cannot make chunks"):
        cut("x", limit, overlap)


def test_a_heading_stays_with_what_follows_it() -> None:
    text = f"# Guide\n\n{WORDS * 3}\n\n## Limits\n\n{WORDS * 12}"
    chunks = cut(text, 60)
    assert [
        chunk.text.startswith(("# Guide\n\nSome", "## Limits\n\nSome")) for chunk in chunks if "#" in chunk.text
    ] == [
        True,
        True,
    ]
    assert sum("## Limits" in chunk.text for chunk in chunks) == 1


@pytest.mark.parametrize("block", [CODE, TABLE])
@pytest.mark.parametrize("overlap", [0, 15])
def test_a_block_that_fits_is_not_cut(block: str, overlap: int) -> None:
    for words in range(1, 12):
        text = f"# Head\n\n{WORDS * words}\n\n{block}\n\n{WORDS * 5}"
        assert any(block in chunk.text for chunk in cut(text, 60, overlap)), words


@given(MARKDOWN, st.integers(45, 120), st.integers(0, 30))
@settings(deadline=None)
def test_no_block_that_fits_is_cut_wherever_it_stands(text: str, limit: int, overlap: int) -> None:
    chunks = cut(text, limit, overlap)
    for start, end in outline(text).blocks:
        if estimate_tokens(text[start:end]) <= limit:
            assert any(chunk.start <= start + 3 and chunk.end >= len(text[:end].rstrip()) for chunk in chunks)


def test_a_block_keeps_the_heading_right_above_it() -> None:
    for words in range(1, 12):
        text = f"{WORDS * words}\n\n## Sizes\n\n{TABLE}\n\n{WORDS * 5}"
        assert any(f"## Sizes\n\n{TABLE}" in chunk.text for chunk in cut(text, 60)), words


def test_each_chunk_knows_the_headings_above_it() -> None:
    text = f"{WORDS}\n\n# A\n\n{WORDS * 8}\n\n## B\n\n{WORDS * 8}\n\n{CODE}\n\n# C\n\nend."
    paths = {chunk.text[:12]: chunk.headings for chunk in cut(text, 50)}
    assert cut(text, 50)[0].headings == ()
    assert paths["# A\n\nSome pl"] == ("A",)
    assert paths["## B\n\nSome p"] == ("A", "B")
    assert next(chunk.headings for chunk in cut(text, 50) if CODE in chunk.text) == ("A", "B")
    assert paths["# C\n\nend."] == ("C",)
    assert all(not chunk.headings for chunk in cut(text, 50, markdown=False))


def test_a_chunk_that_begins_with_several_headings_has_all_of_them_above_it() -> None:
    text = f"# A\n\n## B\n\n### C\n{WORDS}\n\n## D"
    assert [chunk.headings for chunk in cut(text)] == [("A", "B", "C")]
    assert [chunk.headings for chunk in cut("# A\n\n## B")] == [("A", "B")]
    assert [chunk.headings for chunk in cut("Text.\n\n# A\n\n## B\n\nText.")] == [()]


def test_neighbours_share_what_was_asked_for() -> None:
    text = " ".join(f"Sentence number {number} stands here." for number in range(60))
    with_overlap, without = cut(text, 60, 20), cut(text, 60, 0)
    assert all(one.end > other.start for one, other in pairwise(with_overlap))
    assert all(one.end <= other.start for one, other in pairwise(without))
    shared = [text[other.start : one.end] for one, other in pairwise(with_overlap)]
    assert all(estimate_tokens(part) <= 20 for part in shared)


def test_another_counter_is_obeyed() -> None:
    chunks = split(WORDS * 20, markdown=False, max_tokens=100, overlap_tokens=0, count=len)
    assert max(len(chunk.text) for chunk in chunks) <= 100


def test_a_long_text_is_cut_in_linear_time() -> None:
    part = f"# Guide\n\n{WORDS * 40}\n\n## Limits\n\n{CODE}\n\n{TABLE}\n\n- item one\n- item two\n\n"

    def prepared(size: int) -> Work:
        text = part * (size // len(part))
        return lambda: split(text, markdown=True, max_tokens=256, overlap_tokens=32)

    assert growth(prepared, 25_000, 400_000, 48) < 48  # 16 when it is linear, 256 when it is quadratic


@pytest.mark.parametrize(
    "text",
    ["x" * 20_000, "\u6c49\u5b57\u6587\u672c\u3002" * 5_000, "word " * 20_000, "line of words\n" * 8_000],
    ids=["word", "chinese", "words", "lines"],
)
def test_a_text_larger_than_a_section_is_covered_without_a_gap(text: str) -> None:
    chunks = split(text, markdown=False, max_tokens=64, overlap_tokens=0)
    assert "".join("".join(chunk.text.split()) for chunk in chunks) == "".join(text.split())
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks)


def test_chinese_without_blanks_is_cut_behind_its_marks() -> None:
    chunks = split("\u6c49\u5b57\u6587\u672c\u3002" * 5_000, markdown=False, max_tokens=64, overlap_tokens=0)
    assert all(chunk.text.endswith("\u3002") for chunk in chunks)


def test_the_work_grows_with_the_text_and_no_faster() -> None:
    """Sizes asked for a character, in a text without sentences: four times the text, about four times the work."""

    def asked(length: int) -> int:
        seen = 0

        def count(part: str) -> int:
            nonlocal seen
            seen += len(part)
            return estimate_tokens(part)

        split("word " * length, markdown=False, max_tokens=64, overlap_tokens=0, count=count)
        return seen

    assert asked(80_000) < 6 * asked(20_000)
