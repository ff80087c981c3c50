"""The ingest pipeline: documents to chunks, vectors and points, an outcome for each document.

An unchanged document costs no embedding call; a change of title, source or metadata alone is a payload write; anything
else is chunked and embedded anew. Chunks of all documents of a request share full embedding batches. A document is
written unseen, then shown and its older version removed in one operation (`clients.vectors`), and once that has
begun it is finished even when the caller leaves. What fails for one document stays its own.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from hartonomous.clients.embedding import EmbeddingClient, Vector
from hartonomous.clients.points import ChunkPoint, DocumentState, next_sequence
from hartonomous.clients.schema import CollectionInfo, Schema
from hartonomous.clients.sparse import Bm25Encoder
from hartonomous.clients.vectors import VectorClient
from hartonomous.config import Rag
from hartonomous.core import fingerprint
from hartonomous.core.call import Call
from hartonomous.core.chunking import Chunk, split
from hartonomous.errors import ConflictError, HartonomousError, ValidationFailedError
from hartonomous.metrics import Metrics
from hartonomous.pipelines.jobs import Jobs

Status = Literal["created", "updated", "unchanged", "failed"]

# Chunking a long text takes the interpreter for a while: beyond this many characters a thread does it.
_CHUNK_IN_THREAD = 20_000


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


@dataclass(slots=True)
class _Work:
    """A document that is neither unchanged nor failed, on its way to the store."""

    document: Document
    state: DocumentState | None
    content_hash: str
    attributes_hash: str
    chunks: list[Chunk]

    @property
    def version(self) -> str:
        return fingerprint.version(self.content_hash, self.attributes_hash)

    @property
    def embeds(self) -> bool:
        return self.state is None or self.state.content_hash != self.content_hash


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
        self._config = config
        self._outcomes = {
            status: metrics.documents.labels(status) for status in ("created", "updated", "unchanged", "failed")
        }

    async def ingest(
        self, collection: str, documents: Sequence[Document], max_tokens: int, overlap_tokens: int, call: Call
    ) -> IngestResult:
        """Take `documents` into `collection`, which is made if there is none.

        Raises any of our errors when nothing at all could be tried (embedding service or vector store down, the
        collection made by another model); a failure of single documents is in their results.
        """
        current = await self._embedding.fingerprint(call)
        info = await self._schema.ensure(collection, current, self._config.retrieval.language, call)
        limit = await self._fitting(max_tokens, call)
        overlap = min(overlap_tokens, limit // 2)
        results, latest = _latest(documents)
        states = await self._vectors.states(collection, list(latest), call)
        works = []
        for document in latest.values():
            outcome = await self._prepare(document, states.get(document.id), info, limit, overlap)
            if isinstance(outcome, _Work):
                works.append(outcome)
            else:
                results[document.index] = outcome
        tokens = await self._store(collection, works, info, results, call)
        for result in results.values():
            self._outcomes[result.status].inc()
        return IngestResult([results[index] for index in sorted(results)], tokens)

    async def _fitting(self, max_tokens: int, call: Call) -> int:
        """Return `max_tokens`, or what the model takes beside its special tokens if that is less."""
        context = (await self._embedding.model(call)).context
        return max_tokens if context is None else max(16, min(max_tokens, context - 16))

    async def _prepare(
        self,
        document: Document,
        state: DocumentState | None,
        info: CollectionInfo,
        max_tokens: int,
        overlap_tokens: int,
    ) -> _Work | DocumentResult:
        content_hash = fingerprint.content_hash(
            document.text,
            format=document.format,
            max_tokens=max_tokens,
            overlap_tokens=overlap_tokens,
            fingerprint=info.fingerprint,
        )
        attributes_hash = fingerprint.attributes_hash(document.title, document.source, document.metadata)
        if state is not None and (state.content_hash, state.attributes_hash) == (content_hash, attributes_hash):
            return DocumentResult(document.id, "unchanged", state.version, state.chunk_count)
        work = _Work(document, state, content_hash, attributes_hash, [])
        if work.embeds:
            work.chunks = await _chunk(document, max_tokens, overlap_tokens)
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
        embeddings = _Embeddings(self._embedding, works, call)
        outcomes = await asyncio.gather(
            *(self._store_one(collection, work, info, embeddings, call) for work in works), return_exceptions=True
        )
        for work, outcome in zip(works, outcomes, strict=True):
            results[work.document.index] = _result(work.document, outcome)
        return embeddings.tokens

    async def _store_one(
        self, collection: str, work: _Work, info: CollectionInfo, embeddings: _Embeddings, call: Call
    ) -> DocumentResult:
        if not work.embeds:
            return await self._jobs.run(self._write_attributes(collection, work, call))
        vectors = await embeddings.of(work)
        return await self._jobs.run(self._write(collection, work, info, vectors, call))

    async def _write(
        self, collection: str, work: _Work, info: CollectionInfo, vectors: Sequence[Vector], call: Call
    ) -> DocumentResult:
        points = self._points(work, info, vectors)
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
            sequence=next_sequence(),
            updated_at=_now(),
            call=call,
        )
        return DocumentResult(document.id, "updated", work.version, work.state.chunk_count)

    @staticmethod
    def _points(work: _Work, info: CollectionInfo, vectors: Sequence[Vector]) -> list[ChunkPoint]:
        document, encoder = work.document, Bm25Encoder.for_language(info.language)
        sequence, now = next_sequence(), _now()
        return [
            ChunkPoint(
                id=fingerprint.point_id(document.id, work.content_hash, chunk.index),
                dense=vector,
                sparse=encoder.document(_embedded_text(chunk)),
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
            )
            for chunk, vector in zip(work.chunks, vectors, strict=True)
        ]


class _Embeddings:
    """The vectors of all chunks of a request, embedded in full batches across documents.

    A document waits only for the batches that hold its chunks, so the first ones are written while the last ones are
    still being embedded, and a failed batch fails only its own documents.
    """

    def __init__(self, client: EmbeddingClient, works: Sequence[_Work], call: Call) -> None:
        self.tokens = 0
        self._client = client
        self._call = call
        flat = [(work, _embedded_text(chunk)) for work in works for chunk in work.chunks]
        size = client.batch_size
        batches = [flat[start : start + size] for start in range(0, len(flat), size)]
        self._tasks: dict[int, list[tuple[asyncio.Task[list[Vector]], slice]]] = {}
        for batch in batches:
            task = asyncio.create_task(self._embed([text for _, text in batch]))  # noqa: RUF006 - kept below
            task.add_done_callback(_retrieved)
            for work, place in _runs(batch):
                self._tasks.setdefault(id(work), []).append((task, place))

    async def of(self, work: _Work) -> list[Vector]:
        """Return the vectors of one document's chunks, in order."""
        parts = self._tasks[id(work)]
        try:
            return [vector for task, place in parts for vector in (await asyncio.shield(task))[place]]
        except asyncio.CancelledError:
            for task, _ in parts:
                task.cancel()
            raise

    async def _embed(self, texts: Sequence[str]) -> list[Vector]:
        embedded = await self._client.embed_documents(texts, self._call)
        self.tokens += embedded.tokens
        return embedded.vectors


def _result(document: Document, outcome: DocumentResult | BaseException) -> DocumentResult:
    """Return a document's result; a failure that is none of ours is a bug, and goes up."""
    if isinstance(outcome, HartonomousError):
        return DocumentResult(document.id, "failed", error=outcome)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _runs(batch: Sequence[tuple[_Work, str]]) -> Iterator[tuple[_Work, slice]]:
    """Yield each document of a batch with the place of its chunks in it."""
    start = 0
    for _, group in groupby(batch, key=lambda item: id(item[0])):
        items = list(group)
        yield items[0][0], slice(start, start + len(items))
        start += len(items)


def _retrieved(task: asyncio.Task[list[Vector]]) -> None:
    """Read a failure that every document of the batch may have stopped waiting for."""
    if not task.cancelled():
        task.exception()


async def _chunk(document: Document, max_tokens: int, overlap_tokens: int) -> list[Chunk]:
    markdown = document.format == "markdown"
    if len(document.text) <= _CHUNK_IN_THREAD:
        return split(document.text, markdown=markdown, max_tokens=max_tokens, overlap_tokens=overlap_tokens)
    return await asyncio.to_thread(
        split, document.text, markdown=markdown, max_tokens=max_tokens, overlap_tokens=overlap_tokens
    )


def _embedded_text(chunk: Chunk) -> str:
    """Return what the embedder and BM25 see: the headings above a chunk place it; what is cited is the chunk alone."""
    return "\n".join((*chunk.headings, chunk.text)) if chunk.headings else chunk.text


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
