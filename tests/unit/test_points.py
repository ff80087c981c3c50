from __future__ import annotations

import math
import time
from typing import Any

import orjson
import pytest

from hartonomous.clients import qdrant
from hartonomous.clients.points import (
    ChunkPoint,
    DocumentState,
    Hit,
    StoredChunk,
    _Sequences,
    newest_only,
    next_sequence,
    sequence_at,
    visible_filter,
)
from hartonomous.clients.pool import NONSENSE, Answer
from hartonomous.clients.qdrant import BestVectors, Search
from hartonomous.errors import BackendError, ValidationFailedError

_ID = "11111111-1111-8111-8111-111111111111"


def _point(**changes: Any) -> ChunkPoint:
    fields: dict[str, Any] = {
        "id": _ID,
        "document_id": "handbook",
        "content_hash": "c1",
        "attributes_hash": "a1",
        "version": "sha256:1",
        "chunk_index": 0,
        "chunk_count": 1,
        "text": "A valve.",
        "start": 0,
        "end": 8,
        "headings": ("Limits", "Valves"),
        "format": "markdown",
        "title": "Handbook",
        "source": None,
        "metadata": {"team": "ops"},
        "sequence": 7,
        "updated_at": "2026-01-01T00:00:00Z",
        "dense": [0.5, 0.25],
        "sparse": ([3], [1.5]),
    }
    return ChunkPoint(**(fields | changes))


def _chunk(document: str, content: str, sequence: int) -> StoredChunk:
    payload = _payload() | {"document_id": document, "content_hash": content, "sequence": sequence}
    return StoredChunk.from_payload(_ID, payload)


def _payload() -> dict[str, Any]:
    payload: dict[str, Any] = orjson.loads(_point().to_json("docs"))["payload"]
    return payload


def test_a_point_is_written_unseen_with_both_vectors() -> None:
    written = orjson.loads(_point().to_json("docs"))
    assert written["vector"] == {"dense": [0.5, 0.25], "sparse": {"indices": [3], "values": [1.5]}}
    assert written["payload"]["visible"] is False
    assert "source" not in written["payload"]


def test_what_is_written_is_what_is_read() -> None:
    chunk = StoredChunk.from_payload(_ID, _payload())
    assert chunk.collection == "docs"
    for name in set(StoredChunk.__struct_fields__) - {"collection"}:
        assert getattr(chunk, name) == getattr(_point(), name)


def test_the_optional_fields_of_a_payload_may_be_missing_or_null() -> None:
    required = ("document_id", "content_hash", "version", "chunk_index", "chunk_count", "text", "start", "end")
    payload = {name: value for name, value in _payload().items() if name in (*required, "sequence")}
    chunk = StoredChunk.from_payload(_ID, payload | {"title": None, "metadata": None})
    assert (chunk.title, chunk.metadata, chunk.headings, chunk.format) == (None, {}, (), "text")


@pytest.mark.parametrize(
    "change",
    [{"text": None}, {"chunk_index": "0"}, {"sequence": True}, {"start": 1.5}, {"title": 5}, {"metadata": []}],
)
def test_a_payload_with_a_field_of_another_type_is_a_backend_error(change: dict[str, Any]) -> None:
    with pytest.raises(BackendError):
        StoredChunk.from_payload(_ID, _payload() | change)


@pytest.mark.parametrize("payload", [None, [], {}, {"text": "x"}])
def test_a_payload_that_is_no_chunk_is_a_backend_error(payload: object) -> None:
    with pytest.raises(BackendError):
        StoredChunk.from_payload(_ID, payload)
    with pytest.raises(BackendError):
        DocumentState.from_payload(payload)


def test_sequences_rise_and_are_exact_as_doubles() -> None:
    """Qdrant compares a range as doubles."""
    values = [next_sequence() for _ in range(10_000)]
    assert values == sorted(set(values))
    assert values[-1] < sequence_at(4_390_000_000) < 2**53  # the year 2109
    assert sequence_at(1_800_000_000.001) - sequence_at(1_800_000_000) > 2_000


def test_a_sequence_does_not_fall_when_the_wall_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    before = next_sequence()
    monkeypatch.setattr("time.time", lambda: 1_000_000_000.0)
    assert next_sequence() > before


def test_a_callers_filter_cannot_widen_what_is_visible() -> None:
    wide = {"should": [{"key": "visible", "match": {"value": False}}], "must_not": []}
    condition = visible_filter(wide)
    assert condition == {"must": [{"key": "visible", "match": {"value": True}}, wide]}


def test_of_several_versions_only_the_newest_stays_in_all_rankings() -> None:
    old, new, other = _chunk("a", "c1", 1), _chunk("a", "c2", 2), _chunk("b", "c1", 1)
    dense, sparse = newest_only([[Hit(old, 0.9), Hit(other, 0.8)], [Hit(new, 5.0), Hit(old, 4.0)]])
    assert dense == [Hit(other, 0.8)]
    assert sparse == [Hit(new, 5.0)]


def test_a_version_whose_attributes_are_being_changed_stays_whole() -> None:
    ranking = [Hit(_chunk("a", "c1", 1), 0.9), Hit(_chunk("a", "c1", 2), 0.8)]
    assert newest_only([ranking]) == [ranking]


def test_two_versions_of_one_sequence_are_told_apart_the_same_way_by_every_reader() -> None:
    one, two = Hit(_chunk("a", "c1", 1), 0.9), Hit(_chunk("a", "c2", 1), 0.8)
    assert newest_only([[one, two]]) == newest_only([[two, one]]) == [[two]]


_OWN = {
    "must": [{"key": "visible", "match": {"value": True}}],
    "must_not": [{"key": "collection", "match": {"except": ["docs"]}}],
}


def test_a_search_sees_visible_points_of_its_collection_only_whatever_its_filter_says() -> None:
    search = qdrant.search_json(Search("dense", [1.0], 5), "docs")
    assert search["filter"] == _OWN
    assert "score_threshold" not in search


def test_the_points_that_feedback_asks_for_are_those_of_the_collection_as_well() -> None:
    search = Search("dense", [1.0], 5)
    asked = qdrant.best_json(BestVectors([search], 10, 60), "docs")
    assert [one["filter"] for one in asked["prefetch"]] == [_OWN]


def test_a_hit_that_says_that_it_is_another_collections_is_refused() -> None:
    answer = {"points": [{"id": _ID, "payload": _payload(), "score": 0.5}]}
    assert len(qdrant.rankings_of([answer], "docs")[0]) == 1
    with pytest.raises(BackendError) as caught:
        qdrant.rankings_of([answer], "other")
    assert caught.value.error_code == "foreign_points"


@pytest.mark.parametrize("older", [{}, {"collection": None}])
def test_a_hit_that_does_not_say_whose_it_is_is_taken(older: dict[str, Any]) -> None:
    payload = {name: value for name, value in _payload().items() if name != "collection"} | older
    [ranking] = qdrant.rankings_of([{"points": [{"id": _ID, "payload": payload, "score": 0.5}]}], "docs")
    assert len(ranking) == 1


@pytest.mark.parametrize("score", [math.nan, math.inf, None, "1", True])
def test_a_score_that_is_no_finite_number_is_a_backend_error(score: object) -> None:
    with pytest.raises(BackendError):
        qdrant.rankings_of([{"points": [{"id": _ID, "payload": _payload(), "score": score}]}], "docs")


@pytest.mark.parametrize("answer", [None, [], {}, {"points": [{}]}, {"points": 5}])
def test_an_answer_of_another_shape_is_a_backend_error(answer: object) -> None:
    with pytest.raises(BackendError):
        qdrant.rankings_of([answer], "docs")


@pytest.mark.parametrize(
    "vector",
    [None, {}, {"dense": None}, {"dense": [1.0, None]}, {"dense": [math.nan, 1.0]}, {"dense": "ab"}, {"dense": [1.0]}],
)
def test_a_vector_that_is_not_all_finite_numbers_is_a_backend_error(vector: object) -> None:
    with pytest.raises(BackendError):
        qdrant.dense_vectors({"points": [{"id": _ID, "vector": vector}]}, 2)


@pytest.mark.parametrize("answer", [None, [], {}, {"points": [{}]}, {"points": 5}])
def test_vectors_of_another_shape_are_a_backend_error(answer: object) -> None:
    with pytest.raises(BackendError):
        qdrant.dense_vectors(answer, 2)


def test_a_write_is_cut_by_count_and_by_bytes() -> None:
    assert [len(batch) for batch in qdrant.batches([_point()] * 600, "docs")] == [256, 256, 88]
    large = _point(text="x" * 500_000)
    assert [len(batch) for batch in qdrant.batches([large, large, _point()], "docs")] == [1, 2]


def test_the_ingests_of_one_write_are_conditional_each_on_its_own_sequence() -> None:
    (batch,) = qdrant.batches([_point(), _point(document_id="other", sequence=9)], "docs")
    operations = orjson.loads(qdrant.write_json(batch))["operations"]
    conditions = [operation["upsert"]["update_filter"] for operation in operations if "upsert" in operation]
    assert [condition["must"][0]["range"] for condition in conditions] == [{"lt": 7}, {"lt": 9}]


def test_a_cursor_comes_back_as_the_point_it_was_made_of() -> None:
    assert qdrant.decode_cursor(qdrant.encode_cursor(_ID)) == _ID


@pytest.mark.parametrize("cursor", ["", "x", "!", "é", "AAAA", "MQ", "a" * 10_000, "\x00"])
def test_a_cursor_that_was_not_answered_is_refused(cursor: str) -> None:
    with pytest.raises(ValidationFailedError) as caught:
        qdrant.decode_cursor(cursor)
    assert caught.value.param == "cursor"


def test_a_sequence_comes_after_what_it_replaces_whatever_the_clock_says() -> None:
    far = sequence_at(time.time() + 3600)
    sequences = _Sequences()  # of its own: the process's would be ahead for all tests that follow
    first = sequences.next(far)
    assert first > far
    assert sequences.next() > first


def test_processes_whose_clocks_are_behind_what_they_replace_hardly_ever_take_the_same_sequence() -> None:
    far = sequence_at(time.time() + 3600)
    assert len({_Sequences().next(far) for _ in range(100)}) > 80


@pytest.mark.parametrize(("start", "end"), [(-4, 0), (0, 5), (4, 4)])
def test_offsets_that_do_not_fit_the_text_are_nonsense(start: int, end: int) -> None:
    payload = {
        "document_id": "d",
        "content_hash": "h",
        "version": "v",
        "chunk_index": 0,
        "chunk_count": 1,
        "text": "text",
        "start": start,
        "end": end,
        "sequence": 1,
    }
    with pytest.raises(BackendError):
        StoredChunk.from_payload("id", payload)


def _batch(*points: dict[str, Any]) -> Answer:
    return Answer(200, orjson.dumps({"result": [{"points": points}]}), {})


def test_what_is_null_in_a_payload_is_missing_in_a_ranking_as_well() -> None:
    """No decoder takes it at once, so the ranking is read in a second way, and says the same."""
    older = _payload() | {"metadata": None, "updated_at": None, "headings": None, "id": 5}
    plain = {name: value for name, value in older.items() if value is not None and name != "id"}
    rankings = [
        qdrant.rankings_of(qdrant.read_rankings(_batch({"id": _ID, "payload": payload, "score": 1})), "docs")
        for payload in (older, plain)
    ]
    assert rankings[0] == rankings[1]
    [hit] = rankings[0][0]
    assert (hit.chunk.id, hit.chunk.metadata, hit.chunk.headings, hit.score) == (_ID, {}, (), 1.0)


_FOREIGN = {"collection": "other"}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"text": 5}, "bad_backend_answer"),
        ({"start": -1, "end": 7}, "bad_backend_answer"),
        ({"end": 9}, "bad_backend_answer"),
        ({"sequence": None}, "bad_backend_answer"),
        (_FOREIGN, "foreign_points"),
        (_FOREIGN | {"text": 5, "end": 9}, "foreign_points"),
        ({"collection": 5}, "foreign_points"),
        ({"collection": ["docs"]}, "foreign_points"),
    ],
)
def test_a_found_point_that_is_not_a_chunk_of_the_collection_is_refused(change: dict[str, Any], code: str) -> None:
    answer = _batch({"id": _ID, "payload": _payload() | change, "score": 0.5})
    with pytest.raises(BackendError) as caught:
        qdrant.rankings_of(qdrant.read_rankings(answer), "docs")
    assert caught.value.error_code == code


@pytest.mark.parametrize(
    "change", [{"id": 5}, {"id": None}, {"score": None}, {"score": "1"}, {"score": True}, {"payload": None}]
)
def test_a_found_point_without_id_score_or_payload_is_a_backend_error(change: dict[str, Any]) -> None:
    answer = _batch({"id": _ID, "payload": _payload(), "score": 0.5} | change)
    with pytest.raises(BackendError):
        qdrant.rankings_of(qdrant.read_rankings(answer), "docs")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"result":', b'{"results": []}', b'{"result": [}', b"[" * 9_999])
def test_an_answer_that_is_no_batch_is_the_services_failure(body: bytes) -> None:
    with pytest.raises(NONSENSE):
        qdrant.read_rankings(Answer(200, body, {}))
