"""A document on its way into the store: what was sent, its chunks with what of each is embedded, its points."""

from __future__ import annotations

import asyncio
import datetime
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hartonomous.clients.embedding import Vector
from hartonomous.clients.points import ChunkPoint, DocumentState
from hartonomous.clients.schema import CollectionInfo
from hartonomous.clients.sparse import Bm25Encoder, Sparse
from hartonomous.core import fingerprint
from hartonomous.core.chunking import Chunk
from hartonomous.core.formats import Format
from hartonomous.errors import HartonomousError
from hartonomous.pipelines.batching import Announcement
from hartonomous.pipelines.measuring import Sizes

# Making points takes the interpreter for 0.2 ms each: beyond so many chunks a thread does it.
_POINTS_IN_THREAD = 16


Status = Literal["created", "updated", "unchanged", "failed"]


@dataclass(slots=True, frozen=True)
class Written:
    """When what is moved from one collection to another was written: its place in order and in time."""

    sequence: int
    updated_at: str


@dataclass(slots=True, frozen=True)
class Prepared:
    """The chunks and vectors that another collection of the same model has of a text, in order."""

    content_hash: str
    chunks: Sequence[Chunk]
    dense: Sequence[Vector]
    sparse: Sequence[Sparse]


@dataclass(slots=True, frozen=True)
class Document:
    """A document as it was sent.

    `index` is its place in the request: of a list from 0, of a stream's lines from 1. `path` is where its fields stand
    there, for errors (`documents.3`; empty for a line). `raw` is what has to be parsed before there is a text: HTML as
    it was sent, or a file. `pages` are the offsets in code points at which the second page and those after it begin.
    With `written` it is no newer than that: what was stored later stays. One that is `prepared` is neither cut nor
    embedded.
    """

    index: int
    text: str
    id: str
    format: Format = "text"
    title: str | None = None
    source: str | None = None
    metadata: Mapping[str, Any] | None = None
    pages: tuple[int, ...] = ()
    raw: str | Path | None = None
    path: str = ""
    written: Written | None = None
    prepared: Prepared | None = None

    def param(self, field: str) -> str:
        """Return the path of one of its fields in the request."""
        return f"{self.path}.{field}" if self.path else field


@dataclass(slots=True, frozen=True)
class DocumentResult:
    """What became of a document, and the tokens that it cost; `id` is None for a line that could not be read."""

    index: int
    id: str | None
    status: Status
    version: str | None = None
    chunks: int = 0
    error: HartonomousError | None = None
    tokens: float = 0.0


@dataclass(slots=True)
class Work:
    """A document that is neither unchanged nor failed, on its way to the store.

    `sequence` orders this ingest among those of the document; `writing` is set when the first chunk goes to the store.
    `cut_hash` is that of the content and of the chunks it is cut into.
    """

    document: Document
    state: DocumentState | None
    content_hash: str
    attributes_hash: str
    sequence: int
    updated_at: str
    chunks: list[Chunk] = field(default_factory=list)
    embedded_texts: list[str] = field(default_factory=list)
    sizes: Sizes | None = None
    cut_hash: str = ""
    announcement: Announcement | None = None
    writing: bool = False
    tokens: float = 0.0
    version: str = field(init=False)
    """What a caller sees as the document's version: a hash of all of it."""
    _ids: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.version = fingerprint.version(self.content_hash, self.attributes_hash)

    @property
    def embeds(self) -> bool:
        """Whether the text has to be embedded, or its attributes alone have changed."""
        return self.state is None or not fingerprint.is_same_content(self.state.content_hash, self.content_hash)

    def take(self, chunks: list[Chunk], embedded_texts: Sequence[str] = ()) -> None:
        """Let this be what the document is cut into, and what is embedded of it."""
        self.chunks, self.embedded_texts = chunks, list(embedded_texts)
        self._ids.clear()
        self.cut_hash = fingerprint.cut_hash(self.content_hash, ((chunk.start, chunk.end) for chunk in chunks))

    def point_id(self, index: int) -> str:
        """Return the id of a chunk's point, which is made once."""
        known = self._ids.get(index)
        if known is None:
            known = self._ids[index] = fingerprint.point_id(self.document.id, self.cut_hash, index)
        return known

    def point_ids(self) -> list[str]:
        """Return the ids of its chunks' points."""
        return [self.point_id(index) for index in range(len(self.chunks))]


async def make_points(work: Work, info: CollectionInfo, first: int, vectors: Sequence[Vector]) -> list[ChunkPoint]:
    """Return the points of a document's chunks from number `first` on, not visible yet, one for each vector."""
    if len(vectors) <= _POINTS_IN_THREAD:
        return _points(work, info, first, vectors)
    return await asyncio.to_thread(_points, work, info, first, vectors)


def _points(work: Work, info: CollectionInfo, first: int, vectors: Sequence[Vector]) -> list[ChunkPoint]:
    encoder = Bm25Encoder.for_language(info.language)
    last = first + len(vectors)
    parts = zip(work.chunks[first:last], work.embedded_texts[first:last], vectors, strict=True)
    return [_point(work, chunk, vector, encoder.document(text)) for chunk, text, vector in parts]


def prepared_points(work: Work, prepared: Prepared, first: int, count: int) -> list[ChunkPoint]:
    """Return the points of so many of a document's chunks from number `first` on, not visible yet."""
    some = slice(first, first + count)
    parts = zip(work.chunks[some], prepared.dense[some], prepared.sparse[some], strict=True)
    return [_point(work, chunk, dense, sparse) for chunk, dense, sparse in parts]


def _point(work: Work, chunk: Chunk, dense: Vector, sparse: Sparse) -> ChunkPoint:
    document = work.document
    return ChunkPoint(
        id=work.point_id(chunk.index),
        document_id=document.id,
        content_hash=work.cut_hash,
        attributes_hash=work.attributes_hash,
        version=work.version,
        sequence=work.sequence,
        updated_at=work.updated_at,
        format=document.format,
        title=document.title,
        source=document.source,
        metadata=dict(document.metadata or {}),
        chunk_index=chunk.index,
        chunk_count=len(work.chunks),
        text=chunk.text,
        start=chunk.start,
        end=chunk.end,
        headings=chunk.headings,
        page=_page(document, chunk),
        pages=document.pages or None if chunk.index == 0 else None,
        gap=_gap(document.text, work.chunks, chunk.index),
        dense=dense,
        sparse=sparse,
    )


def _page(document: Document, chunk: Chunk) -> int | None:
    """Return the page on which a chunk begins, from 1, where the format has pages."""
    return bisect_right(document.pages, chunk.start) + 1 if document.format == "pdf" else None


def _gap(text: str, chunks: Sequence[Chunk], index: int) -> str | None:
    """Return the blanks between a chunk and the one before it, None where they touch."""
    end = chunks[index - 1].end if index else 0
    return text[end : chunks[index].start] or None


def now() -> str:
    """Return the time as RFC 3339 in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
