"""A stream of documents: order, backpressure, what is told when, what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hartonomous.clients.versions import DocumentChangedError
from hartonomous.errors import (
    BackendError,
    BackendUnavailableError,
    InsufficientStorageError,
    NotFoundError,
    RequestTimedOutError,
    ValidationFailedError,
)
from hartonomous.pipelines.documents import Document, DocumentResult
from tests.pipelines.fakes import call, until
from tests.pipelines.test_ingest import DOWN, Parts


class Streaming(Parts):
    """An ingestor whose documents come from a list, and what it told."""

    def __init__(self, batch_size: int = 4) -> None:
        super().__init__(batch_size)
        self.told: list[DocumentResult] = []
        self.pulled = 0

    async def stream(self, *documents: Document | DocumentResult | Exception, document_s: float = 60.0) -> int:
        return await self.ingestor.stream(
            "docs", self._source(documents), 16, 0, call(), self._tell, document_s=document_s
        )

    async def _source(self, documents: Any) -> AsyncIterator[Document | DocumentResult]:
        for one in documents:
            self.pulled += 1
            if isinstance(one, Exception):
                raise one
            yield one

    async def _tell(self, result: DocumentResult) -> None:
        self.told.append(result)

    def statuses(self) -> dict[int, str]:
        return {result.index: result.status for result in self.told}


def lines(*texts: str, **changes: Any) -> list[Document]:
    return [Document(index, text, f"d{index}", **changes) for index, text in enumerate(texts, 1)]


async def test_every_document_is_told_once_with_its_line_and_its_tokens() -> None:
    parts = Streaming()
    assert await parts.stream(*lines("One.", "Two.", "Three.")) == 3
    assert parts.statuses() == {1: "created", 2: "created", 3: "created"}
    assert [(result.index, result.id) for result in parts.told] == [(1, "d1"), (2, "d2"), (3, "d3")]
    assert sum(result.tokens for result in parts.told) == pytest.approx(3)


async def test_a_line_that_could_not_be_read_is_told_in_its_turn() -> None:
    parts = Streaming()
    bad = DocumentResult(2, None, "failed", error=ValidationFailedError("no JSON"))
    one, three = Document(1, "One.", "a"), Document(3, "Three.", "c")
    await parts.stream(one, bad, three)
    assert parts.statuses() == {1: "created", 2: "failed", 3: "created"}


async def test_the_second_of_equal_ids_comes_after_the_first() -> None:
    parts = Streaming(batch_size=1)
    documents = [Document(number, f"Text {number}.", "same") for number in range(1, 5)]
    await parts.stream(*documents)
    assert [result.index for result in parts.told] == [1, 2, 3, 4]
    assert parts.vectors.steps == [("write", "same"), ("publish", "same")] * 4


async def test_no_more_is_pulled_than_there_is_room_for() -> None:
    parts = Streaming()
    parts.parser.gate = asyncio.Event()
    large = lines(*[""] * 10, format="html", raw="x" * 2**20)
    streaming = asyncio.create_task(parts.stream(*large))
    await until(lambda: parts.pulled >= 5)
    for _ in range(100):
        await asyncio.sleep(0)
    assert parts.pulled == 5  # four fill the window, the fifth waits
    streaming.cancel()
    await asyncio.wait({streaming})


async def test_one_backend_failure_is_one_documents_and_the_stream_goes_on() -> None:
    parts = Streaming(batch_size=1)
    parts.embedding.error, parts.embedding.failing = DOWN, "bad"
    await parts.stream(*lines("One.", "bad", "Two."))
    assert parts.statuses() == {1: "created", 2: "failed", 3: "created"}


async def test_a_backend_that_stays_away_ends_the_stream_after_all_is_told() -> None:
    parts = Streaming()
    parts.embedding.error = DOWN
    with pytest.raises(BackendUnavailableError):
        await parts.stream(*lines(*(f"Text {number}." for number in range(2_000))))
    assert 16 <= len(parts.told) < 1_000
    assert len(parts.told) == parts.pulled
    assert set(parts.statuses().values()) == {"failed"}


@pytest.mark.parametrize("error", [InsufficientStorageError("full")])
async def test_a_full_store_ends_the_stream_at_once(error: BackendError) -> None:
    parts = Streaming()
    parts.vectors.error, parts.vectors.failing = error, "d1"
    with pytest.raises(InsufficientStorageError):
        await parts.stream(*lines(*(f"Text {number}." for number in range(2_000))))
    assert len(parts.told) == parts.pulled < 2_000


async def test_a_fatal_error_ends_a_stream_whose_source_is_silent() -> None:
    parts = Streaming()
    parts.vectors.error, parts.vectors.failing = InsufficientStorageError("full"), "d1"

    async def silent() -> AsyncIterator[Document]:
        yield lines("One.")[0]
        await asyncio.Event().wait()

    with pytest.raises(InsufficientStorageError):
        await parts.ingestor.stream("docs", silent(), 16, 0, call(), parts._tell, document_s=60.0)
    assert parts.statuses() == {1: "failed"}


async def test_what_the_source_raises_ends_it_when_all_that_came_before_is_stored() -> None:
    parts = Streaming()
    with pytest.raises(RequestTimedOutError):
        await parts.stream(*lines("One.", "Two."), RequestTimedOutError("idle"))
    assert parts.statuses() == {1: "created", 2: "created"}


async def test_a_reader_of_results_that_fails_ends_it_and_what_is_written_is_finished() -> None:
    parts = Streaming()

    async def gone(result: DocumentResult) -> None:
        raise ConnectionResetError

    source = parts._source(lines("One.", "Two."))
    with pytest.raises(ConnectionResetError):
        await parts.ingestor.stream("docs", source, 16, 0, call(), gone, document_s=60.0)
    await parts.jobs.drain()
    assert {name for step, name in parts.vectors.steps if step == "publish"} == {
        name for step, name in parts.vectors.steps if step == "write"
    }


async def test_each_document_has_its_own_time() -> None:
    parts = Streaming()
    parts.embedding.gate = asyncio.Event()
    await parts.stream(*lines("One."), document_s=0.01)
    (result,) = parts.told
    assert result.error is not None
    assert (result.status, result.error.status) == ("failed", 504)


async def test_a_document_that_others_change_meanwhile_is_tried_again() -> None:
    parts = Streaming()
    parts.vectors.changed = {"d1": DocumentChangedError("changed")}
    await parts.stream(*lines("One."))
    assert parts.statuses() == {1: "created"}
    assert [step for step, _ in parts.vectors.steps] == ["write", "publish"] * 2


async def test_a_collection_deleted_meanwhile_is_made_again() -> None:
    parts = Streaming()
    parts.vectors.error, parts.vectors.failing, parts.vectors.fails_once = NotFoundError("gone"), "d1", True
    await parts.stream(*lines("One."))
    assert parts.statuses() == {1: "created"}


async def test_html_and_files_are_parsed_first_and_what_is_broken_fails_alone() -> None:
    parts = Streaming()
    whole, broken = Document(1, "", "a", "html", raw="<p>one</p>"), Document(2, "", "b", "html", raw="broken")
    await parts.stream(whole, broken)
    assert parts.statuses() == {1: "created", 2: "failed"}
    assert [result.error.param for result in parts.told if result.error is not None] == ["text"]
    (point,) = parts.vectors.points["a"]
    assert (point.text, point.title, point.format) == ("<P>ONE</P>", "Title", "html")
    assert point.pages == (3,)


async def test_a_long_document_goes_part_by_part_its_first_chunk_last() -> None:
    parts = Streaming()
    text = " ".join(f"Sentence number {number} has some words in it." for number in range(400))
    await parts.stream(*lines(text))
    (result,) = parts.told
    points = parts.vectors.points["d1"]
    assert result.chunks == len(points) > 128
    assert [point.chunk_index for point in points] == list(range(len(points)))
    assert len(parts.vectors.writes) > 2
    assert parts.vectors.written[-1].chunk_index < 64
    assert all(point.chunk_index >= 64 for point in parts.vectors.written[: len(points) - 64])
    assert len({(point.sequence, point.updated_at) for point in points}) == 1
