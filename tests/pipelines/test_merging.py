"""Hits of one document made ready for a prompt: near-duplicates, neighbours, overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hartonomous.clients.points import StoredChunk, assemble
from hartonomous.core.chunking import split
from hartonomous.core.tokens import estimate_tokens
from hartonomous.pipelines.merging import MERGED_TOKENS, merge
from hartonomous.pipelines.questions import ScoredHit

TEXT = "Limes are green.  Lemons are yellow.\n\nApples are red. Plums are blue, and Pears are none of these at all."
WORDS = ["green", "red", "blue", "Lime", "plum", "12", "AX-7", "is", "are", "not", "of", "stone"]


def chunks(text: str, spans: Sequence[tuple[int, int]], document: str = "d", content: str = "1") -> list[StoredChunk]:
    """Return the stored chunks of a document that was cut at `spans`."""
    ends = [0, *(end for _, end in spans)]
    return [
        StoredChunk(
            id=f"{document}/{index}",
            document_id=document,
            content_hash=content,
            version="sha256:1",
            chunk_index=index,
            chunk_count=len(spans),
            text=text[start:end],
            start=start,
            end=end,
            sequence=1,
            headings=(f"heading {index}",),
            page=index + 1,
            gap=text[ends[index] : start] or None,
        )
        for index, (start, end) in enumerate(spans)
    ]


def cut(text: str, *sizes: int) -> list[StoredChunk]:
    """Return chunks of these lengths, each without the blanks around it."""
    spans, place = [], 0
    for size in sizes:
        part = text[place : place + size]
        spans.append((place + len(part) - len(part.lstrip()), place + len(part.rstrip())))
        place += size
    return chunks(text, spans)


def hits(*found: StoredChunk) -> list[ScoredHit]:
    """Return hits whose scores fall from 0.9 in the order given."""
    return [ScoredHit(chunk, 0.9 - place / 200, dense=0.9 - place / 200) for place, chunk in enumerate(found)]


def texts(merged: Sequence[ScoredHit]) -> list[str]:
    return [hit.chunk.text for hit in merged]


def test_neighbours_become_one_passage_with_the_blanks_between_them() -> None:
    first, second, third, _ = cut(TEXT, 18, 20, 16, 60)
    (merged,) = merge(hits(second, third, first))
    assert merged.chunk.text == TEXT[: third.end]
    assert (merged.chunk.start, merged.chunk.end) == (0, third.end)
    assert (merged.chunk.id, merged.chunk.page, merged.chunk.headings) == ("d/0", 1, ("heading 0",))


def test_a_passage_stands_in_the_place_of_its_best_part_with_the_best_score_of_each_kind() -> None:
    first, second, _, last = cut(TEXT, 18, 20, 16, 60)
    other = chunks("Something else.", [(0, 15)], "other")[0]
    given = [
        ScoredHit(last, 0.9, dense=0.2),
        ScoredHit(second, 0.8, dense=0.3),
        ScoredHit(other, 0.7, dense=0.9),
        ScoredHit(first, 0.6, dense=0.4, sparse=5.0),
    ]
    merged = merge(given)
    assert [hit.chunk.id for hit in merged] == ["d/3", "d/0", "other/0"]
    assert (merged[1].score, merged[1].scores) == (0.8, {"dense": 0.4, "sparse": 5.0})
    assert given[1].chunk.text == second.text


def test_overlapping_chunks_become_one_passage_that_says_nothing_twice() -> None:
    found = chunks(TEXT, [(0, 36), (18, 53), (38, len(TEXT))])
    (merged,) = merge(hits(found[2], found[0], found[1]))
    assert merged.chunk.text == TEXT


def test_what_has_an_unknown_stretch_between_stays_apart() -> None:
    first, _, third, _ = cut(TEXT, 18, 20, 16, 60)
    assert texts(merge(hits(first, third))) == [first.text, third.text]


def test_chunks_of_two_versions_or_documents_never_meet() -> None:
    one, two = cut(TEXT, 18, 20)
    newer = chunks(TEXT, [(0, 16), (18, 36)], content="2")[1]
    other = chunks(TEXT, [(0, 16), (18, 36)], document="e")[1]
    assert [hit.chunk.id for hit in merge(hits(one, newer, other))] == ["d/0", "d/1", "e/1"]
    assert len(merge(hits(one, two))) == 1


def test_a_passage_does_not_outgrow_its_bound_and_the_better_chunks_are_merged_first() -> None:
    text = " ".join(f"word{number} and more of it" for number in range(400))
    size = 1_000
    found = chunks(text, [(start, min(start + size, len(text))) for start in range(0, len(text), size)])
    limit = estimate_tokens(text[4_000:6_000])
    merged = merge(hits(found[4], found[5], found[3], found[6]), max_tokens=limit)
    assert texts(merged) == [text[4_000:6_000], text[3_000:4_000], text[6_000:7_000]]
    assert all(estimate_tokens(hit.chunk.text) <= MERGED_TOKENS for hit in merge(hits(*found)))


def test_where_the_bound_keeps_overlapping_chunks_apart_the_worse_one_loses_the_overlap() -> None:
    found = chunks(TEXT, [(0, 36), (18, 53), (38, len(TEXT))])
    merged = merge(hits(found[1], found[0], found[2]), max_tokens=1)
    assert texts(merged) == [TEXT[18:53], "Limes are green.", TEXT[54:]]
    assert all(TEXT[hit.chunk.start : hit.chunk.end] == hit.chunk.text for hit in merged)


SENTENCE = "The pump of the first floor is switched on by the red lever beside the door of the hall in the morning. "


def both(better: str, worse: str) -> list[str]:
    text = f"{better}{'x' * 50}{worse}"
    found = chunks(text, [(0, len(better)), (len(better), len(better) + 50), (len(better) + 50, len(text))])
    return texts(merge(hits(found[0], found[2])))


def test_a_near_duplicate_goes() -> None:
    twice = SENTENCE.upper().replace(",", " ;")
    assert both(SENTENCE, twice) == [SENTENCE]
    assert both(SENTENCE * 2, SENTENCE.replace("morning", "evening") + SENTENCE) == [SENTENCE * 2]
    assert both("And more. " + SENTENCE, SENTENCE) == ["And more. " + SENTENCE]


def test_a_number_or_a_name_of_its_own_makes_no_duplicate() -> None:
    for word in ("AX-7", "19", "Hamburg"):
        other = SENTENCE.replace("red", word)
        assert both(SENTENCE * 3, SENTENCE * 2 + other) == [SENTENCE * 3, SENTENCE * 2 + other]


def test_a_longer_text_that_contains_a_better_one_stays() -> None:
    longer = SENTENCE + "It must never be pulled while somebody works on the roof, or water comes down on them."
    assert both(SENTENCE, longer) == [SENTENCE, longer]


def test_nothing_and_chunks_without_words_are_merged_as_well() -> None:
    assert merge([]) == []
    assert both("***", "***") == ["***", "***"]


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, list[StoredChunk]]:
    """Return a text and all its chunks, cut and overlapping in any way that ingest could."""
    words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=60))
    blanks = draw(st.lists(st.sampled_from([" ", "\n\n", "  "]), min_size=len(words), max_size=len(words)))
    text = "".join(word + blank for word, blank in zip(words, blanks, strict=True)).rstrip()
    if draw(st.booleans()):
        size = draw(st.integers(8, 40))
        return text, chunks(
            text,
            [(one.start, one.end) for one in split(text, markdown=False, max_tokens=size, overlap_tokens=size // 2)],
        )
    spans, start, end = [], 0, 0
    while end < len(text):
        end = min(len(text), end + draw(st.integers(1, 40)))
        end = len(text) if not text[end:].strip() else end
        if text[start:end].strip():
            spans.append((start + len(text[start:end]) - len(text[start:end].lstrip()), end))
            end = spans[-1][1]
            start = draw(st.integers(spans[-1][0] + 1, end))
            while text[start : start + 1].isspace():
                start += 1
    return text, chunks(text, spans)


@given(documents(), st.randoms(use_true_random=False), st.integers(0, 60), st.data())
def test_merged_hits_are_spans_of_the_document_that_never_overlap(
    document: tuple[str, list[StoredChunk]], random: object, limit: int, data: st.DataObject
) -> None:
    text, all_chunks = document
    whole = assemble(all_chunks)
    assert whole == text
    found = data.draw(st.permutations(all_chunks))[: data.draw(st.integers(0, len(all_chunks)))]
    given = hits(*found)
    merged = merge(given, max_tokens=limit)
    for hit in merged:
        assert whole[hit.chunk.start : hit.chunk.end] == hit.chunk.text != ""
        parts = [one for one in given if one.chunk.start < hit.chunk.end and hit.chunk.start < one.chunk.end]
        assert hit.score in {part.score for part in parts}
        assert estimate_tokens(hit.chunk.text) <= limit or any(hit.chunk.text in part.chunk.text for part in parts)
    ordered = sorted((hit.chunk.start, hit.chunk.end) for hit in merged)
    assert all(before[1] <= after[0] for before, after in pairwise(ordered))
    assert [hit.score for hit in merged] == sorted((hit.score for hit in merged), reverse=True)
    assert merged[:1] == [] or merged[0].score == given[0].score
    assert hits(*found) == given


@given(st.integers(1, 200), st.integers(8, 40), st.data())
def test_all_chunks_of_a_document_that_repeats_nothing_make_it_again(
    count: int, size: int, data: st.DataObject
) -> None:
    text = " ".join(f"word{number}" for number in range(count))
    spans = [(one.start, one.end) for one in split(text, markdown=False, max_tokens=size, overlap_tokens=size // 2)]
    shuffled = data.draw(st.permutations(chunks(text, spans)))
    assert texts(merge(hits(*shuffled), max_tokens=10_000)) == [text]
