"""Documents that come from another collection: with their place in order and time, with their chunks and vectors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hartonomous.core.chunking import Chunk
from hartonomous.core.fingerprint import is_same_content
from hartonomous.pipelines.documents import Document, Prepared, Written
from tests.pipelines.test_ingest import Parts, documents, known, statuses

WRITTEN = Written(sequence=50, updated_at="2026-01-02T03:04:05.678Z")


def moved(text: str = "One.") -> Document:
    """Return a document that was written at sequence 50."""
    return replace(documents(text)[0], written=WRITTEN)


async def test_a_moved_document_keeps_its_place_in_order_and_time() -> None:
    parts = Parts()
    assert statuses(await parts.ingest(moved())) == ["created"]
    (point,) = parts.vectors.points["0"]
    assert (point.sequence, point.updated_at) == (50, WRITTEN.updated_at)


async def test_a_moved_document_never_replaces_a_newer_one() -> None:
    parts = Parts()
    parts.vectors.known = {"0": known(moved("Newer."), sequence=51)}
    assert statuses(await parts.ingest(moved())) == ["unchanged"]
    assert parts.vectors.steps == []


@pytest.mark.parametrize(("stored", "sequence"), [(49, 50), (50, 51)])
async def test_a_moved_document_that_is_made_otherwise_comes_after_what_is_there(stored: int, sequence: int) -> None:
    parts = Parts()
    parts.vectors.known = {"0": known(moved(), content_hash="other", sequence=stored)}
    assert statuses(await parts.ingest(moved())) == ["updated"]
    assert [point.sequence for point in parts.vectors.points["0"]] == [sequence]


async def test_a_document_that_brings_its_vectors_along_is_neither_cut_nor_embedded() -> None:
    parts = Parts()
    text = "One. Two."
    chunks = [Chunk(0, "One.", 0, 4, ()), Chunk(1, "Two.", 5, 9, ("Head",))]
    prepared = Prepared("f" * 64, chunks, [[1.0, 2.0], [3.0, 4.0]], [([1], [0.5]), ([], [])])
    assert statuses(await parts.ingest(replace(documents(text)[0], prepared=prepared))) == ["created"]
    assert parts.embedding.batches == []
    points = parts.vectors.points["0"]
    assert [(point.text, point.gap, point.headings) for point in points] == [
        ("One.", None, ()),
        ("Two.", " ", ("Head",)),
    ]
    assert [(point.dense, point.sparse) for point in points] == [([1.0, 2.0], ([1], [0.5])), ([3.0, 4.0], ([], []))]
    assert all(is_same_content(point.content_hash, "f" * 64) for point in points)


async def test_vectors_that_are_stored_already_are_not_written_again() -> None:
    parts = Parts()
    (document,) = documents("One.")
    parts.vectors.known = {"0": known(document, content_hash="f" * 64)}
    prepared = Prepared("f" * 64, [Chunk(0, "One.", 0, 4, ())], [[1.0, 2.0]], [([], [])])
    assert statuses(await parts.ingest(replace(document, prepared=prepared))) == ["unchanged"]
    assert parts.vectors.steps == []
