"""The lines of an export: a header, a document each, and a last one by which a file that was cut off is known.

    {"hartonomous_export": 1, "collection": "docs", "fingerprint": {...}, "language": "english", "vectors": false}
    {"id": "a", "title": null, "source": null, "metadata": {}, "format": "text", "text": "..."}
    {"hartonomous_export_end": {"documents": 1, "chunks": 3}}

A document's line is that of an ingest, with `pages` (offsets at which the second page and those after it begin) where
it has some. With vectors it also says by which hash its content is known, and how it is cut: `content_hash`, `chunks`.
The text is the one that was made of a file or of HTML, whatever `format` says: it is not parsed again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar, cast, get_args

from hartonomous import codec
from hartonomous.clients.moving import WholeDocument
from hartonomous.clients.sparse import Sparse, languages
from hartonomous.config import COLLECTION_PATTERN
from hartonomous.core.chunking import Chunk
from hartonomous.core.fingerprint import EmbeddingFingerprint
from hartonomous.core.formats import Format
from hartonomous.errors import ValidationFailedError
from hartonomous.pipelines.documents import Document, Prepared

VERSION = 1
_BEGIN, _END = "hartonomous_export", "hartonomous_export_end"
_DOCUMENT = ("id", "title", "source", "metadata", "format", "text", "pages", "content_hash", "chunks")
_CHUNK = ("start", "end", "headings", "dense", "sparse")
_HASH = re.compile("[0-9a-f]{64}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_ID_CHARS = 256
_INDICES = 2**32
_LARGEST = 3.4028234e38

T = TypeVar("T")


@dataclass(slots=True, frozen=True)
class Header:
    """The first line: which collection it was, what made its vectors, and whether they are there."""

    collection: str
    fingerprint: EmbeddingFingerprint
    language: str
    vectors: bool

    def line(self) -> bytes:
        """Return the line."""
        return _line(
            {
                _BEGIN: VERSION,
                "collection": self.collection,
                "fingerprint": self.fingerprint.as_dict(),
                "language": self.language,
                "vectors": self.vectors,
            }
        )

    @classmethod
    def read(cls, line: bytes) -> Header:
        """Read the line; raise ValidationFailedError when it is none of an export, or of a later version."""
        try:
            value = codec.loads(line)
        except codec.NotJsonError:
            value = None
        version = value.get(_BEGIN) if isinstance(value, dict) else None
        if type(version) is not int:
            raise _wrong("This is no export: its first line is not a header. `hartonomous ingest -` takes documents.")
        if version != VERSION:
            raise _wrong(f"The export has version {version}; this Hartonomous reads version {VERSION}.")
        try:
            header = cls(
                _field(value, "collection", str),
                EmbeddingFingerprint.from_dict(_field(value, "fingerprint", dict)),
                _field(value, "language", str),
                _field(value, "vectors", bool),
            )
        except ValueError as error:
            raise _wrong("The header's fingerprint is not one.") from error
        if not re.fullmatch(COLLECTION_PATTERN, header.collection):
            raise _wrong("The header's collection has the wrong form.")
        if header.language not in languages():
            raise _wrong(f"The export's language {header.language!r} is not known here.")
        return header


@dataclass(slots=True, frozen=True)
class End:
    """The last line: how much there was."""

    documents: int
    chunks: int

    def line(self) -> bytes:
        """Return the line."""
        return _line({_END: {"documents": self.documents, "chunks": self.chunks}})


def document_line(document: WholeDocument) -> bytes:
    """Return a document's line, with its vectors if it came with some."""
    first = document.chunks[0]
    text = document.text
    value: dict[str, Any] = {
        "id": first.document_id,
        "title": first.title,
        "source": first.source,
        "metadata": first.metadata,
        "format": first.format,
        "text": text,
    }
    if first.pages:
        value["pages"] = first.pages
    if document.vectors is not None:
        value["content_hash"] = first.content_hash
        value["chunks"] = [
            {
                "start": chunk.start,
                "end": chunk.end,
                "headings": chunk.headings,
                "dense": vectors.dense,
                "sparse": {"indices": vectors.sparse[0], "values": vectors.sparse[1]},
            }
            for chunk, vectors in zip(document.chunks, document.vectors, strict=True)
        ]
    return _line(value)


def read_line(line: bytes, number: int, *, dimension: int | None) -> Document | End:
    """Read a line behind the header; `number` counts from 1.

    With `dimension` a document brings its chunks and vectors of so many numbers along, else they are passed over.
    Raises ValidationFailedError, `param` being the path of the first bad field.
    """
    try:
        value = codec.loads(line)
    except codec.NotJsonError as error:
        raise _wrong("The line is not valid JSON.") from error
    if not isinstance(value, dict):
        raise _wrong("The line is no JSON object.")
    if _END in value:
        counts = _field(value, _END, dict)
        return End(_field(counts, "documents", int), _field(counts, "chunks", int))
    _refuse_unknown(value, _DOCUMENT, "")
    text = _field(value, "text", str)
    prepared = None if dimension is None else _prepared(value, text, dimension)
    return Document(
        index=number,
        text=text,
        id=_id(value),
        format=_format(value),
        title=_optional(value, "title", str),
        source=_optional(value, "source", str),
        metadata=_optional(value, "metadata", dict),
        pages=_pages(value, text),
        prepared=prepared,
    )


def _prepared(value: Mapping[str, Any], text: str, dimension: int) -> Prepared:
    content_hash = _field(value, "content_hash", str)
    if not _HASH.fullmatch(content_hash):
        raise _bad("content_hash", "is no hash")
    items = _field(value, "chunks", list)
    if not items:
        raise _bad("chunks", "must not be empty")
    chunks, dense, sparse = [], [], []
    for index, item in enumerate(items):
        path = f"chunks.{index}."
        if not isinstance(item, dict):
            raise _bad(path[:-1], "must be an object")
        _refuse_unknown(item, _CHUNK, path)
        chunks.append(_chunk(item, index, text, path))
        dense.append(_dense(item, dimension, path))
        sparse.append(_sparse(item, path))
    _check_order(chunks, text)
    return Prepared(content_hash, chunks, dense, sparse)


def _chunk(item: Mapping[str, Any], index: int, text: str, path: str) -> Chunk:
    start, end = _field(item, "start", int, path), _field(item, "end", int, path)
    if not 0 <= start < end <= len(text):
        raise _bad(f"{path}end", "does not stand in the text")
    headings = _field(item, "headings", list, path)
    if not all(isinstance(heading, str) for heading in headings):
        raise _bad(f"{path}headings", "must be a list of strings")
    return Chunk(index, text[start:end], start, end, tuple(headings))


def _check_order(chunks: Sequence[Chunk], text: str) -> None:
    """Refuse chunks that do not go on, or leave out something that can be seen."""
    for before, chunk in pairwise(chunks):
        if chunk.start < before.start or chunk.end <= before.end:
            raise _bad(f"chunks.{chunk.index}", "is not behind the one before")
        if text[before.end : chunk.start].strip():
            raise _bad(f"chunks.{chunk.index}", "leaves out a part of the text")
    if text[: chunks[0].start].strip() or text[chunks[-1].end :].strip():
        raise _bad("chunks", "leave out a part of the text")


def _dense(item: Mapping[str, Any], dimension: int, path: str) -> list[float]:
    numbers = _numbers(_field(item, "dense", list, path), f"{path}dense")
    if len(numbers) != dimension or not any(numbers):
        raise _bad(f"{path}dense", f"must be {dimension} numbers that are not all zero")
    return numbers


def _sparse(item: Mapping[str, Any], path: str) -> Sparse:
    value = _field(item, "sparse", dict, path)
    indices = _field(value, "indices", list, f"{path}sparse.")
    values = _numbers(_field(value, "values", list, f"{path}sparse."), f"{path}sparse.values")
    if len(indices) != len(values) or not all(type(index) is int and 0 <= index < _INDICES for index in indices):
        raise _bad(f"{path}sparse", "must have an index for each value")
    if len(set(indices)) != len(indices):
        raise _bad(f"{path}sparse.indices", "must not have one twice")
    return indices, values


def _numbers(values: list[Any], path: str) -> list[float]:
    if not {float, int}.issuperset(map(type, values)) or max(map(abs, values), default=0) > _LARGEST:
        raise _bad(path, "must be numbers of 32 bits")
    return values


def _id(value: Mapping[str, Any]) -> str:
    name = _field(value, "id", str)
    if not 1 <= len(name) <= _ID_CHARS or _CONTROL.search(name):
        raise _bad("id", f"must be 1 to {_ID_CHARS} characters without control characters")
    return name


def _format(value: Mapping[str, Any]) -> Format:
    name = _optional(value, "format", str) or "text"
    known = get_args(Format)
    if name not in known:
        raise _bad("format", f"must be one of {', '.join(known)}")
    return cast("Format", name)


def _pages(value: Mapping[str, Any], text: str) -> tuple[int, ...]:
    pages = _optional(value, "pages", list) or []
    if not all(type(page) is int and 0 <= page <= len(text) for page in pages) or sorted(pages) != pages:
        raise _bad("pages", "must be offsets into the text, in order")
    return tuple(pages)


def _field(value: Mapping[str, Any], name: str, kind: type[T], path: str = "") -> T:
    if name not in value:
        raise _bad(f"{path}{name}", "is required")
    if type(value[name]) is not kind:
        raise _bad(f"{path}{name}", f"must be {_KINDS[kind]}")
    return cast("T", value[name])


def _optional(value: Mapping[str, Any], name: str, kind: type[T]) -> T | None:
    return None if value.get(name) is None else _field(value, name, kind)


_KINDS: Mapping[type, str] = {
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def _refuse_unknown(value: Mapping[str, Any], known: Sequence[str], path: str) -> None:
    for name in value:
        if name not in known:
            raise _bad(f"{path}{name[:64]}", "is not a known field")


def _line(value: Mapping[str, Any]) -> bytes:
    return codec.dumps(value) + b"\n"


def _bad(path: str, what: str) -> ValidationFailedError:
    return ValidationFailedError(f"{path} {what}.", param=path)


def _wrong(sentence: str) -> ValidationFailedError:
    return ValidationFailedError(sentence)
