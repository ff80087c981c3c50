"""One document into the store: looked up, cut, embedded, written unseen, shown.

What many documents do at the same moment goes into one call: look-ups, writes and publications by `grouping`, texts to
be embedded by `batching`. Once the first chunk of a document is being written the document is finished, even when its
caller leaves; before that the caller takes it along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from hartonomous import tracing
from hartonomous.clients.embedding import EmbeddingClient, Vector
from hartonomous.clients.failures import AnswerTooLargeError, BackendRefusedError
from hartonomous.clients.points import ChunkPoint, DocumentState, next_sequence
from hartonomous.clients.schema import CollectionInfo
from hartonomous.clients.tokenizing import TokenCounter
from hartonomous.clients.vectors import VectorClient
from hartonomous.clients.versions import AttributeChange, Publication
from hartonomous.core import fingerprint
from hartonomous.core.call import Call
from hartonomous.errors import BackendUnavailableError, HartonomousError, ValidationFailedError
from hartonomous.pipelines.batching import Announcement, EmbeddingQueue
from hartonomous.pipelines.counting import SharedCounter
from hartonomous.pipelines.cutting import Turns, cut_document, make_sizes, not_embeddable, recut
from hartonomous.pipelines.documents import (
    Document,
    DocumentResult,
    Status,
    Work,
    make_points,
    now,
    prepared_points,
)
from hartonomous.pipelines.grouping import Grouper
from hartonomous.pipelines.jobs import Jobs
from hartonomous.pipelines.traffic import Traffic
from hartonomous.pipelines.window import Window

# Documents that are looked up, and points that are written or shown, in one call; such calls side by side.
_LOOKED_UP = 256
_WRITTEN = 256
_WRITERS = 4
# Bytes of vectors that wait to be written or are being written: what the service does while the store makes a pause.
_UNWRITTEN = 4 * 1024 * 1024
_FLOAT = 4
# Times that what the service refuses is halved: it does not take a sixty-fourth of what it says it takes.
_RECUTS = 6


@dataclass(slots=True, frozen=True)
class Target:
    """Where documents go and how they are cut; `max_tokens` and `overlap_tokens` as they were asked for."""

    collection: str
    max_tokens: int
    overlap_tokens: int


class Storer:
    """Stores documents. Made inside a running loop; ended by `close`."""

    def __init__(
        self,
        embedding: EmbeddingClient,
        tokens: TokenCounter,
        vectors: VectorClient,
        jobs: Jobs,
        traffic: Traffic,
        share: float,
    ) -> None:
        self._embedding = embedding
        self._vectors = vectors
        self._jobs = jobs
        self._queue = EmbeddingQueue(embedding, traffic, share)
        self._counter = SharedCounter(tokens, jobs)
        # Chunks that wait for the service and for room among those that are embedded.
        self._chunks = Window(lambda: self._queue.capacity)
        self._unwritten = Window(lambda: _UNWRITTEN)
        # Work of a millisecond and more, for hundreds of documents that wake together.
        self._turns = Turns()
        self._lookups: Grouper[str, str, DocumentState | None] = Grouper(self._look_up, jobs, most=_LOOKED_UP)
        self._writes: Grouper[str, Sequence[ChunkPoint], None] = Grouper(
            self._write, jobs, most=_WRITTEN, concurrency=_WRITERS, blames=(BackendRefusedError, AnswerTooLargeError)
        )
        self._publications: Grouper[str, Publication, HartonomousError | None] = Grouper(
            self._publish, jobs, most=_WRITTEN, concurrency=_WRITERS
        )
        self._changes: Grouper[str, AttributeChange, HartonomousError | None] = Grouper(
            self._change, jobs, most=_LOOKED_UP, blames=(BackendRefusedError,)
        )

    @property
    def capacity(self) -> int:
        """How many chunks wait for the embedding service at most: what keeps it busy."""
        return self._queue.capacity

    async def close(self) -> None:
        """End the embedding calls under way."""
        await self._queue.close()

    async def store(self, document: Document, target: Target, info: CollectionInfo, call: Call) -> DocumentResult:
        """Store a document that has its text.

        Raises NotFoundError when the collection is gone, DocumentChangedError when others write the same document,
        and any other of our errors.
        """
        announcement = self._queue.announce()
        try:
            return await self._store(document, target, info, announcement, call)
        finally:
            announcement.over()

    async def _store(
        self, document: Document, target: Target, info: CollectionInfo, announcement: Announcement, call: Call
    ) -> DocumentResult:
        state = await self._lookups.do(target.collection, document.id, call)
        work = _compare(document, state, info, target)
        if work is None:
            assert state is not None
            return DocumentResult(document.index, document.id, "unchanged", state.version, state.chunk_count)
        if not work.embeds:
            announcement.over()
            return await self._jobs.run(self._store_attributes(target.collection, work, call))
        with tracing.span(call, "chunk") as cutting:
            await self._cut(work, target, info, cutting)
        work.announcement = announcement
        task = self._jobs.start(self._store_text(work, target.collection, info, call))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not work.writing:
                task.cancel()
            raise

    async def _cut(self, work: Work, target: Target, info: CollectionInfo, call: Call) -> None:
        if work.document.prepared is not None:
            work.take(list(work.document.prepared.chunks))
            return
        context = (await self._embedding.model(call)).context
        prefix = info.fingerprint.document_prefix
        work.sizes = make_sizes(target.max_tokens, target.overlap_tokens, context, prefix)
        work.take(*await cut_document(work.document, work.sizes, self._counter.of(call), self._turns))
        if not work.chunks:
            raise ValidationFailedError(
                "The document has no text.", param=work.document.param("text"), code="empty_document"
            )

    async def _store_text(self, work: Work, collection: str, info: CollectionInfo, call: Call) -> DocumentResult:
        """Embed, write and show a document; what the service refuses as too long is cut again."""
        rounds = 0
        while refused := await self._store_parts(work, collection, info, call):
            rounds += 1
            if rounds > _RECUTS:
                raise not_embeddable(work.document)
            assert work.sizes is not None
            cut = (work.chunks, work.embedded_texts)
            work.take(*await recut(work.document, work.sizes, self._counter.of(call), cut, refused, self._turns))
            # What has been written of the cut before is older than this, and goes when this is shown.
            work.sequence = next_sequence(work.sequence)
        publication = Publication(work.document.id, work.point_ids(), work.sequence)
        with tracing.span(call, "publish") as showing:
            error = await self._publications.do(collection, publication, showing, len(publication.point_ids))
        if error is not None:
            raise error
        status: Status = "created" if work.state is None else "updated"
        return DocumentResult(
            work.document.index, work.document.id, status, work.version, len(work.chunks), tokens=work.tokens
        )

    async def _store_parts(self, work: Work, collection: str, info: CollectionInfo, call: Call) -> list[int]:
        """Embed and write a document part by part, the one with its first chunk last.

        Returns the chunks that are too long for the service; not all is written then.
        """
        first, *others = range(0, len(work.chunks), self._queue.part)
        # No more of one document stands in line than keeps the service busy: others come in between.
        places = asyncio.Semaphore(max(2, self._queue.capacity // self._queue.part))

        async def in_turn(start: int) -> list[int]:
            async with places:
                return await self._store_part(work, collection, info, start, call)

        try:
            async with asyncio.TaskGroup() as group:
                parts = [group.create_task(in_turn(start)) for start in reversed(others)]
        except ExceptionGroup as errors:
            # The first failure has cancelled the others: it alone tells what is wrong.
            raise errors.exceptions[0] from None
        refused = [index for part in parts for index in part.result()]
        return refused or await self._store_part(work, collection, info, first, call)

    async def _store_part(self, work: Work, collection: str, info: CollectionInfo, first: int, call: Call) -> list[int]:
        count = min(self._queue.part, len(work.chunks) - first)
        async with self._chunks.place(count):
            points, refused = await self._points(work, info, first, count, call)
            if refused:
                return refused
            # The next texts go to the service now, whatever the store is busy with.
            room = await self._unwritten.take(_FLOAT * sum(len(point.dense) for point in points))
        try:
            work.writing = True
            with tracing.span(call, "store", {"hartonomous.chunks": len(points)}) as writing:
                await self._writes.do(collection, points, writing, len(points))
        finally:
            self._unwritten.give(room)
        return []

    async def _points(
        self, work: Work, info: CollectionInfo, first: int, count: int, call: Call
    ) -> tuple[list[ChunkPoint], list[int]]:
        """Return the points of some chunks, or the chunks of them that are too long for the service."""
        if work.document.prepared is not None:
            return prepared_points(work, work.document.prepared, first, count), []
        texts = work.embedded_texts[first : first + count]
        with tracing.span(call, "embed", {"hartonomous.texts": len(texts)}) as embedding:
            outcomes, tokens = await self._queue.embed(texts, embedding, work.announcement)
            await self._check_model(info, embedding)
        work.tokens += tokens
        vectors: list[Vector] = []
        refused: list[int] = []
        for index, outcome in enumerate(outcomes, first):
            if isinstance(outcome, ValidationFailedError):
                refused.append(index)
            else:
                vectors.append(outcome)
        if refused:
            return [], refused
        async with self._turns.brief:
            await asyncio.sleep(0)
            return await make_points(work, info, first, vectors), []

    async def _check_model(self, info: CollectionInfo, call: Call) -> None:
        """Raise BackendUnavailableError when the service, which has just embedded, has another model by now."""
        if await self._embedding.fingerprint(call) != info.fingerprint:
            raise BackendUnavailableError("The embedding service has changed its model.", retry_after=1)

    async def _store_attributes(self, collection: str, work: Work, call: Call) -> DocumentResult:
        assert work.state is not None
        document = work.document
        change = AttributeChange(
            state=work.state,
            title=document.title,
            source=document.source,
            metadata=document.metadata or {},
            attributes_hash=work.attributes_hash,
            version=work.version,
            sequence=work.sequence,
            updated_at=work.updated_at,
        )
        error = await self._changes.do(collection, change, call)
        if error is not None:
            raise error
        return DocumentResult(document.index, document.id, "updated", work.version, work.state.chunk_count)

    async def _look_up(self, collection: str, names: list[str], call: Call) -> list[DocumentState | None]:
        found = await self._vectors.states(collection, list(dict.fromkeys(names)), call)
        return [found.get(name) for name in names]

    async def _write(self, collection: str, parts: list[Sequence[ChunkPoint]], call: Call) -> list[None]:
        await self._vectors.write(collection, [point for part in parts for point in part], call)
        return [None] * len(parts)

    async def _publish(
        self, collection: str, publications: list[Publication], call: Call
    ) -> list[HartonomousError | None]:
        return await self._vectors.publish(collection, publications, call)

    async def _change(
        self, collection: str, changes: list[AttributeChange], call: Call
    ) -> list[HartonomousError | None]:
        return await self._vectors.set_attributes(collection, changes, call)


def _compare(document: Document, state: DocumentState | None, info: CollectionInfo, target: Target) -> Work | None:
    """Return what has to be done for a document; None when it is stored as it is."""
    content_hash = _content_hash(document, info, target)
    attributes_hash = fingerprint.attributes_hash(document.title, document.source, document.metadata)
    if (
        state is not None
        and fingerprint.is_same_content(state.content_hash, content_hash)
        and state.attributes_hash == attributes_hash
    ):
        return None
    known = 0 if state is None else state.sequence
    written = document.written
    if written is None:
        return Work(document, state, content_hash, attributes_hash, next_sequence(known), now())
    if written.sequence < known:
        return None
    return Work(document, state, content_hash, attributes_hash, max(written.sequence, known + 1), written.updated_at)


def _content_hash(document: Document, info: CollectionInfo, target: Target) -> str:
    if document.prepared is not None:
        return document.prepared.content_hash
    return fingerprint.content_hash(
        document.text,
        format=document.format,
        max_tokens=target.max_tokens,
        overlap_tokens=target.overlap_tokens,
        fingerprint=info.fingerprint,
        pages=document.pages,
    )
