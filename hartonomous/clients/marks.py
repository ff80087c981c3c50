"""What a collection says of itself, in Qdrant's collection metadata, and the names of physical collections.

A collection `docs` is an alias of a physical one, `docs@1f2e3d4c`: `@`, which no name of a user's can have, and the
first digits of the embedding fingerprint's digest; where that is taken, `docs@1f2e3d4c-2` and so on. One that was made
before there were aliases is called `docs` itself.

Its mark is `{"hartonomous": {"schema", "collection", "fingerprint", "language", "settings", "state"}}`: the version of
the stored model, the name that it was made under, what made the vectors, the language of the sparse ones, how it was
made, and where a reindex has got with it. One without a mark was made by somebody else and is left alone. So is one
that says another name than it is found under: an alias leads to another tenant's points. Older ones say none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal

from hartonomous import codec
from hartonomous.clients.points import COLLECTION
from hartonomous.clients.qdrant import nonsense
from hartonomous.clients.sparse import languages
from hartonomous.config import COLLECTION_PATTERN
from hartonomous.core.fingerprint import EmbeddingFingerprint
from hartonomous.errors import ConflictError
from hartonomous.services import Collections

SCHEMA = 3
"""The version of the stored model: payload fields, vectors' names, indexes, how point ids are made.

2: the first half of a point's id follows from its document alone, chunk 0 knows where pages begin. 3: a point says of
which collection it is. Older points are read as they are and replaced one by one as their documents change.
"""

READABLE = (1, 2, SCHEMA)
"""The versions that this one reads; an older one of them is brought up to date when it is first written or searched."""

INDEXES: Mapping[str, str] = MappingProxyType(
    {
        "document_id": "keyword",
        "source": "keyword",
        "visible": "bool",
        "sequence": "integer",
        "chunk_index": "integer",
        COLLECTION: "keyword",
    }
)
"""The indexed payload fields and their kinds."""

State = Literal["building", "complete", "replaced", "retired"]
"""What a physical collection is to a reindex, if anything.

`building`: it is being filled. `complete`: it is filled, and takes the place of the old one now. `replaced`: its place
is taken, and then it is deleted. `retired`: its place is taken, and it is kept because somebody asked for that.
"""

_KEY = "hartonomous"
_NOTE = "hartonomous_reindex"
_NAME = re.compile(COLLECTION_PATTERN)
_DIGITS = 8
_NAMES = 50


@dataclass(slots=True, frozen=True)
class CollectionInfo:
    """A collection of ours. `points` counts all chunks, unseen ones included, and may be approximate."""

    name: str
    dimension: int
    fingerprint: EmbeddingFingerprint
    language: str
    points: int
    indexes: frozenset[str]
    schema: int = SCHEMA

    def is_made_by(self, fingerprint: EmbeddingFingerprint) -> bool:
        """Whether this model's vectors are in it, as they are stored today."""
        return self.fingerprint == fingerprint and self.schema == SCHEMA


def is_name(name: str) -> bool:
    """Whether this is a name that a user can give, and so not that of a physical collection."""
    return _NAME.fullmatch(name) is not None


def collection_of(physical: str) -> str | None:
    """Return the collection that a physical one belongs to by its name, or None when it is no such name."""
    name, at, _ = physical.partition("@")
    return name if at and is_name(name) else None


@lru_cache(1024)
def name_of(collection: str) -> str:
    """Return the name by which users know a collection: of a physical one that of the collection it belongs to."""
    return collection_of(collection) or collection


def physical_names(collection: str, fingerprint: EmbeddingFingerprint) -> list[str]:
    """Return the names that a physical collection may get, the best one first."""
    first = f"{collection}@{fingerprint.digest()[:_DIGITS]}"
    return [first, *(f"{first}-{number}" for number in range(2, _NAMES + 1))]


def new_mark(
    collection: str, fingerprint: EmbeddingFingerprint, language: str, settings: Collections, state: State | None
) -> dict[str, Any]:
    """Return the mark of a collection that is made now."""
    mark = {
        "schema": SCHEMA,
        "collection": name_of(collection),
        "fingerprint": fingerprint.as_dict(),
        "language": language,
        "settings": settings.model_dump(exclude={"indexes"}, exclude_none=True),
    }
    return mark if state is None else mark | {"state": state}


def as_metadata(mark: Mapping[str, Any]) -> dict[str, Any]:
    """Return the collection metadata that holds a mark."""
    return {_KEY: dict(mark)}


def mark_of(raw: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the mark in an answer of `GET /collections/{name}`; None when it is somebody else's collection."""
    try:
        mark = (raw["config"].get("metadata") or {}).get(_KEY)
    except (TypeError, KeyError, AttributeError):
        nonsense()
    return mark if isinstance(mark, dict) else None


def state_of(raw: Mapping[str, Any]) -> object:
    """Return what a physical collection is, by its mark: None, or a `State`."""
    return (mark_of(raw) or {}).get("state")


def note_of(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a reindex has written down about its target, by the same answer; empty where it has not."""
    note = (raw["config"].get("metadata") or {}).get(_NOTE)
    return note if isinstance(note, dict) else {}


def as_note(note: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the collection metadata that holds a note; of None, that takes it away."""
    return {_NOTE: None if note is None else dict(note)}


def indexes_of(raw: Mapping[str, Any]) -> frozenset[str]:
    """Return the indexed fields in an answer of `GET /collections/{name}`."""
    return frozenset(raw.get("payload_schema") or {})


def parse(name: str, raw: Mapping[str, Any]) -> CollectionInfo:
    """Read an answer of `GET /collections/{name}`; raise ConflictError when the collection cannot be used."""
    mark = mark_of(raw)
    if mark is None:
        raise foreign(name)
    if mark.get("collection", name_of(name)) != name_of(name):
        raise astray(name)
    _check_schema(name, mark.get("schema"))
    if mark.get("language") not in languages():
        raise ConflictError(f"The collection {name!r} has a language that is not known here.", code="schema_mismatch")
    try:
        return CollectionInfo(
            name=name,
            dimension=int(raw["config"]["params"]["vectors"]["dense"]["size"]),
            fingerprint=EmbeddingFingerprint.from_dict(mark["fingerprint"]),
            language=str(mark["language"]),
            points=int(raw.get("points_count") or 0),
            indexes=indexes_of(raw),
            schema=mark["schema"],
        )
    except (TypeError, KeyError, ValueError):
        nonsense()


def _check_schema(name: str, version: object) -> None:
    if type(version) is int and version in READABLE:
        return
    if type(version) is int and version > SCHEMA:
        told = f"was made by a newer Hartonomous (schema {version}, here {SCHEMA}): upgrade this one"
    else:
        told = "has a schema that is not known here: delete it and ingest its documents again"
    raise ConflictError(f"The collection {name!r} {told}.", code="schema_mismatch")


def foreign(name: str) -> ConflictError:
    """Return the refusal of a collection that is not ours."""
    return ConflictError(f"The collection {name!r} was not made by Hartonomous.", code="foreign_collection")


def astray(name: str) -> ConflictError:
    """Return the refusal of a name under which the points of another collection are found."""
    return ConflictError(f"The collection {name!r} leads to what was not stored in it.", code="foreign_collection")


def too_many(name: str) -> ConflictError:
    """Return the refusal to make yet another physical collection."""
    return ConflictError(f"There are {_NAMES} copies of the collection {name!r} already.", code="too_many_copies")


def compare(info: CollectionInfo, wanted: EmbeddingFingerprint) -> None:
    """Raise ConflictError when the collection's vectors were made by another embedding model."""
    if info.fingerprint != wanted:
        raise ConflictError(
            f"The collection {info.name!r} was made by {told(info.fingerprint)}; configured is {told(wanted)}."
            f" `hartonomous reindex {info.name}` embeds it again."
        )


def told(fingerprint: EmbeddingFingerprint) -> str:
    """Return the words for an embedding model."""
    prefixes = [codec.dumps(text).decode() for text in (fingerprint.query_prefix, fingerprint.document_prefix)]
    return (
        f"the embedding model {fingerprint.model!r} ({fingerprint.dimension} dimensions,"
        f" query prefix {prefixes[0]}, document prefix {prefixes[1]})"
    )
