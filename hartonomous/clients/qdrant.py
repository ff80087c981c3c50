"""Qdrant's REST in JSON: the bodies that are sent and the reading of what it answers."""

from __future__ import annotations

import base64
import math
import re
import uuid
from array import array
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Literal, NoReturn

import msgspec

from hartonomous import codec
from hartonomous.clients.embedding import Spelled
from hartonomous.clients.points import (
    FOUND_FIELDS,
    VISIBLE,
    ChunkPoint,
    FoundChunk,
    Hit,
    is_one_version_each,
    newest_only,
    of_collection,
    refuse_others,
    visible_filter,
)
from hartonomous.clients.pool import Answer, Pool
from hartonomous.core.call import Call
from hartonomous.errors import BackendError, ValidationFailedError

_score = attrgetter("score")
_NUMBERS = {int, float}
_TEXT = {str}
_NOT_QDRANTS = "The qdrant service gave an answer that is not Qdrant's."
_BATCH_POINTS = 256
# Qdrant takes 32 MiB; aiohttp sends no more than 1 MiB without holding the loop, and the store stalls for less.
_BATCH_BYTES = 896 * 1024

RESCORED: Mapping[str, Any] = MappingProxyType({"quantization": {"rescore": True, "oversampling": 3.0}})
"""The `params` of a search: of quantised vectors three times as many are looked at, and scored by the vectors as they
were written (by default Qdrant scores scalar ones as they are). It changes nothing where nothing is quantised."""
_PARAMS = dict(RESCORED)
# What each search says in the same words is written once.
_FOUND_FIELDS = codec.Written(codec.dumps(FOUND_FIELDS))

Vector = Sequence[float] | tuple[list[int], list[float]]


class Search(msgspec.Struct):
    """One ranking that is wanted: `vector` is floats for `dense`, (indices, values) for `sparse`.

    `filter` is the caller's, checked by `core.filters`; only visible points are found whatever it says.
    """

    using: Literal["dense", "sparse"]
    vector: Vector
    limit: int
    filter: Mapping[str, Any] | None = None
    score_threshold: float | None = None


@dataclass(slots=True, frozen=True)
class BestVectors:
    """The dense vectors of the `limit` best points of some searches, as the store fuses them by reciprocal rank.

    Its constant `k` has the meaning that `core.fusion.reciprocal_rank` gives it. One of the searches is dense.
    """

    searches: Sequence[Search]
    limit: int
    k: int

    @property
    def dimension(self) -> int:
        """How long the vectors are."""
        return next(len(search.vector) for search in self.searches if search.using == "dense")


def read_result(answer: Answer) -> Any:
    """Return what stands under `result` in an answer."""
    return codec.loads(answer.body)["result"]


def ask(
    pool: Pool,
    method: str,
    path: str,
    call: Call,
    body: bytes | None = None,
    read: Callable[[Answer], Any] = read_result,
) -> Coroutine[Any, Any, Any]:
    """Send a request to Qdrant; return what `read` makes of its answer. Raises what `Pool.request` raises."""
    return pool.request(method, path, call, body, read=read, nonsense=_NOT_QDRANTS)


def match(key: str, value: str | int) -> dict[str, Any]:
    """Return the condition that a payload field has this value."""
    return {"key": key, "match": {"value": value}}


def below(sequence: int) -> dict[str, Any]:
    """Return the condition that a point belongs to an older ingest."""
    return {"key": "sequence", "range": {"lt": sequence}}


def is_empty(search: Search) -> bool:
    """Whether nothing can be found: no word is left of the question."""
    return search.using == "sparse" and not search.vector[0]


def search_json(search: Search, collection: str) -> dict[str, Any]:
    """Return one search of `points/query/batch` for points of the collection of this name."""
    wanted = _ranking_json(search, collection)
    wanted["with_payload"] = _FOUND_FIELDS
    if search.score_threshold is not None:
        wanted["score_threshold"] = search.score_threshold
    return wanted


def best_json(best: BestVectors, collection: str) -> dict[str, Any]:
    """Return the search of `points/query/batch` for vectors alone; Qdrant counts ranks from 0, so its k is one more."""
    return {
        "prefetch": [_ranking_json(search, collection) for search in best.searches if not is_empty(search)],
        "query": {"rrf": {"k": best.k + 1}},
        "limit": best.limit,
        "with_payload": False,
        "with_vector": ["dense"],
    }


def _ranking_json(search: Search, collection: str) -> dict[str, Any]:
    vector = search.vector
    wanted: dict[str, Any] = {
        "query": {"indices": vector[0], "values": vector[1]} if search.using == "sparse" else _numbers(vector),
        "using": search.using,
        "limit": search.limit,
        "filter": _everything(collection) if search.filter is None else _filter(search.filter, collection),
    }
    if search.using == "dense":
        wanted["params"] = _PARAMS
    return wanted


def _filter(wanted: Mapping[str, Any] | None, collection: str) -> Mapping[str, Any]:
    return of_collection(collection, visible_filter(wanted))


@lru_cache(1024)
def _everything(collection: str) -> Mapping[str, Any]:
    return _filter(None, collection)


def _numbers(vector: Vector) -> list[Any] | codec.Written:
    if isinstance(vector, Spelled):
        return codec.Written(vector.json)
    return vector.tolist() if isinstance(vector, array) else list(vector)


class _Found(Hit, gc=False):
    """A hit as the store tells it: the chunk itself does not know its id."""

    id: str


class _Ranking(msgspec.Struct, gc=False):
    points: list[_Found]


class _Batch(msgspec.Struct, gc=False):
    result: list[_Ranking]


_read_batch = msgspec.json.Decoder(_Batch).decode


def read_rankings(answer: Answer) -> Any:
    """Read the answer to a batch of searches for payloads alone, for `rankings_of`."""
    try:
        return _read_batch(answer.body).result
    except (msgspec.ValidationError, RecursionError):
        return read_result(answer)  # what is wrong, if it is not only that something is null, is found there


def rankings_of(answers: Iterable[Any], collection: str) -> list[list[Hit]]:
    """Return the rankings of a batch as `read_rankings` or `read_result` has read it, each best first.

    Of a document only the newest version stays among all of them. A point that several searches found is one chunk.
    Raises BackendError when one is none, or has a score that is not finite or a point of another collection.
    """
    chunks: dict[str, FoundChunk] = {}
    rankings: list[list[Hit]] = []
    for answer in answers:
        found = answer.points if type(answer) is _Ranking else _found(answer, collection)
        for hit in found:
            chunk_id = hit.id
            if chunk_id in chunks:
                hit.chunk = chunks[chunk_id]
                continue
            chunks[chunk_id] = chunk = hit.chunk
            chunk.id = chunk_id
            # Asked here of each, as most are well; `check` says what is wrong.
            if chunk.collection != collection or chunk.end - chunk.start != len(chunk.text):
                chunk.check(collection)
        # Qdrant's own order, and stable where scores are equal.
        rankings.append(sorted(found, key=_score, reverse=True))
    return rankings if is_one_version_each(chunks.values()) else newest_only(rankings)


def _found(answer: Any, collection: str) -> list[_Found]:
    try:
        points = answer["points"]
        ids, payloads, scores = ([point[name] for point in points] for name in ("id", "payload", "score"))
    except (TypeError, KeyError):
        nonsense()
    refuse_others(collection, payloads)
    if not (_NUMBERS.issuperset(map(type, scores)) and all(map(math.isfinite, scores))):
        nonsense()
    if not _TEXT.issuperset(map(type, ids)):
        nonsense()
    chunks = map(FoundChunk.from_payload, ids, payloads)
    return list(map(_Found, chunks, map(float, scores), ids))


def dense_vectors(answer: Any, dimension: int) -> dict[str, list[float]]:
    """Read the dense vectors of found points by id; raise BackendError for another dimension or what is not finite."""
    try:
        vectors = {point["id"]: point["vector"]["dense"] for point in answer["points"]}
        if not all(len(vector) == dimension and math.isfinite(math.fsum(vector)) for vector in vectors.values()):
            nonsense()
    except (TypeError, KeyError, OverflowError):
        nonsense()
    return vectors


def batches(points: Iterable[ChunkPoint], collection: str) -> Iterator[list[tuple[ChunkPoint, bytes]]]:
    """Cut a collection's points into batches of at most so many points and, a single point aside, so many bytes."""
    batch: list[tuple[ChunkPoint, bytes]] = []
    size = 0
    for point in points:
        encoded = point.to_json(collection)
        if batch and (len(batch) == _BATCH_POINTS or size + len(encoded) > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append((point, encoded))
        size += len(encoded)
    if batch:
        yield batch


def write_json(batch: Iterable[tuple[ChunkPoint, bytes]]) -> bytes:
    """Return the body that writes a batch: for each ingest a conditional upsert, and the moving up of what is seen."""
    ingests: dict[tuple[str, int], list[tuple[ChunkPoint, bytes]]] = {}
    for point, encoded in batch:
        ingests.setdefault((point.document_id, point.sequence), []).append((point, encoded))
    operations = []
    for (_, sequence), written in ingests.items():
        condition = codec.dumps({"must": [below(sequence)], "must_not": [VISIBLE]})
        joined = b",".join(encoded for _, encoded in written)
        operations.append(b'{"upsert":{"points":[' + joined + b'],"update_filter":' + condition + b"}}")
        visible = visible_filter(None, {"has_id": [point.id for point, _ in written]}, below(sequence))
        move_up = {"payload": written[0][0].attributes(), "filter": visible}
        operations.append(codec.dumps({"set_payload": move_up}))
    return b'{"operations":[' + b",".join(operations) + b"]}"


CURSOR_PATTERN = "^[A-Za-z0-9_-]{21}[AQgw]$"
"""A cursor is the id of a point in URL-safe base 64: 16 bytes."""


def encode_cursor(offset: str) -> str:
    """Return the opaque cursor for a page that begins at this point."""
    return base64.urlsafe_b64encode(uuid.UUID(offset).bytes).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """Return the point's id; raise ValidationFailedError for what `encode_cursor` did not make."""
    if not re.fullmatch(CURSOR_PATTERN.removesuffix("$"), cursor):
        raise ValidationFailedError("This is not a cursor that was answered.", param="cursor")
    return str(uuid.UUID(bytes=base64.urlsafe_b64decode(cursor + "==")))


def nonsense() -> NoReturn:
    """Refuse an answer whose shape is not Qdrant's."""
    raise BackendError(_NOT_QDRANTS)
