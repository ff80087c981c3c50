"""Documents cut into chunks that fit by whatever counter, and cut again where the service refuses them."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from threading import Event

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hartonomous.core.outline import outline
from hartonomous.core.tokens import estimate_tokens, most_tokens
from hartonomous.errors import BackendUnavailableError, ValidationFailedError
from hartonomous.pipelines.cutting import Cut, Sizes, Turns, cut_document, make_sizes, recut
from hartonomous.pipelines.documents import Document
from hartonomous.pipelines.measuring import Ruler
from tests.effort import Work, growth
from tests.pipelines.fakes import until
from tests.turns import counted_turns
from tests.unit.test_chunking import CODE, MARKDOWN, TABLE, WORDS

PREFIX = "passage: "
CYRILLIC = "\u0441\u043b\u043e\u0432\u043e \u0438 \u0434\u0435\u043b\u043e. "


class Counting:
    """A counter that remembers what it was asked; `tokens` says how many a prefixed text has."""

    def __init__(self, tokens: Callable[[str], int], prefix: str = "") -> None:
        self.asked: list[list[str]] = []
        self._tokens = tokens
        self._prefix = prefix

    async def __call__(self, texts: Sequence[str]) -> list[int]:
        self.asked.append(list(texts))
        return [self.of(text) for text in texts]

    def of(self, text: str) -> int:
        return self._tokens(self._prefix + text)


async def unknown(texts: Sequence[str]) -> None:
    """The counter of a service that says nothing."""


def estimated(factor: float) -> Counting:
    """Return a tokenizer of which the estimate is off by `factor`."""
    return Counting(lambda text: 2 + min(int(factor * estimate_tokens(text)), most_tokens(text)))


def document(text: str, markdown: bool = True) -> Document:
    return Document(0, text, "a", "markdown" if markdown else "text", path="documents.0")


def check(cut: Cut, text: str) -> None:
    """Chunks are spans in order that cover everything but blanks."""
    covered = [False] * len(text)
    for index, chunk in enumerate(cut[0]):
        assert chunk.index == index
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.text.strip()
        assert cut[1][index].endswith(chunk.text)
        covered[chunk.start : chunk.end] = [True] * (chunk.end - chunk.start)
    assert all(done or char.isspace() for done, char in zip(covered, text, strict=True))
    assert len(cut[0]) == len(cut[1])
    for one, following in pairwise(cut[0]):
        assert one.start <= following.start
        assert one.end < following.end


ODD: dict[str, Callable[[str], int]] = {
    "characters": len,
    "bytes": lambda text: len(text.encode()),
    "words": lambda text: len(text.split()),
    "doubled": lambda text: 2 + 2 * estimate_tokens(text),
    "random": lambda text: zlib.crc32(text.encode()) % (2 + len(text)),
    "falling": lambda text: 3 if len(text) < 3 else max(0, 200 - len(text)),
    "everything is too long": lambda text: 10_000,
    "nothing": lambda text: 0,
}


@given(MARKDOWN, st.integers(1, 120), st.integers(0, 60), st.booleans(), st.sampled_from(sorted(ODD)))
@example("\x1c\n\n# A\n\n\u2028", 5, 0, True, "everything is too long")
@example(f"# {WORDS * 9}\n\n{CODE}\n\n{TABLE}", 30, 10, True, "characters")
@example("# A\n\n## B\n\n" + "x" * 900, 16, 8, True, "random")
@settings(deadline=None, max_examples=200)
async def test_no_chunk_is_over_the_limit_by_whatever_counter(
    text: str, limit: int, overlap: int, markdown: bool, counter: str
) -> None:
    counting = Counting(ODD[counter], PREFIX)
    sizes = Sizes(limit, min(overlap, limit // 2), PREFIX)
    cut = await cut_document(document(text, markdown), sizes, counting)
    check(cut, text)
    for chunk, embedded in zip(*cut, strict=True):
        surely_fits = most_tokens(PREFIX + embedded) + 4 <= limit  # by every tokenizer: it is not asked for
        assert surely_fits or counting.of(embedded) <= limit or len(chunk.text.strip()) == 1


@given(MARKDOWN, st.integers(16, 120), st.integers(0, 60), st.floats(0.3, 4))
@settings(deadline=None)
async def test_the_same_document_and_counts_make_the_same_chunks(
    text: str, limit: int, overlap: int, factor: float
) -> None:
    cuts = [await cut_document(document(text), Sizes(limit, overlap), estimated(factor)) for _ in range(2)]
    assert cuts[0] == cuts[1]


@given(MARKDOWN, st.integers(16, 120), st.integers(0, 60))
@settings(deadline=None)
async def test_without_a_count_the_estimate_of_all_that_is_embedded_is_within_the_limit(
    text: str, limit: int, overlap: int
) -> None:
    sizes = Sizes(limit, min(overlap, limit // 2), PREFIX)
    cut = await cut_document(document(text), sizes, unknown)
    check(cut, text)
    for chunk, embedded in zip(*cut, strict=True):
        assert estimate_tokens(embedded) + sizes.around <= limit + 1 or len(chunk.text.strip()) == 1


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.3, 2.5])
async def test_chunks_under_long_headings_are_well_filled(factor: float) -> None:
    """Not halves of chunks that were too long by their headings."""
    text = "# The long name of a guide\n\n## Another long name of a part\n\n" + "\n\n".join([WORDS * 3] * 60)
    counting = estimated(factor)
    chunks, embedded = await cut_document(document(text), Sizes(128, 0), counting)
    totals = [counting.of(text) for text in embedded]
    assert max(totals) <= 128
    assert sum(text.startswith("The long name of a guide\nAnother") for text in embedded) > 0.9 * len(chunks)
    assert sum(totals) / len(totals) > 0.5 * 128


async def test_headings_are_above_every_chunk_where_there_is_room() -> None:
    text = f"# Guide\n\n## Limits\n\n{WORDS * 40}"
    chunks, embedded = await cut_document(document(text), Sizes(64, 0), estimated(1.0))
    assert len(chunks) > 5
    assert all("Limits\n" in text for text in embedded)
    assert sum(text.startswith("Guide\nLimits\n") for text in embedded) > 0.7 * len(chunks)
    assert all(chunk.headings == ("Guide", "Limits") for chunk in chunks)


async def test_the_outermost_headings_go_first_and_the_text_stays() -> None:
    text = f"# {WORDS * 2}\n\n## Limits\n\n{WORDS * 30}"
    chunks, embedded = await cut_document(document(text), Sizes(48, 0), estimated(1.0))
    assert all(text.startswith("Limits\n") for text in embedded[1:])
    assert chunks[1].headings == ((WORDS * 2).strip(), "Limits")


async def test_a_heading_of_a_megabyte_is_not_repeated() -> None:
    chunks, embedded = await cut_document(document(f"# {'x' * 5_000}\n\n{WORDS * 100}"), Sizes(64, 8), estimated(1.0))
    assert max(len(heading) for chunk in chunks for heading in chunk.headings) <= 256
    assert sum(map(len, embedded)) < 5 * 10_000


async def test_a_title_is_not_embedded() -> None:
    titled = Document(0, WORDS, "a", title="A title")
    assert (await cut_document(titled, Sizes(64, 8), estimated(1.0)))[1] == [WORDS.strip()]


@pytest.mark.parametrize("block", [CODE, TABLE, CODE.replace("second = 2", "\n".join(["x = {1: [2, 3]}"] * 9))])
@pytest.mark.parametrize("factor", [0.5, 1.0, 1.6])
async def test_a_block_that_fits_by_count_is_not_cut_whatever_the_estimate_says(block: str, factor: float) -> None:
    counting = estimated(factor)
    limit = counting.of(f"## Sizes\n\n{block}")
    for words in range(1, 8):
        text = f"# Head\n\n{WORDS * words}\n\n## Sizes\n\n{block}\n\n{WORDS * 5}"
        chunks, embedded = await cut_document(document(text), Sizes(limit, 0), counting)
        assert any(f"## Sizes\n\n{block}" in chunk.text for chunk in chunks), words
        assert all(counting.of(text) <= limit for text in embedded)


@given(MARKDOWN, st.integers(45, 120), st.integers(0, 30), st.floats(0.5, 2))
@settings(deadline=None)
async def test_a_heading_stays_with_what_follows_it_after_cutting_again(
    text: str, limit: int, overlap: int, factor: float
) -> None:
    counting = estimated(factor)
    chunks, _ = await cut_document(document(text), Sizes(limit, overlap), counting)
    headings = outline(text).headings
    for chunk, following in pairwise(chunks):
        last = [one for one in headings if chunk.start <= one.start and one.end == chunk.end]
        if last and following.start >= chunk.end and not following.text.lstrip().startswith(("```", "|")):
            heading = text[last[0].start : last[0].end]
            assert counting.of(heading) + 20 * factor > limit / 2 or chunk.text == "---"


async def test_what_is_over_is_cut_into_parts_of_about_one_size() -> None:
    """The second half of the text has twice the tokens that the estimate thinks."""
    counting = Counting(lambda text: 2 + estimate_tokens(text) + estimate_tokens(text.replace("Some", "")) // 9)
    text = " ".join([WORDS * 4] * 12)
    _, embedded = await cut_document(document(text), Sizes(80, 0), counting)
    totals = [counting.of(text) for text in embedded]
    assert max(totals) <= 80
    assert min(totals[:-1]) > 20


async def test_a_text_that_is_underestimated_everywhere_needs_few_rounds() -> None:
    counting = Counting(lambda text: 2 + 3 * estimate_tokens(text))
    await cut_document(document(CYRILLIC * 2_000), Sizes(128, 16), counting)
    assert len(counting.asked) <= 5


async def test_what_no_tokenizer_could_make_too_long_is_not_counted() -> None:
    counting = Counting(len)
    for text in ("Tiny text.", "x" * 200, "Umlaut \u00e4 " * 8):
        await cut_document(document(text), make_sizes(256, 32, 512), counting)
    assert counting.asked == []


def test_what_surely_fits_is_no_longer_than_a_smaller_size() -> None:
    count = Ruler(Sizes(60, 0), unknown).counting(20)
    assert count("a.b." * 14) == 20  # 56 characters are at most 60 tokens
    assert count("a.b." * 15) == estimate_tokens("a.b." * 15) > 20


async def test_a_blank_document_has_no_chunks() -> None:
    assert await cut_document(document(" \n"), Sizes(64, 8), unknown) == ([], [])


async def test_html_and_docx_are_markdown_by_now() -> None:
    for parsed in (Document(0, f"# A\n\n{WORDS}", "a", "html"), Document(0, f"# A\n\n{WORDS}", "a", "docx")):
        chunks, _ = await cut_document(parsed, Sizes(64, 8), unknown)
        assert chunks[0].headings == ("A",)


async def test_a_failed_count_fails_the_cut() -> None:
    async def failing(texts: Sequence[str]) -> list[int]:
        raise BackendUnavailableError("down")

    with pytest.raises(BackendUnavailableError):
        await cut_document(document(WORDS * 50), Sizes(64, 8), failing)


async def test_long_texts_leave_the_loop_alone() -> None:
    async with counted_turns(0.001) as turns:
        await cut_document(document(f"# A\n\n{WORDS * 20}\n\n" * 1_000), make_sizes(256, 32, 512), estimated(1.3))
    assert turns() > 20


async def test_short_texts_are_cut_one_a_turn() -> None:
    turns = Turns()
    await turns.brief.acquire()
    task = asyncio.create_task(cut_document(document(WORDS), Sizes(64, 8), unknown, turns))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()
    turns.brief.release()
    assert len((await task)[0]) == 1


async def test_long_texts_wait_for_a_place_among_the_threads_that_compute() -> None:
    turns, done = Turns(), Event()
    computing = [asyncio.create_task(turns.threads.run(number, done.wait, 30)) for number in (0, 0)]
    await asyncio.sleep(0)
    task = asyncio.create_task(cut_document(document(WORDS * 50), Sizes(64, 8), unknown, turns))
    await until(lambda: turns.threads.waiting == 1)
    short = await cut_document(document(WORDS), Sizes(64, 8), unknown, turns)
    assert len(short[0]) == 1
    done.set()
    assert len((await task)[0]) > 1
    assert all(await asyncio.gather(*computing))


@pytest.mark.parametrize("factor", [0.8, 1.5])
def test_a_long_document_is_cut_in_linear_time(factor: float) -> None:
    part = f"# Guide %d\n\n{WORDS * 40}\n\n## Limits\n\n{CODE}\n\n{TABLE}\n\n- item one\n- item two\n\n"

    def prepared(size: int) -> Work:
        text = "".join(part % number for number in range(size // len(part)))
        return lambda: asyncio.run(cut_document(document(text), make_sizes(256, 32, 512), estimated(factor)))

    assert growth(prepared, 25_000, 400_000, 48) < 48  # 16 when it is linear, 256 when it is quadratic


@given(MARKDOWN, st.integers(16, 120), st.integers(0, 60), st.integers(1, 60), st.booleans())
@settings(deadline=None)
async def test_a_service_that_takes_less_than_it_says_gets_its_texts_at_last(
    text: str, limit: int, overlap: int, takes: int, counts: bool
) -> None:
    sizes = Sizes(limit, min(overlap, limit // 2))
    counter = estimated(0.8) if counts else unknown
    refuses = estimated(1.2).of
    doc = document(text)
    cut = await cut_document(doc, sizes, counter)
    for _ in range(40):
        refused = [index for index, embedded in enumerate(cut[1]) if refuses(embedded) > takes + 3]
        if not refused:
            break
        before = cut
        if any(len(before[1][index].strip()) == 1 for index in refused):
            with pytest.raises(ValidationFailedError) as caught:
                await recut(doc, sizes, counter, cut, refused)
            assert (caught.value.error_code, caught.value.param) == ("input_too_long", "documents.0.text")
            return
        cut = await recut(doc, sizes, counter, cut, refused)
        assert cut[0][: refused[0]] == before[0][: refused[0]]
        check(cut, text)
    assert not refused


async def test_a_cut_of_which_nothing_is_refused_stays() -> None:
    cut = await cut_document(document(WORDS * 20), Sizes(64, 8), unknown)
    assert await recut(document(WORDS * 20), Sizes(64, 8), unknown, cut, []) is cut


@pytest.mark.parametrize(
    ("asked", "context", "prefix", "limit", "overlap"),
    [
        ((256, 32), 512, "", 256, 32),
        ((256, 32), None, "", 256, 32),
        ((8192, 4096), 512, "", 512, 256),
        ((16, 8), 512, "", 16, 8),
        ((16, 8), 512, "Represent this sentence for searching relevant passages: ", 31, 8),
        ((16, 8), 20, "Represent this sentence for searching relevant passages: ", 20, 8),
    ],
)
def test_sizes_are_what_was_asked_for_or_what_the_model_takes(
    asked: tuple[int, int], context: int | None, prefix: str, limit: int, overlap: int
) -> None:
    assert make_sizes(*asked, context, prefix) == Sizes(limit, overlap, prefix)
