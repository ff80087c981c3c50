"""The ingest pipeline: documents to chunks, vectors and points, an outcome for each document.

An unchanged document costs no embedding call; a change of title, source or metadata alone is a payload write; anything
else is chunked and embedded anew. Chunks of all documents of a request share full embedding batches. A document is
written unseen, then shown and its older version removed in one operation (`clients.vectors`), and once that has
begun it is finished even when the caller leaves. What fails for one document stays its own.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from hartonomous.clients.embedding import EmbeddingClient, Vector
from hartonomous.clients.points import ChunkPoint, DocumentState, next_sequence
from hartonomous.clients.schema import CollectionInfo, Schema
from hartonomous.clients.sparse import Bm25Encoder
from hartonomous.clients.vectors import VectorClient
from hartonomous.config import Rag
from hartonomous.core import fingerprint
from hartonomous.core.call import Call
from hartonomous.core.chunking import Chunk, estimate_tokens, split
from hartonomous.errors import ConflictError, HartonomousError, NotFoundError, ValidationFailedError
from hartonomous.metrics import Metrics
from hartonomous.pipelines.batching import SharedBatches
from hartonomous.pipelines.jobs import Jobs

Status = Literal["created", "updated", "unchanged", "failed"]

# Chunking takes the interpreter for a millisecond each thousand characters: beyond so many a thread does it.
_CHUNK_IN_THREAD = 2_000
# So does making points, 0.2 ms each: beyond so many chunks a thread does it.
_POINTS_IN_THREAD = 16
_HEADING = 256
# So many documents are written at a time: the others wait without a timeout, and searches find connections free.
_WRITERS = 16


@dataclass(slots=True, frozen=True)
class Document:
    """A document as it was sent; `index` is its place in the request."""

    index: int
    text: str
    id: str
    format: Literal["text", "markdown"] = "text"
    title: str | None = None
    source: str | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(slots=True, frozen=True)
class DocumentResult:
    """What became of a document."""

    id: str
    status: Status
    version: str | None = None
    chunks: int = 0
    error: HartonomousError | None = None


@dataclass(slots=True, frozen=True)
class IngestResult:
    """What became of every document, in the order of the request, and what it cost."""

    documents: list[DocumentResult]
    embedding_tokens: int

    @property
    def failure(self) -> HartonomousError | None:
        """The first failure when no document is stored or unchanged."""
        if any(document.status != "failed" for document in self.documents):
            return None
        return next((document.error for document in self.documents if document.error is not None), None)


@dataclass(slots=True)
class _Work:
    """A document that is neither unchanged nor failed, on its way to the store."""

    document: Document
    state: DocumentState | None
    content_hash: str
    attributes_hash: str
    chunks: list[Chunk]
    embedded_texts: list[str]

    @property
    def version(self) -> str:
        return fingerprint.version(self.content_hash, self.attributes_hash)

    @property
    def replaces(self) -> int:
        """The sequence of the version that was found, 0 when there was none."""
        return 0 if self.state is None else self.state.sequence

    @property
    def embeds(self) -> bool:
        return self.state is None or self.state.content_hash != self.content_hash


@dataclass(slots=True, frozen=True)
class _Sizes:
    """Tokens of a chunk, of what two neighbours share, and of what is embedded: a chunk with its headings."""

    chunk: int
    overlap: int
    embedded: int


class Ingestor:
    """Takes documents into a collection."""

    def __init__(
        self,
        embedding: EmbeddingClient,
        vectors: VectorClient,
        schema: Schema,
        jobs: Jobs,
        config: Rag,
        metrics: Metrics,
    ) -> None:
        self._embedding = embedding
        self._vectors = vectors
        self._schema = schema
        self._jobs = jobs
        self._writers = asyncio.Semaphore(_WRITERS)
        self._config = config
        self._outcomes = {
            status: metrics.documents.labels(status) for status in ("created", "updated", "unchanged", "failed")
        }

    @property
    def jobs(self) -> Jobs:
        """The writes under way, which go on when their request is cancelled."""
        return self._jobs

    async def ingest(
        self, collection: str, documents: Sequence[Document], max_tokens: int, overlap_tokens: int, call: Call
    ) -> IngestResult:
        """Take `documents` into `collection`, which is made if there is none.

        Raises any of our errors when nothing at all could be tried (embedding service or vector store down, the
        collection made by another model); a failure of single documents is in their results.
        """
        current = await self._embedding.fingerprint(call)
        info = await self._ensure(collection, current, call)
        sizes = await self._sizes(max_tokens, overlap_tokens, call)
        results, latest = _latest(documents)
        try:
            states = await self._vectors.states(collection, list(latest), call)
        except NotFoundError:
            # Deleted by another process since we looked: it is made again, as if it had never been there.
            self._schema.forget(collection)
            info = await self._ensure(collection, current, call)
            states = {}
        works = []
        for document in latest.values():
            outcome = await self._prepare(document, states.get(document.id), info, sizes)
            if isinstance(outcome, _Work):
                works.append(outcome)
            else:
                results[document.index] = outcome
        tokens = await self._store(collection, works, info, results, call)
        for result in results.values():
            self._outcomes[result.status].inc()
        return IngestResult([results[index] for index in sorted(results)], tokens)

    async def _ensure(self, collection: str, current: fingerprint.EmbeddingFingerprint, call: Call) -> CollectionInfo:
        try:
            return await self._schema.ensure(collection, current, self._config.retrieval.language, call)
        except ConflictError as error:
            error.param = "collection"
            raise

    async def _sizes(self, max_tokens: int, overlap_tokens: int, call: Call) -> _Sizes:
        """Return what was asked for, or what the model takes beside its special tokens if that is less."""
        context = (await self._embedding.model(call)).context
        room = max_tokens * 5 // 4 if context is None else max(16, context - 16)
        chunk = min(max_tokens, room)
        return _Sizes(chunk, min(overlap_tokens, chunk // 2), min(max_tokens * 5 // 4, room))

    async def _prepare(
        self, document: Document, state: DocumentState | None, info: CollectionInfo, sizes: _Sizes
    ) -> _Work | DocumentResult:
        content_hash = fingerprint.content_hash(
            document.text,
            format=document.format,
            max_tokens=sizes.chunk,
            overlap_tokens=sizes.overlap,
            fingerprint=info.fingerprint,
        )
        attributes_hash = fingerprint.attributes_hash(document.title, document.source, document.metadata)
        if state is not None and (state.content_hash, state.attributes_hash) == (content_hash, attributes_hash):
            return DocumentResult(document.id, "unchanged", state.version, state.chunk_count)
        work = _Work(document, state, content_hash, attributes_hash, [], [])
        if work.embeds:
            work.chunks, work.embedded_texts = await _chunk(document, sizes)
            if not work.chunks:
                error = ValidationFailedError(
                    "The document has no text.", param=f"documents.{document.index}.text", code="empty_document"
                )
                return DocumentResult(document.id, "failed", error=error)
        return work

    async def _store(
        self,
        collection: str,
        works: Sequence[_Work],
        info: CollectionInfo,
        results: dict[int, DocumentResult],
        call: Call,
    ) -> int:
        """Embed and write all of `works` side by side; return the tokens that the embedding service counted."""
        batches = SharedBatches(self._embedding, [work.embedded_texts for work in works], call)
        writes = (
            self._store_one(collection, work, info, partial(batches.of, index), call)
            for index, work in enumerate(works)
        )
        try:
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
        finally:
            batches.cancel()
        for work, outcome in zip(works, outcomes, strict=True):
            results[work.document.index] = _result(work.document, outcome)
        return batches.tokens

    async def _store_one(
        self,
        collection: str,
        work: _Work,
        info: CollectionInfo,
        embed: Callable[[], Awaitable[list[Vector]]],
        call: Call,
    ) -> DocumentResult:
        try:
            vectors = await embed()
        except ValidationFailedError as error:
            error.param = f"documents.{work.document.index}.text"
            raise
        if not work.embeds:
            return await self._jobs.run(self._in_turn(self._write_attributes(collection, work, call)))
        return await self._jobs.run(self._in_turn(self._write(collection, work, info, vectors, call)))

    async def _in_turn(self, write: Awaitable[DocumentResult]) -> DocumentResult:
        """Bound the writes under way, those whose callers have left included."""
        async with self._writers:
            return await write

    async def _write(
        self, collection: str, work: _Work, info: CollectionInfo, vectors: Sequence[Vector], call: Call
    ) -> DocumentResult:
        if len(vectors) <= _POINTS_IN_THREAD:
            points = _points(work, info, vectors)
        else:
            points = await asyncio.to_thread(_points, work, info, vectors)
        await self._vectors.write(collection, points, call)
        ids = [point.id for point in points]
        await self._vectors.publish(collection, work.document.id, ids, points[0].sequence, call)
        status: Status = "created" if work.state is None else "updated"
        return DocumentResult(work.document.id, status, work.version, len(points))

    async def _write_attributes(self, collection: str, work: _Work, call: Call) -> DocumentResult:
        assert work.state is not None
        document = work.document
        await self._vectors.set_attributes(
            collection,
            work.state,
            title=document.title,
            source=document.source,
            metadata=document.metadata or {},
            attributes_hash=work.attributes_hash,
            version=work.version,
            sequence=next_sequence(work.replaces),
            updated_at=_now(),
            call=call,
        )
        return DocumentResult(document.id, "updated", work.version, work.state.chunk_count)


def _points(work: _Work, info: CollectionInfo, vectors: Sequence[Vector]) -> list[ChunkPoint]:
    document, encoder = work.document, Bm25Encoder.for_language(info.language)
    sequence, now = next_sequence(work.replaces), _now()
    parts = zip(work.chunks, work.embedded_texts, _gaps(document.text, work.chunks), vectors, strict=True)
    return [
        ChunkPoint(
            id=fingerprint.point_id(document.id, work.content_hash, chunk.index),
            dense=vector,
            sparse=encoder.document(text),
            document_id=document.id,
            content_hash=work.content_hash,
            attributes_hash=work.attributes_hash,
            version=work.version,
            chunk_index=chunk.index,
            chunk_count=len(work.chunks),
            text=chunk.text,
            start=chunk.start,
            end=chunk.end,
            headings=chunk.headings,
            format=document.format,
            title=document.title,
            source=document.source,
            metadata=dict(document.metadata or {}),
            sequence=sequence,
            updated_at=now,
            gap=gap,
        )
        for chunk, text, gap, vector in parts
    ]


def _result(document: Document, outcome: DocumentResult | BaseException) -> DocumentResult:
    """Return a document's result; a failure that is none of ours is a bug, and goes up."""
    if isinstance(outcome, HartonomousError):
        return DocumentResult(document.id, "failed", error=outcome)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


async def _chunk(document: Document, sizes: _Sizes) -> tuple[list[Chunk], list[str]]:
    """Return the chunks of a document, and what of each is embedded."""
    if len(document.text) > _CHUNK_IN_THREAD:
        return await asyncio.to_thread(_cut, document, sizes)
    # Many short ones in a row are much work as well: others get their turn between two.
    await asyncio.sleep(0)
    return _cut(document, sizes)


def _cut(document: Document, sizes: _Sizes) -> tuple[list[Chunk], list[str]]:
    markdown = document.format == "markdown"
    chunks = [
        _with_short_headings(chunk)
        for chunk in split(document.text, markdown=markdown, max_tokens=sizes.chunk, overlap_tokens=sizes.overlap)
    ]
    return chunks, [_embedded_text(chunk, sizes.embedded) for chunk in chunks]


def _with_short_headings(chunk: Chunk) -> Chunk:
    """A heading is repeated in every chunk under it: one of a megabyte would make a thousand of them."""
    if all(len(heading) <= _HEADING for heading in chunk.headings):
        return chunk
    return replace(chunk, headings=tuple(heading[:_HEADING] for heading in chunk.headings))


def _embedded_text(chunk: Chunk, limit: int) -> str:
    """Return what the embedder and BM25 see: the headings above a chunk place it; what is cited is the chunk alone.

    Where not all of them fit beside it into `limit` tokens, the innermost are kept.
    """
    if not chunk.headings:
        return chunk.text
    lines = [chunk.text]
    room = limit - estimate_tokens(chunk.text)
    for heading in reversed(chunk.headings):
        room -= estimate_tokens(heading) + 1
        if room < 0:
            break
        lines.append(heading)
    return "\n".join(reversed(lines))


def _gaps(text: str, chunks: Sequence[Chunk]) -> Iterator[str | None]:
    """Yield what stands between each chunk and the ones before it: blanks, or None where they touch."""
    end = 0
    for chunk in chunks:
        yield text[end : chunk.start] or None
        end = max(end, chunk.end)


def _latest(documents: Sequence[Document]) -> tuple[dict[int, DocumentResult], dict[str, Document]]:
    """Return the results of documents that a later one of the same id replaces, and the ones that count."""
    latest = {document.id: document for document in documents}
    replaced = {
        document.index: DocumentResult(
            document.id,
            "failed",
            error=ConflictError(
                "A later document of this request has the same id.",
                param=f"documents.{document.index}.id",
                code="duplicate_document_id",
            ),
        )
        for document in documents
        if latest[document.id] is not document
    }
    return replaced, latest


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
