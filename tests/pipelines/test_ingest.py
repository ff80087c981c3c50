"""The ingest pipeline by itself: outcomes, full batches, failures that stay with their document, cancellation."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hartonomous.clients.failures import BackendRefusedError
from hartonomous.clients.points import DocumentState
from hartonomous.clients.schema import CollectionInfo
from hartonomous.clients.versions import DocumentChangedError
from hartonomous.config import Rag
from hartonomous.core.call import Call
from hartonomous.core.fingerprint import attributes_hash, content_hash
from hartonomous.errors import BackendUnavailableError, ConflictError, ValidationFailedError
from hartonomous.metrics import Metrics
from hartonomous.pipelines import storing
from hartonomous.pipelines.documents import Document
from hartonomous.pipelines.ingest import Ingestor, IngestResult
from hartonomous.pipelines.jobs import Jobs
from hartonomous.pipelines.traffic import Traffic
from tests.pipelines.fakes import FINGERPRINT, Embedding, Schema, Tokens, Vectors, call, until

SIX_CHUNKS = ". ".join(f"Sentence {number} has some words in it" for number in range(6))
DOWN = BackendUnavailableError("down", retry_after=1)


class Files:
    """Parses by putting the text in capitals; fails for "broken"."""

    def __init__(self) -> None:
        self.gate: asyncio.Event | None = None

    async def parse(self, data: str | Path, kind: str, limit_s: float) -> SimpleNamespace:
        if self.gate is not None:
            await self.gate.wait()
        if "broken" in str(data):
            raise ValidationFailedError("broken", code="broken_file")
        return SimpleNamespace(text=str(data).upper(), title="Title", pages=(3,))


class Replaced(Schema):
    """A collection that turns out to be another model's as soon as it is looked at anew."""

    def __init__(self) -> None:
        super().__init__()
        self._is_forgotten = False

    def forget(self, name: str) -> None:
        self._is_forgotten = True

    async def describe(self, name: str, call: Call) -> CollectionInfo | None:
        return await super().describe("foreign" if self._is_forgotten else name, call)


class Parts:
    """An ingestor and its collaborators."""

    def __init__(self, batch_size: int = 4, schema: Schema | None = None) -> None:
        self.embedding, self.vectors, self.jobs = Embedding(batch_size), Vectors(), Jobs()
        fakes = (self.embedding, self.vectors, schema or Schema())
        embedding, store, collections = (cast("Any", fake) for fake in fakes)
        self.parser = Files()
        self.traffic = Traffic()
        tokens, parser = cast("Any", Tokens()), cast("Any", self.parser)
        self.ingestor = Ingestor(
            embedding, tokens, store, collections, parser, self.jobs, self.traffic, Rag(), Metrics()
        )

    async def ingest(self, *documents: Document, max_tokens: int = 16, overlap: int = 0) -> IngestResult:
        return await self.ingestor.ingest("docs", documents, max_tokens, overlap, call())


def documents(*texts: str) -> list[Document]:
    return [
        Document(index=index, id=str(index), text=text, path=f"documents.{index}") for index, text in enumerate(texts)
    ]


def embedded(parts: Parts) -> int:
    return sum(map(len, parts.embedding.batches))


def statuses(result: IngestResult) -> list[str]:
    return [document.status for document in result.documents]


def known(document: Document, **changes: Any) -> DocumentState:
    """Return the state of a document that was ingested as it is."""
    fields: dict[str, Any] = {
        "document_id": document.id,
        "content_hash": content_hash(
            document.text, format="text", max_tokens=16, overlap_tokens=0, fingerprint=FINGERPRINT
        ),
        "attributes_hash": attributes_hash(document.title, document.source, document.metadata),
        "version": "sha256:1",
        "sequence": 1,
        "chunk_count": 1,
    }
    return DocumentState(**fields | changes)


async def test_chunks_of_all_documents_fill_the_batches() -> None:
    parts = Parts(batch_size=4)
    result = await parts.ingest(*documents("One.", SIX_CHUNKS, "Two.", "Three."))
    assert statuses(result) == ["created"] * 4
    total = sum(document.chunks for document in result.documents)
    assert total > 6
    assert (
        sum(len(batch) < 4 for batch in parts.embedding.batches) <= 2
    )  # the first one, which does not wait, and the last
    assert result.embedding_tokens == total


async def test_the_service_works_on_while_the_store_makes_a_pause() -> None:
    parts = Parts(batch_size=4)
    parts.vectors.gate = asyncio.Event()
    task = asyncio.create_task(parts.ingest(*documents(*[SIX_CHUNKS] * 15)))
    await until(lambda: embedded(parts) == 15 * 6)
    assert not parts.vectors.written
    parts.vectors.gate.set()
    assert statuses(await task) == ["created"] * 15


async def test_what_is_embedded_and_not_written_yet_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "_UNWRITTEN", 12 * 2 * 4)  # two documents of six vectors of two dimensions
    parts = Parts(batch_size=4)
    parts.vectors.gate = asyncio.Event()
    task = asyncio.create_task(parts.ingest(*documents(*[SIX_CHUNKS] * 15)))
    await until(lambda: embedded(parts) >= 4 * 6)
    for _ in range(1_000):
        await asyncio.sleep(0)
    assert embedded(parts) <= 12 + 4 * (2 + 2)  # and what waits or is under way beside them
    parts.vectors.gate.set()
    assert statuses(await task) == ["created"] * 15


async def test_each_document_is_written_then_published() -> None:
    parts = Parts()
    await parts.ingest(*documents("One.", "Two."))
    for name in "01":
        assert [step for step, document in parts.vectors.steps if document == name] == ["write", "publish"]


async def test_attributes_that_met_another_version_are_compared_and_written_again() -> None:
    parts = Parts()
    (retitled,) = documents("One.")
    parts.vectors.known = {"0": known(retitled, attributes_hash="other")}
    parts.vectors.changed = {"0": DocumentChangedError("changed")}
    assert statuses(await parts.ingest(retitled)) == ["updated"]
    assert parts.vectors.steps == [("attributes", "0")] * 2


async def test_what_met_another_models_collection_under_the_name_is_refused() -> None:
    parts = Parts(schema=Replaced())
    parts.vectors.changed = {"0": DocumentChangedError("changed")}
    (document,) = (await parts.ingest(*documents("One."))).documents
    assert isinstance(document.error, ConflictError)
    assert document.error.param == "collection"
    assert parts.vectors.steps == [("write", "0"), ("publish", "0")]


async def test_points_carry_text_offsets_and_the_blanks_between() -> None:
    parts = Parts()
    text = "  First sentence of many words here.\n\n\nSecond sentence of many more words there. "
    await parts.ingest(*documents(text))
    points = parts.vectors.points["0"]
    assert len(points) == 2
    assert all(text[point.start : point.end] == point.text for point in points)
    assert "".join((point.gap or "") + point.text for point in points) == text.rstrip()
    assert [(point.chunk_index, point.chunk_count) for point in points] == [(0, 2), (1, 2)]
    assert len({point.sequence for point in points}) == 1


async def test_what_is_known_costs_nothing_and_attributes_cost_one_write() -> None:
    parts = Parts()
    same, retitled, changed = documents("One.", "Two.", "Three.")
    retitled = Document(index=1, id="1", text="Two.", title="New")
    parts.vectors.known = {
        "0": known(same),
        "1": known(Document(index=1, id="1", text="Two.")),
        "2": known(changed, content_hash="other"),
    }
    result = await parts.ingest(same, retitled, changed)
    assert statuses(result) == ["unchanged", "updated", "updated"]
    assert parts.embedding.batches == [["Three."]]
    assert sorted(parts.vectors.steps) == [("attributes", "1"), ("publish", "2"), ("write", "2")]


async def test_the_last_of_equal_ids_wins() -> None:
    parts = Parts()
    twice = [Document(index=index, id="same", text=f"Text {index}.") for index in range(3)]
    result = await parts.ingest(*twice)
    assert statuses(result) == ["failed", "failed", "created"]
    assert isinstance(result.documents[0].error, ConflictError)
    assert parts.embedding.batches == [["Text 2."]]


async def test_blank_documents_fail_alone() -> None:
    result = await Parts().ingest(*documents("One.", " \n", "Two."))
    assert statuses(result) == ["created", "failed", "created"]
    assert result.failure is None
    alone = await Parts().ingest(*documents(" ", ""))
    assert alone.failure is alone.documents[0].error is not None


async def test_the_embedder_gets_as_many_calls_at_once_as_it_takes() -> None:
    parts = Parts(batch_size=1)
    parts.embedding.gate = asyncio.Event()
    ingesting = asyncio.create_task(parts.ingest(*documents(*(f"Text {number}." for number in range(10)))))
    await until(lambda: parts.embedding.active == 2)
    parts.embedding.gate.set()
    assert statuses(await ingesting) == ["created"] * 10
    assert parts.embedding.most_active == parts.embedding.concurrency == 2


async def test_a_failed_batch_fails_only_the_documents_in_it() -> None:
    parts = Parts(batch_size=2)
    parts.embedding.error, parts.embedding.failing = DOWN, "bad"
    result = await parts.ingest(*documents("One.", "Two.", "bad", "Three.", "Four."))
    shared = next(batch for batch in parts.embedding.batches if "bad" in batch)
    texts = ["One.", "Two.", "bad", "Three.", "Four."]
    assert statuses(result) == ["failed" if text in shared else "created" for text in texts]
    assert {name for _, name in parts.vectors.steps} == {str(texts.index(text)) for text in texts if text not in shared}


async def test_a_text_that_the_model_calls_too_long_is_cut_again() -> None:
    parts = Parts(batch_size=8)
    result = await parts.ingest(*documents("One.", "Two.", "This is a long one.", "Three.", "Four."))
    assert statuses(result) == ["created"] * 5
    points = parts.vectors.points["2"]
    assert len(points) == result.documents[2].chunks > 1
    assert "".join((point.gap or "") + point.text for point in points) == "This is a long one."
    assert not any("long" in point.text for point in points)
    assert [point.chunk_index for point in points] == list(range(len(points)))
    assert {point.chunk_count for point in points} == {len(points)}


async def test_a_text_of_which_the_model_takes_no_part_fails_its_document_alone() -> None:
    parts = Parts(batch_size=8)
    parts.embedding.refuses = "x"
    result = await parts.ingest(*documents("One.", "Two.", "a x b", "Three.", "Four."))
    assert statuses(result) == ["created", "created", "failed", "created", "created"]
    error = result.documents[2].error
    assert error is not None
    assert (error.error_code, error.param) == ("input_too_long", "documents.2.text")
    assert "2" not in parts.vectors.points


async def test_a_refused_write_fails_its_document_alone_and_nothing_is_published() -> None:
    parts = Parts()
    parts.vectors.error, parts.vectors.failing = BackendRefusedError("a point of it is wrong", answered=400), "1"
    result = await parts.ingest(*documents("One.", "Two.", "Three."))
    assert statuses(result) == ["created", "failed", "created"]
    assert ("publish", "1") not in parts.vectors.steps


async def test_headings_place_a_chunk_for_the_embedder_and_are_bounded() -> None:
    parts = Parts()
    heading = "x" * 10_000
    text = f"# {heading}\n\n## Limes\n\nThey are green.\n\n## Lemons\n\nThey are yellow."
    await parts.ingestor.ingest("docs", [Document(index=0, id="0", text=text, format="markdown")], 400, 0, call())
    points = parts.vectors.points["0"]
    assert all(len(title) <= 256 for point in points for title in point.headings)
    embedded = [text for batch in parts.embedding.batches for text in batch]
    assert sum(map(len, embedded)) < 3 * len(text)


async def test_a_cancelled_ingest_finishes_what_it_writes_and_embeds_no_more() -> None:
    parts = Parts(batch_size=1)
    parts.vectors.gate = asyncio.Event()
    first, second = documents("One.", "Two.")
    ingesting = asyncio.create_task(parts.ingest(first))
    await until(lambda: parts.vectors.steps)
    ingesting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ingesting
    assert parts.jobs.active_count
    parts.vectors.gate.set()
    await parts.jobs.drain()
    assert parts.vectors.steps == [("write", "0"), ("publish", "0")]

    parts.embedding.gate = asyncio.Event()
    ingesting = asyncio.create_task(parts.ingest(second))
    await until(lambda: len(parts.embedding.batches) == 2)
    ingesting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ingesting
    assert parts.jobs.active_count == 0
    assert ("write", "1") not in parts.vectors.steps
    assert len(asyncio.all_tasks()) == 1


async def test_others_get_their_turn_while_many_documents_are_cut() -> None:
    parts = Parts(batch_size=64)
    turns = 0
    done = False

    async def other() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await parts.ingest(*documents(*(f"Text number {number}." for number in range(100))))
    done = True
    await task
    assert turns > 100
