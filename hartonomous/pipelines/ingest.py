"""The ingest pipeline: documents one after the other into the store, an outcome for each.

Each document is a task of its own: parsed where it is HTML or a file, then stored (`pipelines.storing`). An unchanged
one costs no embedding call, a change of title, source or metadata alone is a payload write. A window bounds the text
that is in flight over all requests, and thereby memory and how fast a stream is read. What fails for one document
stays its own; what fails for all of them ends a stream.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prometheus_async import aio

from hartonomous import tracing
from hartonomous.clients.embedding import EmbeddingClient
from hartonomous.clients.schema import CollectionInfo, Schema
from hartonomous.clients.tokenizing import TokenCounter
from hartonomous.clients.vectors import VectorClient
from hartonomous.clients.versions import DocumentChangedError
from hartonomous.config import Rag
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.errors import (
    BackendUnavailableError,
    ConflictError,
    HartonomousError,
    InsufficientStorageError,
    NotFoundError,
    ValidationFailedError,
)
from hartonomous.metrics import Metrics
from hartonomous.parsing.parser import Parser
from hartonomous.pipelines.documents import Document, DocumentResult
from hartonomous.pipelines.jobs import Jobs
from hartonomous.pipelines.storing import Storer, Target
from hartonomous.pipelines.traffic import Traffic
from hartonomous.pipelines.window import Window

OnResult = Callable[[DocumentResult], Awaitable[None]]

# Bytes of text (characters, or of files) that are in flight over all requests.
_TEXT_WINDOW = 4 * 1024 * 1024
# Attempts at a document that others ingest at the same time.
_ATTEMPTS = 3
_ASK_AGAIN_S = 1.0
# So many documents in a row that failed because a backend is away end a stream.
_HOPELESS = 16


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
class _Run:
    """One request: its target, what is under way by document id, what it has cost, and what ended it.

    A stream `ends` with a fatal error; of a list every document is tried.
    """

    target: Target
    info: CollectionInfo
    asked: float
    ends: bool
    under_way: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    tokens: float = 0.0
    failures: int = 0
    told: int = 0
    fatal: HartonomousError | None = None
    ended: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def note(self, error: HartonomousError) -> None:
        """Take a document's failure into account: some say at once that the next one will fail as well."""
        if isinstance(error, BackendUnavailableError):
            self.failures += 1
        if isinstance(error, InsufficientStorageError | ConflictError) or self.failures >= _HOPELESS:
            self.fatal = self.fatal or error
            if self.ends and not self.ended.done():
                self.ended.set_result(None)


class Ingestor:
    """Takes documents into collections. Made inside a running loop; `close` ends its embedding calls."""

    def __init__(
        self,
        embedding: EmbeddingClient,
        tokens: TokenCounter,
        vectors: VectorClient,
        schema: Schema,
        parser: Parser,
        jobs: Jobs,
        traffic: Traffic,
        config: Rag,
        metrics: Metrics,
    ) -> None:
        self._embedding = embedding
        self._schema = schema
        self._parser = parser
        self._jobs = jobs
        self._config = config
        self._storer = Storer(embedding, tokens, vectors, jobs, traffic, config.ingest.share_beside_queries)
        self._texts = Window(lambda: _TEXT_WINDOW)
        self._metrics = metrics.rag

    @property
    def jobs(self) -> Jobs:
        """The writes under way, which go on when their request is cancelled."""
        return self._jobs

    async def close(self) -> None:
        """End the embedding calls under way."""
        await self._storer.close()

    async def ingest(
        self, collection: str, documents: Sequence[Document], max_tokens: int, overlap_tokens: int, call: Call
    ) -> IngestResult:
        """Take `documents` into `collection`, which is made if there is none.

        Raises any of our errors when nothing at all could be tried (embedding service or vector store down, the
        collection made by another model); a failure of single documents is in their results.
        """
        results, latest = _latest(documents)

        async def keep(result: DocumentResult) -> None:
            results[result.index] = result

        run = await self._begin(Target(collection, max_tokens, overlap_tokens), call, ends=False)
        for result in results.values():
            self._count(run, result)
        await self._take_all(run, _each(latest.values()), lambda: call, keep)
        return IngestResult([results[index] for index in sorted(results)], round(run.tokens))

    async def stream(
        self,
        collection: str,
        source: AsyncIterator[Document | DocumentResult],
        max_tokens: int,
        overlap_tokens: int,
        call: Call,
        on_result: OnResult,
        *,
        document_s: float,
    ) -> int:
        """Take documents as they come, `on_result` telling what became of each as soon as it is durable.

        `source` is asked for the next document when there is room for it, and not before it is known that documents
        can be taken at all. Of two documents with one id the later one comes after the earlier one. A result in
        `source`, of what could not be read, is told in its turn. Each document has `document_s` seconds, the whole
        stream `call`'s deadline. Returns the tokens that were embedded.

        Raises what ends a stream (a backend is gone, the store is full, the model has changed) when all that was under
        way is done and told; what `source` and `on_result` raise ends it as well.
        """

        def document_call() -> Call:
            return call.within(Deadline(call.deadline.bound(document_s)), call.wanted)

        run = await self._begin(Target(collection, max_tokens, overlap_tokens), document_call(), ends=True)
        await self._take_all(run, source, document_call, on_result)
        if run.fatal is not None:
            raise run.fatal
        return round(run.tokens)

    async def _take_all(
        self,
        run: _Run,
        source: AsyncIterator[Document | DocumentResult],
        call: Callable[[], Call],
        on_result: OnResult,
    ) -> None:
        """Take documents side by side as the windows permit, until there are no more or a fatal error has ended it."""
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    while (one := await _next(source, run.ended)) is not None:
                        if isinstance(one, DocumentResult):
                            await self._tell(run, one, on_result)
                        else:
                            await self._admit(run, one, group, call, on_result)
                except HartonomousError as error:
                    run.fatal = error  # what is under way is finished and told first
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self._metrics.request_documents.observe(run.told)

    async def _admit(
        self, run: _Run, document: Document, group: asyncio.TaskGroup, call: Callable[[], Call], on_result: OnResult
    ) -> None:
        """Begin with a document when there is room for it and an earlier one of its id is done."""
        if (before := run.under_way.get(document.id)) is not None:
            await asyncio.wait({before})
        size = await self._texts.take(self._size(document))
        task = run.under_way[document.id] = group.create_task(self._take(run, document, call(), on_result))

        def taken(_: asyncio.Task[None]) -> None:
            self._texts.give(size)
            if run.under_way.get(document.id) is task:
                del run.under_way[document.id]

        task.add_done_callback(taken)

    async def _tell(self, run: _Run, result: DocumentResult, on_result: OnResult) -> None:
        self._count(run, result)
        await on_result(result)

    def _count(self, run: _Run, result: DocumentResult) -> None:
        run.told += 1
        self._metrics.documents[result.status].inc()
        if result.error is not None:
            self._metrics.failure(result.error.type).inc()
        elif result.status != "unchanged":
            self._metrics.chunks.observe(result.chunks)
        self._metrics.embedded.inc(result.tokens)

    def _size(self, document: Document) -> int:
        """Return a document's part of the text window, of which even the smallest is a chunk."""
        text = document.raw if document.raw is not None else document.text
        size = text.stat().st_size if isinstance(text, Path) else len(text)
        return max(size, _TEXT_WINDOW // self._storer.capacity)

    async def _take(self, run: _Run, document: Document, call: Call, on_result: OnResult) -> None:
        """Take one document and tell what became of it; only what is no error of ours goes up."""
        started = time.perf_counter()
        try:
            with tracing.span(call, "document") as call:
                document = await self._parsed(document, call)
                result = await self._store(run, document, call)
                tracing.attributed(call, {"hartonomous.status": result.status, "hartonomous.chunks": result.chunks})
            run.failures, run.tokens = 0, run.tokens + result.tokens
        except HartonomousError as error:
            run.note(error)
            result = DocumentResult(document.index, document.id, "failed", error=error)
        self._metrics.document_s.observe(time.perf_counter() - started, call.exemplar)
        await self._tell(run, result, on_result)

    async def _store(self, run: _Run, document: Document, call: Call) -> DocumentResult:
        """Store a document; again where somebody else changed it, or deleted or replaced its collection, in between."""
        for _ in range(_ATTEMPTS - 1):
            with suppress(DocumentChangedError, NotFoundError):
                return await self._store_once(run, document, call)
            # Another collection may be behind the name, or none: then it is made, as if it had never been there.
            self._schema.forget(run.target.collection)
            run.asked = 0.0
        return await self._store_once(run, document, call)

    async def _store_once(self, run: _Run, document: Document, call: Call) -> DocumentResult:
        return await self._storer.store(document, run.target, await self._info(run, call), call)

    async def _parsed(self, document: Document, call: Call) -> Document:
        """Return the document with its text, where that has to be made first."""
        if document.raw is None:
            return document
        try:
            parsing = self._parser.parse(document.raw, document.format, call.deadline.remaining)
            with tracing.span(call, "parse", {"hartonomous.format": document.format}):
                parsed = await aio.time(self._metrics.parsing(document.format), parsing)
        except ValidationFailedError as error:
            error.param = document.param("text") if isinstance(document.raw, str) else document.path
            raise
        return replace(document, text=parsed.text, title=document.title or parsed.title, pages=parsed.pages, raw=None)

    async def _begin(self, target: Target, call: Call, *, ends: bool) -> _Run:
        return _Run(target, await self._ensure(target, call), time.monotonic(), ends)

    async def _info(self, run: _Run, call: Call) -> CollectionInfo:
        """Return the collection; a long stream asks again now and then whether it and the model are still the same."""
        if time.monotonic() - run.asked > _ASK_AGAIN_S:
            run.asked = time.monotonic()
            run.info = await self._ensure(run.target, call)
        return run.info

    async def _ensure(self, target: Target, call: Call) -> CollectionInfo:
        """Return the collection, made if there is none: for good with the model that the service has this moment."""
        try:
            if await self._schema.describe(target.collection, call) is None:
                self._embedding.forget()
            current = await self._embedding.fingerprint(call)
            return await self._schema.ensure(target.collection, current, self._config.retrieval.language, call)
        except ConflictError as error:
            error.param = "collection"
            raise


async def _next(
    source: AsyncIterator[Document | DocumentResult], ended: asyncio.Future[None]
) -> Document | DocumentResult | None:
    """Return the next of `source`; None at its end, or as soon as it is of no use to wait for it."""
    if ended.done():
        return None
    pulling = asyncio.ensure_future(anext(source, None))
    try:
        either: set[asyncio.Future[Any]] = {pulling, ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return pulling.result() if pulling.done() else None
    finally:
        if not pulling.done():
            pulling.cancel()
            await asyncio.wait({pulling})
        if not pulling.cancelled():
            pulling.exception()  # read: where nobody waits for it any more, nobody else will


async def _each(documents: Iterable[Document]) -> AsyncIterator[Document | DocumentResult]:
    for document in documents:
        yield document


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
