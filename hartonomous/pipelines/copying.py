"""One collection's documents copied into another, what is gone there deleted: until nothing is left to do, and again.

Which document is the newer one its `sequence` tells, which is copied along. Nothing newer is ever replaced or deleted.

After a switch the target is written by everybody: a document in it may be newer than in the source, or have been
deleted by a user. What was in both before the switch is remembered, so that neither is undone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, cast

from hartonomous.clients.moving import Mover, WholeDocument
from hartonomous.clients.points import DocumentState
from hartonomous.clients.vectors import VectorClient
from hartonomous.config import Chunking
from hartonomous.core.call import Call
from hartonomous.core.formats import Format
from hartonomous.errors import BackendError, NotFoundError
from hartonomous.pipelines.documents import Document, DocumentResult, Written
from hartonomous.pipelines.ingest import Ingestor

OnResult = Callable[[DocumentResult], None]
Pages = AsyncIterator[Sequence[DocumentState]]

_PAGE = 500
_DOCUMENT_S = 3_600.0
_LOOK_AGAIN_S = 0.05
# Of so many documents it is written down that they are in both: 64 kB of the collection's metadata.
_NOTED = 4_096


@dataclass(slots=True)
class Copy:
    """A copy under way, into the physical collection `target`; `on_result` is told of each document that was copied.

    `since` is the sequence from which on something may be new to the comparison under way. `known` are the documents,
    with their sequences, that were in both before the switch, `recent` those of them that were written since. When the
    switch was made by a process that is gone, the recent ones are all that is known.
    """

    target: str
    chunking: Chunking
    call: Call
    on_result: OnResult
    since: int = 0
    switched: bool = False
    known: set[int] = field(default_factory=set)
    recent: set[int] = field(default_factory=set)
    knows_all: bool = True

    def begin(self, since: int) -> None:
        """Begin a comparison of everything."""
        self.since, self.recent = since, set()

    def remember(self, document_id: str, sequence: int) -> None:
        """Note that a document is in both."""
        if self.switched:
            return
        number = _number(document_id, sequence)
        self.known.add(number)
        if sequence >= self.since:
            self.recent.add(number)

    def remembers(self, state: DocumentState) -> bool:
        """Whether a document was in both."""
        return _number(state.document_id, state.sequence) in self.known

    def is_new(self, state: DocumentState) -> bool:
        """Whether a document that the source alone has came in at its last moment; else it was deleted by a user."""
        return not self.remembers(state) and (self.knows_all or state.sequence >= self.since)

    def note(self) -> dict[str, Any]:
        """Return what another process has to know after the switch."""
        few = len(self.recent) <= _NOTED
        return {"since": self.since, "recent": [f"{number:016x}" for number in self.recent] if few else []}

    def take_up(self, note: Mapping[str, Any]) -> None:
        """Go on after a switch that another process made."""
        self.switched, self.knows_all = True, False
        self.since = int(note.get("since") or 0)
        self.known = {int(number, 16) for number in note.get("recent") or ()}


def _number(document_id: str, sequence: int) -> int:
    """Return 64 bits that stand for a version of a document, in every process the same."""
    digest = blake2b(f"{sequence} {document_id}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


class Copier:
    """Copies documents between collections of one vector store; what changes on the way is how they are embedded."""

    def __init__(self, vectors: VectorClient, mover: Mover, ingestor: Ingestor) -> None:
        self._vectors = vectors
        self._mover = mover
        self._ingestor = ingestor

    async def copy(self, copy: Copy, source: str, *, everything: bool = False) -> int:
        """Copy what the target has not, and delete what the source has not; return how many documents these were.

        With `everything` no document is passed over by its sequence alone, but by its content.

        Raises:
            BackendError: documents could not be copied; all others are.
            NotFoundError: a collection is gone.
        """
        copied = await self._copy(copy, source, self.listing(source, copy.call), everything=everything)
        return copied + await self._delete_gone(copy, source)

    async def copy_recent(self, copy: Copy, source: str, *, everything: bool = False) -> int:
        """Copy what was written since `copy.since` and the target has not; return how many. Raises as `copy` does."""
        recent = self._mover.written_since(source, copy.since, copy.call)
        return await self._copy(copy, source, recent, everything=everything)

    async def listing(self, collection: str, call: Call) -> AsyncIterator[list[DocumentState]]:
        """Yield all documents of a collection, page by page."""
        cursor: str | None = None
        while True:
            page, cursor = await self._vectors.documents(collection, _PAGE, cursor, call)
            yield page
            if cursor is None:
                return

    async def _copy(self, copy: Copy, source: str, pages: Pages, *, everything: bool) -> int:
        under_way: dict[int, Document] = {}
        changed = failed = 0

        async def tell(result: DocumentResult) -> None:
            nonlocal changed, failed
            if isinstance(result.error, NotFoundError):
                raise result.error
            document = under_way.pop(result.index, None)
            if result.error is None and document is not None and document.written is not None:
                copy.remember(document.id, document.written.sequence)
            changed += result.status in {"created", "updated"}
            failed += result.status == "failed"
            copy.on_result(result)

        documents = self._documents(copy, source, pages if everything else self._wanted(copy, pages), under_way)
        tokens = copy.chunking.max_tokens, copy.chunking.overlap_tokens
        await self._ingestor.stream(copy.target, documents, *tokens, copy.call, tell, document_s=_DOCUMENT_S)
        if failed:
            raise BackendError(
                f"{failed} documents could not be copied. Run this again: it goes on where it was.",
                code="copy_incomplete",
            )
        return changed

    async def _wanted(self, copy: Copy, pages: Pages) -> Pages:
        """Yield of each page what the target has not as it is now."""
        async for page in pages:
            there = await self._vectors.states(copy.target, [state.document_id for state in page], copy.call)
            yield [state for state in page if _is_wanted(copy, state, there.get(state.document_id))]

    async def _documents(
        self, copy: Copy, source: str, pages: Pages, under_way: dict[int, Document]
    ) -> AsyncIterator[Document | DocumentResult]:
        """Yield whole documents, kept in `under_way` as well."""
        index = 0
        async for page in pages:
            async for stored in self._mover.documents(source, page, copy.call):
                index += 1
                if isinstance(stored, str):
                    error = BackendError("The stored document is not complete; send it again.")
                    yield DocumentResult(index, stored, "failed", error=error)
                else:
                    under_way[index] = document_of(stored, index)
                    yield under_way[index]

    async def _delete_gone(self, copy: Copy, source: str) -> int:
        deleted = 0
        async for page in self.listing(copy.target, copy.call):
            gone = await self._missing(source, page, copy.call)
            if copy.switched:
                gone = [state for state in gone if copy.remembers(state)]
            if gone:
                # A look that came between two steps of a replacement would be a deletion here.
                await asyncio.sleep(_LOOK_AGAIN_S)
                gone = await self._missing(source, gone, copy.call)
            for state in gone:
                await self._mover.delete_version(copy.target, state.document_id, state.sequence, copy.call)
            deleted += len(gone)
        return deleted

    async def _missing(self, source: str, page: Sequence[DocumentState], call: Call) -> list[DocumentState]:
        there = await self._vectors.states(source, [state.document_id for state in page], call)
        return [state for state in page if state.document_id not in there]


def _is_wanted(copy: Copy, state: DocumentState, there: DocumentState | None) -> bool:
    """Whether a document of the source has to be copied; what is in both is remembered."""
    if there is not None:
        copy.remember(there.document_id, there.sequence)
        if there.sequence < state.sequence:
            return True
        copy.remember(state.document_id, state.sequence)
        return False
    return not copy.switched or copy.is_new(state)


def document_of(stored: WholeDocument, index: int) -> Document:
    """Return a stored document as one that is to be stored, with its place in order and time."""
    first = stored.chunks[0]
    return Document(
        index=index,
        text=stored.text,
        id=first.document_id,
        format=cast("Format", first.format),
        title=first.title,
        source=first.source,
        metadata=first.metadata,
        pages=tuple(first.pages or ()),
        written=Written(first.sequence, first.updated_at),
    )
