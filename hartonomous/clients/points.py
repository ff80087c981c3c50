"""What is stored: a chunk as a Qdrant point, and the readings of it (stored chunk, hit, state of a document).

One point is one chunk: the named vectors `dense` and `sparse`, and a payload that repeats the document's attributes, so
that a search needs no second look-up. `collection` says whose it is (`clients.reach`). `visible` hides what is not
published yet, `sequence` orders the ingests of a document; `clients.vectors` tells how the two make a replacement whole
for every reader.

They are structs of msgspec, which checks the types while it parses an answer: two rankings of twenty take 55 µs, parsed
into dictionaries and then looked at 150.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Any, NoReturn, Self, TypeVar

import msgspec

from hartonomous import codec
from hartonomous.core import walltime
from hartonomous.core.filters import combine
from hartonomous.errors import BackendError
from hartonomous.log import logger

COLLECTION = "collection"
"""The payload field that says whose a point is: the name of its collection, None of those that are older than it."""

VISIBLE: Mapping[str, Any] = {"key": "visible", "match": {"value": True}}
"""The condition that a reader's every filter holds."""

ATTRIBUTES = ("attributes_hash", "version", "sequence", "title", "source", "metadata", "updated_at")
"""The payload fields that may change without embedding anew."""

_TIE_BITS = 11
_version = attrgetter("document_id", "content_hash")


class _Sequences:
    """Strictly increasing in a process, ordered by time over processes."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def next(self, after: int = 0) -> int:
        tie = secrets.randbits(_TIE_BITS)
        value = sequence_at(walltime.latest()) | tie
        with self._lock:
            # Two processes whose clocks are behind what they both replace: not the same one for both.
            self._last = max(value, self._last + 1, after + 1 + tie)
            return self._last


def sequence_at(seconds: float) -> int:
    """Return the lowest sequence of an ingest begun at this Unix time.

    Milliseconds shifted by 11 bits: below 2**53 until 2109, because Qdrant compares a `range` as doubles, which
    hold no larger integer exactly.
    """
    return int(seconds * 1000) << _TIE_BITS


next_sequence = _Sequences().next
"""Return the order of an ingest that begins now: time, and in its low bits a random tie-breaker.

`after` is the sequence of the version that it replaces: what was read comes before, whatever the clock says.
"""


class _Part(msgspec.Struct, kw_only=True, gc=False):  # without cycles, so nothing to be collected
    """Whose it is, of which content and which ingest, and how its document is shown."""

    document_id: str
    content_hash: str
    sequence: int
    title: str | None = None
    source: str | None = None
    metadata: dict[str, Any] = {}


class FoundChunk(_Part, kw_only=True, gc=False):
    """What of a chunk is asked for in a search, and read of what was found; no payload has the id.

    `start` and `end` are offsets in code points into the document. `gap` are the blanks between the chunk before and
    this one: with them a document can be put together again. `collection` is whose it says that it is.
    """

    id: str = ""
    collection: str | None = None
    text: str
    chunk_index: int
    start: Annotated[int, msgspec.Meta(ge=0)]
    end: int
    headings: tuple[str, ...] = ()
    page: int | None = None
    gap: str | None = None

    @classmethod
    def from_payload(cls, point_id: object, payload: object) -> Self:
        """Read a payload; optional fields may be missing or null. Raises BackendError for any other fault."""
        chunk = _read(cls, payload, id=point_id)
        chunk.check(chunk.collection)
        return chunk

    def check(self, collection: str | None) -> None:
        """Raise BackendError where it is of another collection, or its offsets do not fit its text."""
        if self.collection != collection and self.collection:
            _refuse(collection)
        if self.end - self.start != len(self.text):
            _nonsense()


FOUND_FIELDS = [name for name in FoundChunk.__struct_fields__ if name != "id"]
"""The payload fields that a search asks for: a third of a small chunk is not among them."""


class StoredChunk(FoundChunk, kw_only=True, gc=False):
    """A chunk with its whole payload, without its vectors; `updated_at` is RFC 3339 in UTC.

    `pages` are the offsets at which the document's second page and those after it begin; its first chunk alone has
    them.
    """

    version: str
    chunk_count: int
    attributes_hash: str = ""
    format: str = "text"
    updated_at: str = ""
    embedding_tokens: int | None = None
    pages: Sequence[int] | None = None


_PAYLOAD_FIELDS = [name for name in StoredChunk.__struct_fields__ if name not in {"id", COLLECTION}]


class ChunkPoint(StoredChunk, kw_only=True, gc=False):
    """A chunk to be written: its payload and its vectors; `sparse` is (indices, values), as `Bm25Encoder` makes it."""

    id: str
    dense: Sequence[float]
    sparse: tuple[list[int], list[float]]

    def to_json(self, collection: str) -> bytes:
        """Return the point as Qdrant takes it, not visible yet; it says that it is of the collection of this name."""
        indices, values = self.sparse
        vector = {"dense": list(self.dense), "sparse": {"indices": indices, "values": values}}
        return codec.dumps({"id": self.id, "vector": vector, "payload": self._payload(collection)})

    def attributes(self) -> dict[str, Any]:
        """Return the fields that a change without a new text changes; null is how Qdrant removes one."""
        return {name: getattr(self, name) for name in ATTRIBUTES}

    def _payload(self, collection: str) -> dict[str, Any]:
        payload = {name: getattr(self, name) for name in _PAYLOAD_FIELDS}
        return {"visible": False, COLLECTION: collection} | {
            name: value for name, value in payload.items() if value is not None
        }


class DocumentState(_Part, kw_only=True, gc=False):
    """What is stored of a document: the newest version that readers see."""

    version: str
    chunk_count: int
    attributes_hash: str = ""
    format: str = "text"
    updated_at: str = ""

    @classmethod
    def from_payload(cls, payload: object) -> DocumentState:
        """Read it from the payload of one of the document's chunks; raise BackendError when it is nonsense."""
        return _read(cls, payload)


STATE_FIELDS = list(DocumentState.__struct_fields__)
"""The payload fields that `DocumentState.from_payload` reads."""
VERSION_FIELDS = ["document_id", "content_hash", "version", "chunk_count", "sequence"]
"""Those of them that tell which version it is; without the others it is small."""

_Payload = TypeVar("_Payload", bound=_Part)


def _read(kind: type[_Payload], payload: object, **known: object) -> _Payload:
    """Read a payload that is parsed already, in which null is nothing, and what else is known of the point."""
    if not isinstance(payload, dict):
        _nonsense()
    fields = {name: value for name, value in payload.items() if value is not None}
    try:
        return msgspec.convert(fields | known, kind)
    except (msgspec.ValidationError, RecursionError):
        _nonsense()


def _nonsense() -> NoReturn:
    raise BackendError("The vector store holds a point that is not a chunk of ours.")


class Hit(msgspec.Struct, gc=False):
    """A chunk that a search found; `score` is the cosine similarity (dense) or the BM25 sum (sparse)."""

    chunk: FoundChunk = msgspec.field(name="payload")
    score: float


def visible_filter(user_filter: Mapping[str, Any] | None = None, *must: Mapping[str, Any]) -> dict[str, Any]:
    """Return a filter for visible points that meet all of `must` and the caller's filter, which cannot widen it."""
    return combine(user_filter, VISIBLE, *must) or {}


def of_collection(collection: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return a filter that finds what `wanted` does, but no point that says that it is another collection's."""
    another = {"key": COLLECTION, "match": {"except": [collection]}}
    return {**wanted, "must_not": [*wanted.get("must_not", ()), another]}


def refuse_others(collection: str, payloads: Iterable[object]) -> None:
    """Raise BackendError when one of these payloads says that it is another collection's."""
    for payload in payloads:
        if isinstance(payload, dict) and (payload.get(COLLECTION) or collection) != collection:
            _refuse(collection)


def _refuse(collection: str | None) -> NoReturn:
    logger.bind(collection=collection).error("the vector store answered a point of another collection")
    raise BackendError("The vector store answered what is not of this collection.", code="foreign_points")


def newest_first(chunk: FoundChunk | DocumentState) -> tuple[int, str]:
    """Return the key by which of two versions the greater is the newer, for every reader the same one."""
    return chunk.sequence, chunk.content_hash


def newest_only(rankings: Iterable[Sequence[Hit]]) -> list[list[Hit]]:
    """Keep of each document the hits of its newest version among all rankings; order stays.

    A version is known by its content: while its attributes are changed its points differ in sequence for a moment.
    """
    found = [list(ranking) for ranking in rankings]
    if is_one_version_each(hit.chunk for ranking in found for hit in ranking):
        return found
    newest: dict[str, FoundChunk] = {}
    for ranking in found:
        for hit in ranking:
            known = newest.setdefault(hit.chunk.document_id, hit.chunk)
            if newest_first(hit.chunk) > newest_first(known):
                newest[hit.chunk.document_id] = hit.chunk
    return [
        [hit for hit in ranking if hit.chunk.content_hash == newest[hit.chunk.document_id].content_hash]
        for ranking in found
    ]


def is_one_version_each(chunks: Iterable[FoundChunk]) -> bool:
    """Tell whether no document has chunks of two versions among these."""
    versions = set(map(_version, chunks))
    return len(versions) == len(dict(versions))


def assemble(chunks: Sequence[StoredChunk]) -> str:
    """Return the text of a document but for blanks at its end; every chunk stands at its offsets."""
    parts: list[str] = []
    length = 0
    for chunk in chunks:
        gap = (chunk.gap or "").rjust(chunk.start - length)
        part = gap + chunk.text[max(0, length - chunk.start) :]
        parts.append(part)
        length += len(part)
    return "".join(parts)
