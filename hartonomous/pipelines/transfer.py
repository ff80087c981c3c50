"""A collection out as lines and in again: with its vectors as it was, or its documents alone, embedded anew.

What goes in is an ingest like any other: written unseen and shown whole, unchanged documents are passed over, what was
interrupted is simply done again. What comes out are whole documents, each in the newest version at the moment at which
it was read; what is written meanwhile is in it or not, document by document.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from hartonomous.clients.embedding import EmbeddingClient
from hartonomous.clients.marks import told
from hartonomous.clients.moving import Mover
from hartonomous.clients.schema import CollectionInfo, Schema
from hartonomous.clients.vectors import VectorClient
from hartonomous.config import Chunking
from hartonomous.core.call import Call
from hartonomous.errors import ConflictError, NotFoundError, ValidationFailedError
from hartonomous.pipelines.documents import Document, DocumentResult
from hartonomous.pipelines.exchange import End, Header, document_line, read_line
from hartonomous.pipelines.ingest import Ingestor

_PAGE = 500
# How long the retries of a single document may take.
_DOCUMENT_S = 3_600.0
_ANEW = "`--no-vectors` imports the documents and embeds them again."


@dataclass(slots=True)
class Exported:
    """What an export has written so far; `damaged` are the ids of documents that are not whole in the store."""

    documents: int = 0
    chunks: int = 0
    damaged: list[str] = field(default_factory=list)


class Exporter:
    """Exports collections."""

    def __init__(self, vectors: VectorClient, mover: Mover, schema: Schema) -> None:
        self._vectors = vectors
        self._mover = mover
        self._schema = schema

    async def require(self, collection: str, call: Call) -> CollectionInfo:
        """Return the collection; raise NotFoundError when there is none and ConflictError when it is not ours."""
        info = await self._schema.describe(collection, call)
        if info is None:
            raise NotFoundError(f"There is no collection {collection!r}.", code="collection_not_found")
        return info

    async def lines(
        self, info: CollectionInfo, call: Call, exported: Exported, *, vectors: bool
    ) -> AsyncIterator[bytes]:
        """Yield the lines of an export, one document at a time; `exported` is kept up to date."""
        yield Header(info.name, info.fingerprint, info.language, vectors).line()
        cursor: str | None = None
        while True:
            states, cursor = await self._vectors.documents(info.name, _PAGE, cursor, call)
            dimension = info.dimension if vectors else None
            async for document in self._mover.documents(info.name, states, call, dimension=dimension):
                if isinstance(document, str):
                    exported.damaged.append(document)
                    continue
                yield document_line(document)
                exported.documents += 1
                exported.chunks += len(document.chunks)
            if cursor is None:
                break
        yield End(exported.documents, exported.chunks).line()


class Importer:
    """Imports what was exported."""

    def __init__(self, embedding: EmbeddingClient, schema: Schema, ingestor: Ingestor) -> None:
        self._embedding = embedding
        self._schema = schema
        self._ingestor = ingestor

    async def run(
        self,
        lines: AsyncIterator[bytes],
        collection: str | None,
        chunking: Chunking,
        call: Call,
        on_result: Callable[[DocumentResult], None],
        *,
        vectors: bool,
    ) -> None:
        """Take an export into `collection`, by default the one of its name, which is made if there is none.

        Vectors are taken as they are, unless they are not wanted (`vectors`); then, and where there are none, the texts
        are embedded. `on_result` is told what became of each line.

        Raises:
            ValidationFailedError: it is no export, or not all of one. What was read up to there is imported.
            ConflictError: the vectors, or the collection, are of another model or language.
        """
        header = Header.read(await anext(lines, b""))
        name = collection or header.collection
        info = await self._prepare(name, header, call, vectors=vectors)
        dimension = info.dimension if vectors and header.vectors else None

        async def tell(result: DocumentResult) -> None:
            on_result(result)

        await self._ingestor.stream(
            name,
            _documents(lines, dimension),
            chunking.max_tokens,
            chunking.overlap_tokens,
            call,
            tell,
            document_s=_DOCUMENT_S,
        )

    async def _prepare(self, collection: str, header: Header, call: Call, *, vectors: bool) -> CollectionInfo:
        """Return the collection, in the language of the export where it is made now."""
        current = await self._embedding.fingerprint(call)
        if vectors and header.vectors and header.fingerprint != current:
            raise ConflictError(
                f"The vectors were made by {told(header.fingerprint)}; configured is {told(current)}. {_ANEW}"
            )
        info = await self._schema.ensure(collection, current, header.language, call)
        if vectors and header.vectors and info.language != header.language:
            raise ConflictError(
                f"The collection {collection!r} has the language {info.language!r}, the export {header.language!r}."
                f" {_ANEW}",
                code="language_mismatch",
            )
        return info


async def _documents(lines: AsyncIterator[bytes], dimension: int | None) -> AsyncIterator[Document | DocumentResult]:
    """Yield what the lines behind the header hold; raise ValidationFailedError when the end is not the end."""
    documents, number, end = 0, 1, None
    async for line in lines:
        number += 1
        if not line.strip():
            continue
        if end is not None:
            raise ValidationFailedError(f"Line {number}: the export goes on behind its end.")
        try:
            value = read_line(line, number, dimension=dimension)
        except ValidationFailedError as error:
            documents += 1
            yield DocumentResult(number, None, "failed", error=error)
            continue
        if isinstance(value, End):
            end = value
        else:
            documents += 1
            yield value
    if end is None:
        raise ValidationFailedError(f"The export was cut off: its last line is missing ({documents} documents read).")
    if end.documents != documents:
        raise ValidationFailedError(f"The export had {end.documents} documents; {documents} were in it.")
