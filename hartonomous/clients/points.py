"""What is stored: a chunk as a Qdrant point, and the readings of it (stored chunk, hit, state of a document).

One point is one chunk: the named vectors `dense` and `sparse`, and a payload that repeats the document's attributes, so
that a search needs no second look-up. `collection` says whose it is (`clients.reach`). `visible` hides what is not
published yet, `sequence` orders the ingests of a document; `clients.vectors` tells how the two make a replacement whole
for every reader.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NoReturn

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


class _Sequences:
    """Strictly increasing in a process, ordered by time over processes."""

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def next(self, after: int = 0) -> int:
        value = sequence_at(walltime.latest()) | secrets.randbits(_TIE_BITS)
        with self._lock:
            self._last = max(value, self._last + 1, after + 1)
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


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """The payload. `start` and `end` are offsets in code points into the document; `updated_at` is RFC 3339 in UTC.

    `gap` are the blanks between the chunk before and this one: with them a document can be put together again. `pages`
    are the offsets at which the document's second page and those after it begin; its first chunk alone has them.
    """

    id: str
    document_id: str
    content_hash: str
    version: str
    chunk_index: int
    chunk_count: int
    text: str
    start: int
    end: int
    sequence: int
    attributes_hash: str = ""
    headings: tuple[str, ...] = ()
    format: str = "text"
    title: str | None = None
    source: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    updated_at: str = ""
    embedding_tokens: int | None = None
    page: int | None = None
    pages: Sequence[int] | None = None
    gap: str | None = None


@dataclass(frozen=True, kw_only=True)
class ChunkPoint(_Chunk):
    """A chunk to be written: its payload and its vectors; `sparse` is (indices, values), as `Bm25Encoder` makes it."""

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
        payload = {name: getattr(self, name) for name in _CHUNK.names}
        return {"visible": False, COLLECTION: collection} | {
            name: value for name, value in payload.items() if value is not None
        }


@dataclass(frozen=True, kw_only=True)
class StoredChunk(_Chunk):
    """A chunk as it was read, without its vectors."""

    @classmethod
    def from_payload(cls, point_id: object, payload: object) -> StoredChunk:
        """Read a payload, which becomes the chunk's own; optional fields may be missing.

        Raises BackendError for anything else that is wrong.
        """
        if not isinstance(point_id, str) or not isinstance(payload, dict):
            _nonsense()
        payload = _CHUNK.checked(payload)
        if payload["start"] < 0 or payload["end"] - payload["start"] != len(payload["text"]):
            _nonsense()
        payload["id"] = point_id
        payload["headings"] = tuple(payload.get("headings", ()))
        payload.setdefault("metadata", {})
        # All fields at once: a search reads a hundred chunks, and `__init__` takes 4 µs for one.
        chunk = cls.__new__(cls)
        object.__setattr__(chunk, "__dict__", payload)
        return chunk

    def is_of(self, payload: object) -> bool:
        """Whether a payload of the same point is what this was read from, as the same ingest wrote it."""
        if type(payload) is not dict or payload.get("sequence") != self.sequence:
            return False
        return bool(payload.get("content_hash") == self.content_hash)


@dataclass(slots=True, frozen=True, kw_only=True)
class DocumentState:
    """What is stored of a document: the newest version that readers see."""

    document_id: str
    content_hash: str
    version: str
    sequence: int
    chunk_count: int
    attributes_hash: str = ""
    title: str | None = None
    source: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    format: str = "text"
    updated_at: str = ""

    @classmethod
    def from_payload(cls, payload: object) -> DocumentState:
        """Read it from the payload of one of the document's chunks; raise BackendError when it is nonsense."""
        if not isinstance(payload, dict):
            _nonsense()
        return cls(**_STATE.read(payload))


@dataclass(slots=True)
class Hit:
    """A chunk that a search found; `score` is the cosine similarity (dense) or the BM25 sum (sparse)."""

    chunk: StoredChunk
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
            logger.bind(collection=collection).error("the vector store answered a point of another collection")
            raise BackendError("The vector store answered what is not of this collection.", code="foreign_points")


def newest_first(chunk: _Chunk | DocumentState) -> tuple[int, str]:
    """Return the key by which of two versions the greater is the newer, for every reader the same one."""
    return chunk.sequence, chunk.content_hash


def newest_only(rankings: Iterable[Sequence[Hit]]) -> list[list[Hit]]:
    """Keep of each document the hits of its newest version among all rankings; order stays.

    A version is known by its content: while its attributes are changed its points differ in sequence for a moment.
    """
    found = [list(ranking) for ranking in rankings]
    if _is_one_version_each(found):
        return found
    newest: dict[str, StoredChunk] = {}
    for ranking in found:
        for hit in ranking:
            known = newest.setdefault(hit.chunk.document_id, hit.chunk)
            if newest_first(hit.chunk) > newest_first(known):
                newest[hit.chunk.document_id] = hit.chunk
    return [
        [hit for hit in ranking if hit.chunk.content_hash == newest[hit.chunk.document_id].content_hash]
        for ranking in found
    ]


def _is_one_version_each(rankings: Iterable[Sequence[Hit]]) -> bool:
    known: dict[str, str] = {}
    for ranking in rankings:
        for hit in ranking:
            chunk = hit.chunk
            if known.setdefault(chunk.document_id, chunk.content_hash) != chunk.content_hash:
                return False
    return True


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


_KNOWN_SHAPES = 256


class _Fields:
    """Payload fields with their types."""

    def __init__(self, required: Mapping[str, type], optional: Mapping[str, type]) -> None:
        self.names = (*required, *optional)
        self._required = tuple(required)
        self._types = tuple(required.values())
        self._get = itemgetter(*required)
        self._optional = optional
        self._good: set[tuple[object, ...]] = set()

    def checked(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Return a payload that has what `read` wants, maybe with more; raises as it does.

        Points are made alike: names and types that were good once are good again, in 1 µs for all of them.
        """
        shape = (*payload, *map(type, payload.values()))
        if shape in self._good:
            return payload
        fields = self.read(payload)
        if None not in payload.values():
            if len(self._good) >= _KNOWN_SHAPES:
                self._good.clear()
            self._good.add(shape)
        return fields

    def read(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that are there and not null; raise BackendError for a missing or mistyped one."""
        try:
            values = self._get(payload)
        except KeyError:
            _nonsense()
        if tuple(map(type, values)) != self._types:
            _nonsense()
        fields = dict(zip(self._required, values, strict=True))
        for name, kind in self._optional.items():
            value = payload.get(name)
            if value is None:
                continue
            if type(value) is not kind:
                _nonsense()
            fields[name] = value
        return fields


def _nonsense() -> NoReturn:
    raise BackendError("The vector store holds a point that is not a chunk of ours.")


_ID = {"document_id": str, "content_hash": str, "version": str, "chunk_count": int, "sequence": int}
_ABOUT = {"attributes_hash": str, "format": str, "title": str, "source": str, "metadata": dict, "updated_at": str}
_CHUNK = _Fields(
    {**_ID, "text": str, "chunk_index": int, "start": int, "end": int},
    {**_ABOUT, "headings": list, "embedding_tokens": int, "page": int, "pages": list, "gap": str},
)
_STATE = _Fields(_ID, _ABOUT)
STATE_FIELDS = list(_STATE.names)
"""The payload fields that `DocumentState.from_payload` reads."""
VERSION_FIELDS = list(_ID)
"""Those of them that tell which version it is; without the others it is small."""
