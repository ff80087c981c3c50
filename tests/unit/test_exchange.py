"""The lines of an export: what is read and what is refused, with the path of what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hartonomous.errors import ValidationFailedError
from hartonomous.pipelines.documents import Document
from hartonomous.pipelines.exchange import End, Header, read_line

FINGERPRINT = {"model": "tiny", "dimension": 32, "query_prefix": "", "document_prefix": ""}
CHUNK = {"start": 0, "end": 1, "headings": [], "dense": [1.0] * 32, "sparse": {"indices": [1], "values": [1.0]}}
WITH = {"id": "a", "text": "a", "content_hash": "0" * 64}


def encoded(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def header(**changes: Any) -> bytes:
    """Return a header with these changes."""
    usual = {"hartonomous_export": 1, "collection": "docs", "fingerprint": FINGERPRINT, "language": "english"}
    return encoded(usual | {"vectors": False} | changes)


def refusal(line: Any, dimension: int | None = None) -> ValidationFailedError:
    """Return why a line is refused."""
    with pytest.raises(ValidationFailedError) as caught:
        read_line(encoded(line), 7, dimension=dimension)
    return caught.value


def test_a_header_is_read_as_it_was_written() -> None:
    read = Header.read(header())
    assert (read.collection, read.language, read.vectors, read.fingerprint.as_dict()) == (
        "docs",
        "english",
        False,
        FINGERPRINT,
    )
    assert Header.read(read.line()) == read


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"", "This is no export: its first line is not a header."),
        (b'{"id": "a", "text": "a"}\n', "`hartonomous ingest -` takes documents."),
        (header(hartonomous_export=2), "The export has version 2; this Hartonomous reads version 1."),
        (header(language="klingon"), "The export's language 'klingon' is not known here."),
        (header(collection="../x"), "The header's collection has the wrong form."),
        (header(fingerprint={}), "The header's fingerprint is not one."),
    ],
)
def test_what_is_no_header_is_refused(line: bytes, sentence: str) -> None:
    with pytest.raises(ValidationFailedError) as caught:
        Header.read(line)
    assert sentence in caught.value.message


def test_a_document_is_read_with_what_stands_there_and_defaults_for_the_rest() -> None:
    assert read_line(b'{"id": "a", "text": "b"}', 7, dimension=None) == Document(7, "b", "a")
    full = {"title": "t", "source": "s", "metadata": {"n": 1}, "format": "pdf", "pages": [0, 1]}
    read = read_line(encoded({"id": "a", "text": "b"} | full), 7, dimension=None)
    assert read == Document(7, "b", "a", "pdf", "t", "s", {"n": 1}, (0, 1))
    assert read_line(End(3, 4).line(), 8, dimension=None) == End(3, 4)


def test_chunks_and_vectors_are_read_only_where_they_are_wanted() -> None:
    line = encoded(WITH | {"chunks": [CHUNK]})
    with_vectors, without = read_line(line, 7, dimension=32), read_line(line, 7, dimension=None)
    assert isinstance(with_vectors, Document)
    assert isinstance(without, Document)
    assert without.prepared is None
    assert with_vectors.prepared is not None
    assert (with_vectors.prepared.content_hash, with_vectors.prepared.dense) == ("0" * 64, [[1.0] * 32])
    assert with_vectors.prepared.sparse == [([1], [1.0])]
    (chunk,) = with_vectors.prepared.chunks
    assert (chunk.index, chunk.text, chunk.start, chunk.end, chunk.headings) == (0, "a", 0, 1, ())


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"{nonsense", "The line is not valid JSON."),
        (b"[1]", "The line is no JSON object."),
        ({"text": "a"}, "id is required."),
        ({"id": "a"}, "text is required."),
        ({"id": "a\nb", "text": "a"}, "id must be 1 to 256 characters without control characters."),
        ({"id": "a", "text": 5}, "text must be a string."),
        ({"id": "a", "text": "a", "metadata": []}, "metadata must be an object."),
        ({"id": "a", "text": "a", "format": "word"}, "format must be one of text, markdown, html, pdf, docx."),
        ({"id": "a", "text": "a", "pages": [2]}, "pages must be offsets into the text, in order."),
        ({"id": "a", "text": "a", "colour": 1}, "colour is not a known field."),
    ],
)
def test_a_bad_line_is_refused_with_its_reason(line: Any, sentence: str) -> None:
    assert refusal(line).message == sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"content_hash": "x"}, "content_hash is no hash."),
        ({"chunks": []}, "chunks must not be empty."),
        ({"chunks": [5]}, "chunks.0 must be an object."),
        ({"chunks": [CHUNK | {"end": 9}]}, "chunks.0.end does not stand in the text."),
        ({"chunks": [CHUNK | {"dense": [1.0] * 31}]}, "chunks.0.dense must be 32 numbers that are not all zero."),
        ({"chunks": [CHUNK | {"dense": [0] * 32}]}, "chunks.0.dense must be 32 numbers that are not all zero."),
        ({"chunks": [CHUNK | {"dense": [1e300] * 32}]}, "chunks.0.dense must be numbers of 32 bits."),
        ({"chunks": [CHUNK | {"dense": [True] * 32}]}, "chunks.0.dense must be numbers of 32 bits."),
        ({"chunks": [CHUNK | {"sparse": {"indices": [1], "values": []}}]}, "chunks.0.sparse must have an index"),
        ({"chunks": [CHUNK | {"sparse": {"indices": [1, 1], "values": [1, 2]}}]}, "sparse.indices must not have one"),
        ({"chunks": [CHUNK | {"headings": [1]}]}, "chunks.0.headings must be a list of strings."),
        ({"text": "ab"}, "chunks leave out a part of the text."),
        ({"chunks": [CHUNK, CHUNK]}, "chunks.1 is not behind the one before."),
    ],
)
def test_chunks_and_vectors_that_are_not_right_are_refused_with_their_path(changes: Any, sentence: str) -> None:
    error = refusal(WITH | {"chunks": [CHUNK]} | changes, 32)
    assert sentence in error.message
    assert error.param is not None
    assert error.message.startswith(error.param)
