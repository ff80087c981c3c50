"""The vector client against a real store: what is seen, when, and what a crash or a competitor leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from hartonomous.clients.points import ChunkPoint, DocumentState, FoundChunk, StoredChunk, next_sequence, sequence_at
from hartonomous.clients.pool import Pool
from hartonomous.clients.reach import name_of
from hartonomous.clients.schema import Schema
from hartonomous.clients.sparse import Bm25Encoder
from hartonomous.clients.vectors import BestVectors, Search, VectorClient
from hartonomous.clients.versions import AttributeChange, DocumentChangedError, Publication
from hartonomous.core.access import EVERYTHING
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.core.fingerprint import EmbeddingFingerprint, point_id
from hartonomous.errors import (
    BackendError,
    BackendUnavailableError,
    HartonomousError,
    NotFoundError,
    ValidationFailedError,
)
from hartonomous.metrics import Metrics
from hartonomous.services import Qdrant
from tests.service.gate import gate

pytest_plugins = ("tests.service.vector_store",)

_WORDS = {"valve": [1.0, 0.0, 0.0, 0.1], "pump": [0.0, 1.0, 0.0, 0.1], "motor": [0.0, 0.0, 1.0, 0.1]}
_BM25 = Bm25Encoder("english")


def _call() -> Call:
    return Call("test", Deadline(60.0), grant=EVERYTHING)


@pytest.fixture
async def pool(vector_url: str) -> AsyncIterator[Pool]:
    pool = Pool("qdrant", (vector_url,), Qdrant(url=vector_url), Metrics())
    yield pool
    await pool.close()


@pytest.fixture
def client(pool: Pool) -> VectorClient:
    return VectorClient(pool)


@pytest.fixture
async def docs(pool: Pool, vector_url: str, collection_name: str) -> AsyncIterator[str]:
    """An empty collection."""
    schema = Schema(pool, Qdrant(url=vector_url))
    await schema.ensure(collection_name, EmbeddingFingerprint("tiny", 4, "", ""), "english", _call())
    yield collection_name
    await schema.drop(collection_name, _call())


def _points(document: str, words: Sequence[str], sequence: int, **changes: Any) -> list[ChunkPoint]:
    """A document with a chunk for each of the words; its content is named by them."""
    content = "-".join(words)
    points = []
    end = 0
    for index, word in enumerate(words):
        text = f"The {word} of {document}."
        start, end = end + 2 * bool(index), end + 2 * bool(index) + len(text)
        fields: dict[str, Any] = {
            "id": point_id(document, content, index),
            "document_id": document,
            "content_hash": content,
            "attributes_hash": "a",
            "version": f"sha256:{content}",
            "chunk_index": index,
            "chunk_count": len(words),
            "text": text,
            "start": start,
            "end": end,
            "gap": "\n\n" if index else None,
            "headings": ("Parts",),
            "format": "markdown",
            "title": "Handbook",
            "source": "https://example.org/handbook",
            "metadata": {"team": "ops"},
            "sequence": sequence,
            "updated_at": "2026-01-01T00:00:00Z",
            "dense": _WORDS.get(word, [0.5, 0.5, 0.5, 0.5]),
            "sparse": _BM25.document(word),
        }
        points.append(ChunkPoint(**(fields | changes)))
    return points


async def _publish(client: VectorClient, collection: str, points: Sequence[ChunkPoint]) -> None:
    (error,) = await client.publish(collection, [_publication(points)], _call())
    if error is not None:
        raise error


def _publication(points: Sequence[ChunkPoint]) -> Publication:
    return Publication(points[0].document_id, [point.id for point in points], points[0].sequence)


async def _ingest(client: VectorClient, collection: str, document: str, words: Sequence[str], **changes: Any) -> None:
    points = _points(document, words, next_sequence(), **changes)
    await client.write(collection, points, _call())
    await _publish(client, collection, points)


async def _stored(pool: Pool, collection: str) -> list[dict[str, Any]]:
    """All payloads there are, seen or unseen."""
    body = orjson.dumps({"limit": 10_000, "with_payload": True})
    answer = await pool.request("POST", f"/collections/{collection}/points/scroll", _call(), body)
    payloads = [point["payload"] for point in orjson.loads(answer.body)["result"]["points"]]
    return sorted(payloads, key=lambda payload: (payload["document_id"], payload["chunk_index"]))


async def _show(pool: Pool, collection: str, points: Sequence[ChunkPoint]) -> None:
    """The first operation of a publish without the second, as a crash between them leaves it."""
    body = orjson.dumps({"payload": {"visible": True}, "points": [point.id for point in points]})
    await pool.request("POST", f"/collections/{collection}/points/payload?wait=true", _call(), body)


async def _words(client: VectorClient, collection: str, document: str) -> list[str]:
    return [_word(chunk) for chunk in await client.chunks(collection, document, _call())]


def _word(chunk: FoundChunk) -> str:
    return chunk.text.split()[1]


def _dense(word: str, limit: int = 10, **changes: Any) -> Search:
    return Search("dense", _WORDS[word], limit, **changes)


def _sparse(text: str, **changes: Any) -> Search:
    return Search("sparse", _BM25.query(text), 10, **changes)


async def test_a_published_document_is_found_by_meaning_and_by_words(client: VectorClient, docs: str) -> None:
    await _ingest(client, docs, "h", ["valve", "pump", "motor"])
    dense, sparse = await client.search(docs, [_dense("pump"), _sparse("pumps")], _call())
    assert _word(dense[0].chunk) == "pump"
    assert dense[0].score == pytest.approx(1.0, abs=1e-4)
    assert dense[1].score == pytest.approx(0.01 / 1.01, abs=1e-4)
    assert [_word(hit.chunk) for hit in sparse] == ["pump"]
    assert sparse[0].chunk == dense[0].chunk


async def test_what_is_read_of_a_chunk_is_what_was_written(client: VectorClient, docs: str) -> None:
    (point,) = _points("h", ["valve"], next_sequence(), page=3, embedding_tokens=7)
    await client.write(docs, [point], _call())
    await _publish(client, docs, [point])
    (chunk,) = await client.chunks(docs, "h", _call())
    names = set(StoredChunk.__struct_fields__) - {"collection"}
    assert chunk == StoredChunk(**{name: getattr(point, name) for name in names}, collection=name_of(docs))


async def test_written_chunks_are_seen_by_no_reader_until_they_are_published(client: VectorClient, docs: str) -> None:
    points = _points("h", ["valve"], next_sequence())
    await client.write(docs, points, _call())
    assert await client.search(docs, [_dense("valve"), _sparse("valve")], _call()) == [[], []]
    assert await client.chunks(docs, "h", _call()) == []
    assert await client.states(docs, ["h"], _call()) == {}
    assert await client.documents(docs, 10, None, _call()) == ([], None)
    assert await client.counts(docs, _call()) == (0, 0)


async def test_a_filter_narrows_and_cannot_show_what_is_unseen(client: VectorClient, docs: str) -> None:
    await _ingest(client, docs, "a", ["valve"], metadata={"team": "ops"})
    await _ingest(client, docs, "b", ["valve"], metadata={"team": "sales"})
    await client.write(docs, _points("c", ["valve"], next_sequence()), _call())
    ops = {"must": [{"key": "metadata.team", "match": {"value": "ops"}}]}
    unseen = {
        "should": [{"key": "visible", "match": {"value": False}}, {"key": "document_id", "match": {"value": "c"}}]
    }
    searches = [
        _dense("valve", filter=ops),
        _dense("valve", filter=unseen),
        _dense("valve", filter={"must_not": [ops]}),
    ]
    found = await client.search(docs, searches, _call())
    assert [[hit.chunk.document_id for hit in ranking] for ranking in found] == [["a"], [], ["b"]]


async def test_limit_and_threshold_cut_a_ranking(client: VectorClient, docs: str) -> None:
    await _ingest(client, docs, "h", ["valve", "pump", "motor"])
    cut, strict = await client.search(docs, [_dense("pump", limit=2), _dense("pump", score_threshold=0.5)], _call())
    assert (len(cut), len(strict)) == (2, 1)


async def test_the_vectors_of_the_best_of_two_searches_come_with_their_rankings(
    client: VectorClient, docs: str
) -> None:
    await client.write(docs, _points("unseen", ["pump"], next_sequence()), _call())
    await _ingest(client, docs, "h", ["valve", "pump", "motor"])
    searches = [_dense("pump"), _sparse("motor pump")]
    alone, both = [BestVectors(searches[:1], 1, 60), BestVectors(searches, 2, 60)]
    rankings, vectors = await client.search_with_vectors(docs, searches, [alone, both], _call())
    plain = await client.search(docs, searches, _call())
    assert [{hit.chunk.id for hit in ranking} for ranking in rankings] == [
        {hit.chunk.id for hit in ranking} for ranking in plain
    ]
    length = 1.01**0.5
    pump, motor = (rankings[0][0].chunk.id, next(hit.chunk.id for hit in rankings[1] if "motor" in hit.chunk.text))
    assert list(vectors[0]) == [pump]
    assert set(vectors[1]) == {pump, motor}
    assert vectors[0][pump] == vectors[1][pump] == pytest.approx([0.0, 1 / length, 0.0, 0.1 / length], abs=1e-4)
    assert vectors[1][motor] == pytest.approx([0.0, 0.0, 1 / length, 0.1 / length], abs=1e-4)


async def test_the_vectors_are_of_length_one_also_where_there_are_no_words(client: VectorClient, docs: str) -> None:
    await _ingest(client, docs, "h", ["valve"], dense=[3.0, 0.0, 4.0, 0.0])
    _, (vectors,) = await client.search_with_vectors(
        docs, [], [BestVectors([_dense("valve"), _sparse("the of")], 5, 60)], _call()
    )
    assert list(vectors.values()) == [pytest.approx([0.6, 0.0, 0.8, 0.0], abs=1e-4)]


async def test_a_question_without_words_finds_nothing(client: VectorClient, docs: str) -> None:
    await _ingest(client, docs, "h", ["valve"])
    none, one = await client.search(docs, [_sparse("the of"), _dense("valve")], _call())
    assert (none, len(one)) == ([], 1)
    assert await client.search(docs, [_sparse("")], _call()) == [[]]
    assert await client.search(docs, [], _call()) == []


async def test_a_new_text_replaces_the_old_one(client: VectorClient, pool: Pool, docs: str) -> None:
    await _ingest(client, docs, "h", ["valve", "pump"])
    await _ingest(client, docs, "h", ["motor"])
    assert [payload["content_hash"] for payload in await _stored(pool, docs)] == ["motor"]
    assert await _words(client, docs, "h") == ["motor"]


async def test_a_text_that_comes_back_is_stored_again(client: VectorClient, pool: Pool, docs: str) -> None:
    for words in (["valve", "pump"], ["motor"], ["valve", "pump"]):
        await _ingest(client, docs, "h", words)
    assert await _words(client, docs, "h") == ["valve", "pump"]
    assert len(await _stored(pool, docs)) == 2


async def test_other_documents_are_left_alone(client: VectorClient, docs: str) -> None:
    await _ingest(client, docs, "a", ["valve"])
    await _ingest(client, docs, "b", ["pump"])
    await _ingest(client, docs, "b", ["motor"])
    assert await _words(client, docs, "a") == ["valve"]


async def test_a_write_of_several_documents_keeps_each_ones_order(client: VectorClient, docs: str) -> None:
    points = _points("a", ["valve", "pump"], next_sequence()) + _points("b", ["motor"], next_sequence())
    await client.write(docs, points, _call())
    await _publish(client, docs, points[:2])
    await _publish(client, docs, points[2:])
    assert (await _words(client, docs, "a"), await _words(client, docs, "b")) == (["valve", "pump"], ["motor"])


async def test_an_ingest_that_publishes_after_a_newer_one_is_dropped(
    client: VectorClient, pool: Pool, docs: str
) -> None:
    older = _points("h", ["valve", "pump"], next_sequence())
    await client.write(docs, older, _call())
    newer = _points("h", ["motor"], next_sequence())
    await client.write(docs, newer, _call())
    await _publish(client, docs, newer)
    await client.write(docs, older[1:], _call())  # a slow writer's last batch
    await _publish(client, docs, older)
    assert [payload["content_hash"] for payload in await _stored(pool, docs)] == ["motor"]


async def test_a_newer_ingest_that_is_not_published_stays_when_an_older_one_publishes(
    client: VectorClient, docs: str
) -> None:
    older, newer = _points("h", ["valve"], next_sequence()), _points("h", ["motor"], next_sequence())
    await client.write(docs, newer, _call())
    await client.write(docs, older, _call())
    await _publish(client, docs, older)
    assert await _words(client, docs, "h") == ["valve"]
    await _publish(client, docs, newer)
    assert await _words(client, docs, "h") == ["motor"]


async def test_the_same_write_and_publish_again_change_nothing(client: VectorClient, pool: Pool, docs: str) -> None:
    points = _points("h", ["valve", "pump"], next_sequence())
    await client.write(docs, points, _call())
    await client.write(docs, points, _call())
    await _publish(client, docs, points)
    before = await _stored(pool, docs)
    await client.write(docs, points, _call())
    await _publish(client, docs, points)
    assert await _stored(pool, docs) == before


async def test_writing_a_text_that_is_visible_hides_nothing_and_brings_its_attributes(
    client: VectorClient, pool: Pool, docs: str
) -> None:
    await _ingest(client, docs, "h", ["valve", "pump"])
    again = _points("h", ["valve", "pump"], next_sequence(), title=None, metadata={"team": "sales"})
    await client.write(docs, again, _call())
    assert await _words(client, docs, "h") == ["valve", "pump"]
    await _publish(client, docs, again)
    stored = await _stored(pool, docs)
    assert [(payload.get("title"), payload["metadata"]) for payload in stored] == [(None, {"team": "sales"})] * 2
    assert {payload["sequence"] for payload in stored} == {again[0].sequence}


async def test_an_ingest_that_was_killed_before_it_published_is_mended_by_the_next(
    client: VectorClient, pool: Pool, docs: str
) -> None:
    await _ingest(client, docs, "h", ["valve"])
    await client.write(docs, _points("h", ["pump", "motor"], next_sequence())[1:], _call())
    assert await _words(client, docs, "h") == ["valve"]
    await _ingest(client, docs, "h", ["pump", "motor"])
    assert [payload["content_hash"] for payload in await _stored(pool, docs)] == ["pump-motor"] * 2


async def test_chunks_of_a_killed_ingest_go_with_the_next_one_of_another_text(
    client: VectorClient, pool: Pool, docs: str
) -> None:
    await client.write(docs, _points("h", ["pump", "motor"], next_sequence()), _call())
    await _ingest(client, docs, "h", ["valve"])
    assert len(await _stored(pool, docs)) == 1


async def test_what_one_shard_showed_of_an_older_version_goes_with_the_newer_one(
    client: VectorClient, pool: Pool, docs: str
) -> None:
    """Published at once, where another shard had the newer one first and has deleted the older one's first chunk."""
    older, newer = _points("h", ["pump", "motor"], next_sequence()), _points("h", ["valve"], next_sequence())
    await client.write(docs, older[1:], _call())
    await client.write(docs, newer, _call())
    await _show(pool, docs, older[1:])
    await _publish(client, docs, newer)
    assert [payload["content_hash"] for payload in await _stored(pool, docs)] == ["valve"]
    assert await client.search(docs, [_sparse("motor")], _call()) == [[]]


async def test_what_one_shard_showed_of_an_older_version_goes_with_a_sweep(
    client: VectorClient, pool: Pool, docs: str
) -> None:
    """As a crash leaves it before the publish of the newer one has looked; what is about to be shown stays."""
    older, newer = _points("h", ["pump", "motor"], next_sequence()), _points("h", ["valve"], next_sequence())
    coming = _points("h", ["motor", "pump", "valve"], next_sequence())
    for points in (newer, older[1:], coming):
        await client.write(docs, points, _call())
        await _show(pool, docs, points[-1:])
    assert len(await _stored(pool, docs)) == 5
    assert await client.sweep(docs, 3_600.0, _call()) == 0
    assert sorted(payload["content_hash"] for payload in await _stored(pool, docs)) == [
        *["motor-pump-valve"] * 3,
        "valve",
    ]


async def test_replacing_a_large_document_reads_neither_its_chunks_nor_its_attributes(
    client: VectorClient, docs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _ingest(client, docs, "h", ["pump"] * 300, content_hash="old", metadata={"about": "x" * 10_000})
    read: list[int] = []
    post = client._post

    async def measured(collection: str, what: str, body: Mapping[str, Any], call: Call) -> Any:
        result = await post(collection, what, body, call)
        read.append(len(orjson.dumps(result)))
        return result

    monkeypatch.setattr(client, "_post", measured)
    await _ingest(client, docs, "h", ["valve", "motor"], metadata={"about": "y" * 10_000})
    assert sum(read) < 3_000
    assert await _words(client, docs, "h") == ["valve", "motor"]


async def test_a_publish_that_was_killed_half_way_is_read_as_the_new_version_and_mended(
    client: VectorClient, pool: Pool, docs: str
) -> None:
    await _ingest(client, docs, "h", ["valve", "pump"])
    newer = _points("h", ["valve"], next_sequence())
    await client.write(docs, newer, _call())
    await _show(pool, docs, newer)
    assert await _words(client, docs, "h") == ["valve"]
    (dense, _) = await client.search(docs, [_dense("valve"), _sparse("pump")], _call())
    assert {hit.chunk.content_hash for hit in dense} == {"valve"}
    states = await client.states(docs, ["h"], _call())
    assert states["h"].content_hash == "valve"
    assert len(await _stored(pool, docs)) == 1


async def test_a_version_of_which_only_a_part_was_shown_takes_nothing_away(
    client: VectorClient, pool: Pool, docs: str
) -> None:
    """Its first chunk as well: a shard failed in the middle of the publish, and nobody was told that it is stored."""
    await _ingest(client, docs, "h", ["pump"])
    newer = _points("h", ["valve", "motor"], next_sequence())
    await client.write(docs, newer, _call())
    await _show(pool, docs, newer[:1])
    assert (await client.states(docs, ["h"], _call()))["h"].content_hash == "pump"
    await client.sweep(docs, 3_600.0, _call())
    assert await _words(client, docs, "h") == ["pump"]
    again = _points("h", ["valve", "motor"], next_sequence())
    await client.write(docs, again, _call())
    await _publish(client, docs, again)
    assert [payload["content_hash"] for payload in await _stored(pool, docs)] == ["valve-motor"] * 2


@pytest.mark.parametrize(("first", "second"), [("motor", "valve"), ("valve", "motor")])
async def test_of_two_versions_of_one_sequence_one_stays_whoever_deletes_late(
    client: VectorClient, pool: Pool, docs: str, vector_url: str, first: str, second: str
) -> None:
    """The first publish has looked before the second one shows its version, and deletes when that one is done."""
    await _ingest(client, docs, "h", ["pump"])
    sequence = next_sequence()
    ours, others = _points("h", [first], sequence), _points("h", [second], sequence)
    await client.write(docs, ours, _call())
    await client.write(docs, others, _call())

    def deletes_outdated(method: str, where: str, body: bytes) -> bool:
        return b'"delete"' in body and b'"set_payload"' not in body

    async with gate(vector_url, deletes_outdated) as made:
        late = Pool("qdrant", (made.url,), Qdrant(url=made.url), Metrics())
        publishing = asyncio.create_task(_publish(VectorClient(late), docs, ours))
        try:
            await asyncio.wait_for(made.reached.wait(), 30.0)
            await _publish(client, docs, others)
            made.open()
            await publishing
        finally:
            await late.close()
    assert [payload["content_hash"] for payload in await _stored(pool, docs)] == ["valve"]


@pytest.mark.parametrize("done", [0, 1, 2])
async def test_a_publish_that_was_killed_between_two_operations_leaves_nothing_when_sent_again(
    client: VectorClient, pool: Pool, docs: str, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """A document that is visible is not written again: what was never shown must have gone before."""
    await client.write(docs, _points("h", ["pump", "motor"], next_sequence()), _call())
    await client.write(docs, newer := _points("h", ["valve"], next_sequence()), _call())
    batch = VectorClient._batch

    async def killed(self: VectorClient, collection: str, operations: Sequence[Any], call: Call) -> None:
        await batch(self, collection, operations[:done], call)

    with monkeypatch.context() as patch:
        patch.setattr(VectorClient, "_batch", killed)
        await client.publish(docs, [_publication(newer)], _call())
    if not await client.states(docs, ["h"], _call()):
        await _ingest(client, docs, "h", ["valve"])
    assert [(payload["content_hash"], payload["visible"]) for payload in await _stored(pool, docs)] == [("valve", True)]


async def test_who_keeps_answers_is_told_once_more_when_the_replaced_version_is_gone(
    client: VectorClient, pool: Pool, docs: str
) -> None:
    """Between the two a search can still find the old one, where the new one is not among the hits."""
    await _ingest(client, docs, "h", ["valve"])
    told: list[set[str]] = []

    async def on_change(collection: str) -> None:
        told.append({payload["version"] for payload in await _stored(pool, collection)})

    client.on_change = on_change
    await _ingest(client, docs, "h", ["pump"])
    assert told == [{"sha256:valve", "sha256:pump"}, {"sha256:pump"}]
    await _show(pool, docs, await _written(client, docs, "h", ["motor"]))
    await client.sweep(docs, 3_600.0, _call())
    assert told[2:] == [{"sha256:motor"}]


async def _written(client: VectorClient, collection: str, document: str, words: Sequence[str]) -> list[ChunkPoint]:
    points = _points(document, words, next_sequence())
    await client.write(collection, points, _call())
    return points


async def test_rankings_of_one_question_never_mix_two_versions(client: VectorClient, pool: Pool, docs: str) -> None:
    """The old version's words do not bring it back when the new one is found by meaning."""
    await _ingest(client, docs, "h", ["pump"])
    newer = _points("h", ["valve"], next_sequence())
    await client.write(docs, newer, _call())
    await _show(pool, docs, newer)
    dense, sparse = await client.search(docs, [_dense("valve", limit=1), _sparse("pump")], _call())
    assert ([hit.chunk.content_hash for hit in dense], sparse) == (["valve"], [])


async def test_publishing_what_was_deleted_meanwhile_is_refused_and_shows_nothing(
    client: VectorClient, pool: Pool, docs: str
) -> None:
    points = _points("h", ["valve", "pump"], next_sequence())
    await client.write(docs, points[:1], _call())
    with pytest.raises(BackendUnavailableError):
        await _publish(client, docs, points)
    assert [payload["visible"] for payload in await _stored(pool, docs)] == [False]


async def test_states_tell_of_the_documents_that_exist(client: VectorClient, docs: str) -> None:
    await _ingest(client, docs, "a", ["valve", "pump"])
    await _ingest(client, docs, "b", ["motor"], title=None, source=None, metadata={})
    states = await client.states(docs, ["a", "b", "none"], _call())
    assert set(states) == {"a", "b"}
    assert (states["a"].chunk_count, states["a"].title, states["a"].metadata) == (2, "Handbook", {"team": "ops"})
    assert (states["b"].title, states["b"].source, states["b"].metadata) == (None, None, {})
    assert await client.states(docs, [], _call()) == {}


async def _change(client: VectorClient, docs: str, state: DocumentState, sequence: int) -> HartonomousError | None:
    when = "2026-02-02T00:00:00Z"
    change = AttributeChange(
        state=state,
        title="New",
        source=None,
        metadata={"k": [1]},
        attributes_hash="a2",
        version="sha256:2",
        sequence=sequence,
        updated_at=when,
    )
    (error,) = await client.set_attributes(docs, [change], _call())
    return error


async def test_attributes_change_on_all_chunks_and_a_null_removes_one(client: VectorClient, docs: str) -> None:
    await _ingest(client, docs, "h", ["valve", "pump"])
    before = (await client.states(docs, ["h"], _call()))["h"]
    assert await _change(client, docs, before, next_sequence()) is None
    chunks = await client.chunks(docs, "h", _call())
    changed = {(chunk.title, chunk.source, str(chunk.metadata), chunk.version, chunk.updated_at) for chunk in chunks}
    assert changed == {("New", None, "{'k': [1]}", "sha256:2", "2026-02-02T00:00:00Z")}
    assert [_word(chunk) for chunk in chunks] == ["valve", "pump"]


async def test_attributes_of_an_older_ingest_do_not_overwrite_those_of_a_newer(client: VectorClient, docs: str) -> None:
    late = next_sequence()
    await _ingest(client, docs, "h", ["valve"])
    state = (await client.states(docs, ["h"], _call()))["h"]
    assert await _change(client, docs, state, late) is None
    assert (await client.states(docs, ["h"], _call()))["h"] == state


async def test_attributes_of_a_version_that_is_gone_change_nothing_and_are_refused(
    client: VectorClient, docs: str
) -> None:
    await _ingest(client, docs, "h", ["valve"])
    gone = (await client.states(docs, ["h"], _call()))["h"]
    await _ingest(client, docs, "h", ["pump"])
    assert isinstance(await _change(client, docs, gone, next_sequence()), DocumentChangedError)
    assert (await client.states(docs, ["h"], _call()))["h"].title == "Handbook"
    await client.delete_document(docs, "h", _call())
    assert isinstance(await _change(client, docs, gone, next_sequence()), DocumentChangedError)


@asynccontextmanager
async def _switched(url: str, docs: str, copied: Sequence[ChunkPoint]) -> AsyncIterator[VectorClient]:
    """Yield a client of which the first showing or change of attributes meets another collection of that name."""

    def moment(method: str, where: str, body: bytes) -> bool:
        return "/points/batch" in where and b'"set_payload":{"payload":{' in body

    async with gate(url, moment) as made:
        behind, before = (Pool("qdrant", (at,), Qdrant(url=at), Metrics()) for at in (made.url, url))

        async def switch() -> None:
            await made.reached.wait()
            targets = Schema(before, Qdrant(url=url)).targets
            name = await targets.build(docs, EmbeddingFingerprint("tiny", 4, "", "new"), "english", _call())
            if copied:
                client = VectorClient(before)
                await client.write(name, copied, _call())
                await _publish(client, name, copied)
            await targets.switch(docs, name, _call())
            made.open()

        switching = asyncio.create_task(switch())
        try:
            yield VectorClient(behind)
            await switching
        finally:
            switching.cancel()
            await behind.close()
            await before.close()


@pytest.mark.parametrize("is_copied", [False, True])
async def test_a_publication_that_meets_another_collection_is_refused_and_succeeds_when_it_is_done_again(
    client: VectorClient, vector_url: str, docs: str, is_copied: bool
) -> None:
    old = _points("h", ["valve"], next_sequence())
    await client.write(docs, old, _call())
    await _publish(client, docs, old)
    points = _points("h", ["pump"], next_sequence())
    await client.write(docs, points, _call())
    async with _switched(vector_url, docs, old if is_copied else ()) as switched:
        with pytest.raises(DocumentChangedError):
            await _publish(switched, docs, points)
        assert await _words(switched, docs, "h") == ["valve"] * is_copied
        await switched.write(docs, points, _call())
        await _publish(switched, docs, points)
        assert await _words(switched, docs, "h") == ["pump"]


async def test_a_change_of_attributes_that_meets_another_collection_is_refused(
    client: VectorClient, vector_url: str, docs: str
) -> None:
    old = _points("h", ["valve"], next_sequence())
    await client.write(docs, old, _call())
    await _publish(client, docs, old)
    state = (await client.states(docs, ["h"], _call()))["h"]
    new = _points("h", ["pump"], state.sequence)  # the same document cut in another way
    async with _switched(vector_url, docs, new) as switched:
        assert isinstance(await _change(switched, docs, state, next_sequence()), DocumentChangedError)
        state = (await client.states(docs, ["h"], _call()))["h"]
        assert state.title == "Handbook"
        assert await _change(switched, docs, state, next_sequence()) is None
        assert (await client.states(docs, ["h"], _call()))["h"].title == "New"


async def test_a_deleted_document_is_gone_and_deleting_it_again_is_fine(
    client: VectorClient, pool: Pool, docs: str
) -> None:
    await _ingest(client, docs, "a", ["valve", "pump"])
    await _ingest(client, docs, "b", ["motor"])
    for _ in range(2):
        await client.delete_document(docs, "a", _call())
    assert [payload["document_id"] for payload in await _stored(pool, docs)] == ["b"]


async def test_an_ingest_under_way_survives_a_delete_and_an_abandoned_one_does_not(
    client: VectorClient, pool: Pool, docs: str
) -> None:
    await client.write(docs, _points("h", ["pump"], sequence_at(time.time() - 7_200)), _call())
    points = _points("h", ["valve"], next_sequence())
    await client.write(docs, points, _call())
    await client.delete_document(docs, "h", _call())
    assert [payload["content_hash"] for payload in await _stored(pool, docs)] == ["valve"]
    await _publish(client, docs, points)


async def test_a_long_document_is_written_in_batches_and_read_over_pages_in_order(
    client: VectorClient, docs: str
) -> None:
    words = [f"w{number}" for number in range(1_100)]
    await _ingest(client, docs, "long", words)
    assert await _words(client, docs, "long") == words
    assert await client.counts(docs, _call()) == (1, 1_100)


async def test_a_document_of_which_chunks_are_lost_is_a_backend_error(
    client: VectorClient, pool: Pool, docs: str
) -> None:
    await _ingest(client, docs, "h", ["valve", "pump"])
    lost = orjson.dumps({"points": [point_id("h", "valve-pump", 1)]})
    await pool.request("POST", f"/collections/{docs}/points/delete?wait=true", _call(), lost)
    with pytest.raises(BackendError) as caught:
        await client.chunks(docs, "h", _call())
    assert caught.value.error_code == "incomplete_document"


async def test_documents_come_page_by_page_each_once(client: VectorClient, docs: str) -> None:
    names = [f"d{number}" for number in range(7)]
    for name in names:
        await _ingest(client, docs, name, ["valve", "pump"])
    seen: list[str] = []
    cursor, pages = None, 0
    while pages == 0 or cursor:
        page, cursor = await client.documents(docs, 3, cursor, _call())
        seen += [state.document_id for state in page]
        pages += 1
    assert (sorted(seen), pages) == (names, 3)
    assert await client.counts(docs, _call()) == (7, 14)


async def test_a_cursor_survives_that_its_document_is_deleted(client: VectorClient, docs: str) -> None:
    for number in range(4):
        await _ingest(client, docs, f"d{number}", ["valve"])
    first, cursor = await client.documents(docs, 2, None, _call())
    rest, _ = await client.documents(docs, 2, cursor, _call())
    await client.delete_document(docs, rest[0].document_id, _call())
    assert await client.documents(docs, 2, cursor, _call()) == (rest[1:], None)
    assert len(first) == 2


async def test_a_foreign_cursor_is_refused(client: VectorClient, docs: str) -> None:
    with pytest.raises(ValidationFailedError):
        await client.documents(docs, 2, "bm8tY3Vyc29y", _call())


async def test_a_collection_that_is_not_there_is_not_found(client: VectorClient, collection_name: str) -> None:
    points = _points("h", ["valve"], next_sequence())
    calls = [
        client.search(collection_name, [_dense("valve")], _call()),
        client.write(collection_name, points, _call()),
        _publish(client, collection_name, points),
        client.states(collection_name, ["h"], _call()),
        client.delete_document(collection_name, "h", _call()),
        client.chunks(collection_name, "h", _call()),
        client.documents(collection_name, 5, None, _call()),
        client.counts(collection_name, _call()),
    ]
    for answer in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(answer, NotFoundError)


async def test_of_two_writers_at_once_one_wins_whole_and_no_reader_sees_a_mix_or_a_gap(
    client: VectorClient, pool: Pool, docs: str
) -> None:
    texts = (["valve"] * 5, ["pump"] * 3, ["motor"])
    await _ingest(client, docs, "h", texts[2])
    writing = True

    async def write(words: Sequence[str]) -> None:
        written = 0
        while written < 12:
            # Where another one has come in between, it is to be sent again, as the pipeline does.
            with suppress(DocumentChangedError):
                await _ingest(client, docs, "h", words)
                written += 1

    async def read() -> int:
        reads = 0
        while writing or reads < 10:
            assert await _words(client, docs, "h") in texts
            rankings = await client.search(docs, [_dense("valve"), _dense("pump"), _sparse("motor")], _call())
            assert len({hit.chunk.content_hash for ranking in rankings for hit in ranking}) == 1
            reads += 1
        return reads

    reader = asyncio.create_task(read())
    try:
        await asyncio.gather(*(write(words) for words in texts))
    finally:
        writing = False
        assert await reader >= 10
    stored = await _stored(pool, docs)
    assert [payload["visible"] for payload in stored] == [True] * len(stored)
    assert await _words(client, docs, "h") in texts
    assert len(stored) == stored[0]["chunk_count"]


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[]",
        b'{"result": null}',
        b'{"result": []}',
        b'{"result": [{"points": [{"id": "x", "score": 1.0, "payload": {}}]}]}',
        b'{"result": [{"points": [{"id": "x", "score": NaN, "payload": {}}]}]}',
        b'{"result": {"points": [{"id": 5}]}}',
        b'{"result": {"points": 5, "count": "many"}}',
    ],
)
async def test_nonsense_with_status_200_is_a_backend_error(aiohttp_server: AiohttpServer, answer: bytes) -> None:
    async def respond(_request: web.Request) -> web.Response:
        return web.Response(body=answer, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", respond)
    url = str((await aiohttp_server(app)).make_url("")).rstrip("/")
    pool = Pool("qdrant", (url,), Qdrant(url=url), Metrics())
    client = VectorClient(pool)
    try:
        for asked in (
            client.search("docs", [_dense("valve")], _call()),
            client.states("docs", ["h"], _call()),
            client.chunks("docs", "h", _call()),
            client.counts("docs", _call()),
        ):
            with pytest.raises(BackendError):
                await asked
    finally:
        await pool.close()
