"""The ingest pipeline: documents to chunks, vectors and points, an outcome for each document.

An unchanged document costs no embedding call; a change of title, source or metadata alone is a payload write; anything
else is chunked and embedded anew. Chunks of all documents of a request share full embedding batches. A document is
written unseen, then shown, then its older version is removed (`clients.vectors`), and once that has begun it is
finished even when the caller leaves. What fails for one document stays its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from hartonomous.clients.embedding import EmbeddingClient, Vector
from hartonomous.clients.points import DocumentState, next_sequence
from hartonomous.clients.schema import CollectionInfo, Schema
from hartonomous.clients.vectors import VectorClient
from hartonomous.config import Rag
from hartonomous.core import fingerprint
from hartonomous.core.call import Call
from hartonomous.errors import ConflictError, HartonomousError, NotFoundError, ValidationFailedError
from hartonomous.metrics import Metrics
from hartonomous.pipelines.batching import SharedBatches
from hartonomous.pipelines.documents import (
    Document,
    DocumentResult,
    Sizes,
    Status,
    Work,
    cut_document,
    make_points,
    now,
)
from hartonomous.pipelines.jobs import Jobs

# So many documents are written at a time: the others wait without a timeout, and searches find connections free.
_WRITERS = 16


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
            if isinstance(outcome, Work):
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

    async def _sizes(self, max_tokens: int, overlap_tokens: int, call: Call) -> Sizes:
        """Return what was asked for, or what the model takes beside its special tokens if that is less."""
        context = (await self._embedding.model(call)).context
        room = max_tokens * 5 // 4 if context is None else max(16, context - 16)
        chunk = min(max_tokens, room)
        return Sizes(chunk, min(overlap_tokens, chunk // 2), min(max_tokens * 5 // 4, room))

    async def _prepare(
        self, document: Document, state: DocumentState | None, info: CollectionInfo, sizes: Sizes
    ) -> Work | DocumentResult:
        content_hash = fingerprint.content_hash(
            document.text,
            format=document.format,
            max_tokens=sizes.chunk,
            overlap_tokens=sizes.overlap,
            fingerprint=info.fingerprint,
        )
        attributes_hash = fingerprint.attributes_hash(document.title, document.source, document.metadata)
        if state is not None and (state.content_hash, state.attributes_hash) == (content_hash, attributes_hash):
            return DocumentResult(document.index, document.id, "unchanged", state.version, state.chunk_count)
        work = Work(document, state, content_hash, attributes_hash, [], [])
        if work.embeds:
            work.chunks, work.embedded_texts = await cut_document(document, sizes)
            if not work.chunks:
                error = ValidationFailedError(
                    "The document has no text.", param=document.param("text"), code="empty_document"
                )
                return DocumentResult(document.index, document.id, "failed", error=error)
        return work

    async def _store(
        self,
        collection: str,
        works: Sequence[Work],
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
        work: Work,
        info: CollectionInfo,
        embed: Callable[[], Awaitable[list[Vector]]],
        call: Call,
    ) -> DocumentResult:
        try:
            vectors = await embed()
        except ValidationFailedError as error:
            error.param = work.document.param("text")
            raise
        if not work.embeds:
            return await self._jobs.run(self._in_turn(self._write_attributes(collection, work, call)))
        return await self._jobs.run(self._in_turn(self._write(collection, work, info, vectors, call)))

    async def _in_turn(self, write: Awaitable[DocumentResult]) -> DocumentResult:
        """Bound the writes under way, those whose callers have left included."""
        async with self._writers:
            return await write

    async def _write(
        self, collection: str, work: Work, info: CollectionInfo, vectors: Sequence[Vector], call: Call
    ) -> DocumentResult:
        points = await make_points(work, info, vectors)
        await self._vectors.write(collection, points, call)
        ids = [point.id for point in points]
        await self._vectors.publish(collection, work.document.id, ids, points[0].sequence, call)
        status: Status = "created" if work.state is None else "updated"
        return DocumentResult(work.document.index, work.document.id, status, work.version, len(points))

    async def _write_attributes(self, collection: str, work: Work, call: Call) -> DocumentResult:
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
            updated_at=now(),
            call=call,
        )
        return DocumentResult(document.index, document.id, "updated", work.version, work.state.chunk_count)


def _result(document: Document, outcome: DocumentResult | BaseException) -> DocumentResult:
    """Return a document's result; a failure that is none of ours is a bug, and goes up."""
    if isinstance(outcome, HartonomousError):
        return DocumentResult(document.index, document.id, "failed", error=outcome)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _latest(documents: Sequence[Document]) -> tuple[dict[int, DocumentResult], dict[str, Document]]:
    """Return the results of documents that a later one of the same id replaces, and the ones that count."""
    latest = {document.id: document for document in documents}
    replaced = {
        document.index: DocumentResult(
            document.index,
            document.id,
            "failed",
            error=ConflictError(
                "A later document of this request has the same id.",
                param=document.param("id"),
                code="duplicate_document_id",
            ),
        )
        for document in documents
        if latest[document.id] is not document
    }
    return replaced, latest
