"""`POST /rag/ingest`: outcomes, versions, what costs an embedding call, what a failure leaves behind."""

from __future__ import annotations

import asyncio
import hashlib
import json
from io import BytesIO
from typing import Any

import pytest

from hartonomous.clients import models
from hartonomous.core.fingerprint import document_id
from hartonomous.pipelines import batching
from tests.service.application import ConfigMaker, RunningApp, eventually, running
from tests.service.fault_backend import DEFAULT, after, json_reply, reply
from tests.service.rag import EMBEDDINGS, Rig, RigMaker, ask, ingest, passed_on, read, sample

LIMES = {"id": "limes", "text": "Limes are green and sour. They grow on trees."}
DOCUMENT = "/rag/collections/{name}/documents/{id}"


def small(max_tokens: int = 16, overlap_tokens: int = 0) -> dict[str, int]:
    return {"max_tokens": max_tokens, "overlap_tokens": overlap_tokens}


async def stored(rig: Rig, name: str) -> Any:
    path = f"/rag/collections/{rig.config.rag.default_collection}/documents/{name}"
    status, answer = await read(rig.app, path, DOCUMENT)
    return answer if status == 200 else status


async def test_a_new_document_is_created_and_told_in_full(api: RunningApp, collection_name: str) -> None:
    answer = await ingest(api, LIMES)
    (document,) = answer["documents"]
    assert answer["collection"] == collection_name
    assert (document["id"], document["status"], document["chunks"], document["error"]) == ("limes", "created", 1, None)
    kind, _, digits = document["version"].partition(":")
    assert kind == "sha256"
    assert len(digits) == len(hashlib.sha256().hexdigest())
    assert int(digits, 16) > 0
    assert answer["counts"] == {"created": 1, "updated": 0, "unchanged": 0, "failed": 0}
    assert answer["usage"]["embedding_tokens"] > 0


async def test_the_same_document_again_costs_no_embedding_call_and_no_write(rig: Rig) -> None:
    first = await ingest(rig.app, LIMES)
    rig.embedding.requests.clear()
    rig.qdrant.requests.clear()
    again = await ingest(rig.app, LIMES)
    assert again["counts"] == {"created": 0, "updated": 0, "unchanged": 1, "failed": 0}
    assert again["documents"][0]["version"] == first["documents"][0]["version"]
    assert again["documents"][0]["chunks"] == 1
    assert again["usage"] == {"embedding_tokens": 0}
    assert not rig.embedding.calls(EMBEDDINGS)
    assert not [call for call in rig.qdrant.requests if call.path.endswith("/batch?wait=true")]


async def test_a_new_text_under_an_old_id_replaces_it(rig: Rig) -> None:
    first = await ingest(rig.app, LIMES)
    second = await ingest(rig.app, {**LIMES, "text": "Limes were yellow yesterday."})
    assert second["counts"]["updated"] == 1
    assert second["documents"][0]["version"] != first["documents"][0]["version"]
    assert (await stored(rig, "limes"))["text"] == "Limes were yellow yesterday."
    status, found = await ask(rig.app, "/rag/search", {"query": "green limes", "top_k": 100})
    assert status == 200
    assert {hit["text"] for hit in found["results"]} == {"Limes were yellow yesterday."}


@pytest.mark.parametrize(
    ("field", "value"), [("title", "On limes"), ("source", "https://x/limes"), ("metadata", {"team": "ops"})]
)
async def test_a_change_beside_the_text_alone_is_updated_without_an_embedding_call(
    rig: Rig, field: str, value: Any
) -> None:
    first = await ingest(rig.app, LIMES)
    rig.embedding.requests.clear()
    second = await ingest(rig.app, {**LIMES, field: value})
    assert second["counts"]["updated"] == 1
    assert second["documents"][0]["version"] != first["documents"][0]["version"]
    assert second["documents"][0]["chunks"] == 1
    assert not rig.embedding.calls(EMBEDDINGS)
    document = await stored(rig, "limes")
    assert document[field] == value
    assert document["version"] == second["documents"][0]["version"]
    back = await ingest(rig.app, LIMES)
    assert back["documents"][0]["version"] == first["documents"][0]["version"]
    assert (await stored(rig, "limes"))[field] == ({} if field == "metadata" else None)


async def test_another_chunking_embeds_anew(rig: Rig) -> None:
    await ingest(rig.app, LIMES)
    rig.embedding.requests.clear()
    answer = await ingest(rig.app, LIMES, chunking=small())
    assert answer["counts"]["updated"] == 1
    assert rig.embedding.calls(EMBEDDINGS)


async def test_without_an_id_a_document_is_known_by_its_source_or_else_by_its_text(api: RunningApp) -> None:
    answer = await ingest(api, {"text": "one", "source": "https://x/1"}, {"text": "two"})
    ids = [document["id"] for document in answer["documents"]]
    assert ids == [document_id("https://x/1", "one"), document_id(None, "two")]
    again = await ingest(api, {"text": "one, changed", "source": "https://x/1"}, {"text": "two"})
    assert [document["status"] for document in again["documents"]] == ["updated", "unchanged"]
    assert [document["id"] for document in again["documents"]] == ids


async def test_of_one_id_twice_the_last_one_wins(rig: Rig) -> None:
    texts = ["first", "second", "third"]
    body = {"documents": [{"id": "same", "text": text} for text in texts]}
    status, answer = await ask(rig.app, "/rag/ingest", body)
    assert status == 200
    assert [document["status"] for document in answer["documents"]] == ["failed", "failed", "created"]
    error = answer["documents"][1]["error"]
    assert (error["code"], error["param"]) == ("duplicate_document_id", "documents.1.id")
    assert (await stored(rig, "same"))["text"] == "third"


async def test_a_blank_document_fails_beside_stored_ones(api: RunningApp) -> None:
    status, answer = await ask(api, "/rag/ingest", {"documents": [LIMES, {"id": "blank", "text": " \n\t "}]})
    assert status == 200
    assert answer["counts"] == {"created": 1, "updated": 0, "unchanged": 0, "failed": 1}
    failed = answer["documents"][1]
    assert (failed["id"], failed["status"], failed["version"], failed["chunks"]) == ("blank", "failed", None, 0)
    assert (failed["error"]["param"], failed["error"]["code"]) == ("documents.1.text", "empty_document")
    assert "error" not in answer


async def test_when_nothing_could_be_stored_the_status_is_the_first_failures(api: RunningApp) -> None:
    status, answer = await ask(api, "/rag/ingest", {"documents": [{"id": "a", "text": ""}, {"id": "b", "text": " "}]})
    assert status == 422
    assert answer["error"] == answer["documents"][0]["error"]
    assert answer["counts"]["failed"] == 2


async def test_many_documents_share_full_embedding_batches(rigs: RigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_GATHER_S", 30.0)  # a batch waits for others however slowly they are prepared
    async with rigs.make(backends={"embedding": {"batch_size": 8}}) as rig:
        await ingest(rig.app, *(f"Document number {number}." for number in range(20)))
        sizes = sorted(len(call.json["input"]) for call in rig.embedding.calls(EMBEDDINGS))
        assert sizes == [4, 8, 8]


async def test_chunks_stand_at_their_offsets_in_the_document(rig: Rig) -> None:
    sentences = [f"Sentence {number} tells of thing {number * 7}, naïvely 🍋." for number in range(40)]
    text = "\n\n".join(" ".join(sentences[first : first + 4]) for first in range(0, 40, 4))
    await ingest(rig.app, {"id": "long", "text": text}, chunking=small(48, 16))
    document = await stored(rig, "long")
    assert document["text"] == text
    assert len(document["chunks"]) > 5
    assert [chunk["index"] for chunk in document["chunks"]] == list(range(len(document["chunks"])))
    assert [chunk["text"] for chunk in document["chunks"]] == [
        text[chunk["start"] : chunk["end"]] for chunk in document["chunks"]
    ]


async def test_blanks_between_and_before_chunks_come_back_as_they_were(rig: Rig) -> None:
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda"]
    text = "\n\t \n" + "".join(f"{' '.join(words)}.{blank}" for blank in (" ", "  ", "\n", " \n \n ", "\t", "\u2003"))
    await ingest(rig.app, {"id": "blanks", "text": text}, chunking=small())
    document = await stored(rig, "blanks")
    assert len(document["chunks"]) > 3
    assert document["text"] == text.rstrip()
    for chunk in document["chunks"]:
        assert chunk["text"] == document["text"][chunk["start"] : chunk["end"]]


async def test_markdown_chunks_know_their_headings(rig: Rig) -> None:
    text = "# Fruit\n\n## Limes\n\nLimes are sour.\n\n## Lemons\n\nLemons are yellow.\n"
    await ingest(rig.app, {"id": "md", "text": text, "format": "markdown"}, chunking=small(44))
    status, found = await ask(rig.app, "/rag/search", {"query": "lemons yellow", "mode": "sparse", "top_k": 1})
    assert status == 200
    assert found["results"][0]["headings"] == ["Fruit", "Lemons"]
    assert "Lemons are yellow." in found["results"][0]["text"]
    document = await stored(rig, "md")
    assert document["format"] == "markdown"
    assert {tuple(chunk["headings"]) for chunk in document["chunks"]} >= {("Fruit", "Limes"), ("Fruit", "Lemons")}


async def test_no_chunk_is_refused_as_too_long_however_wrong_an_estimate_is(rig: Rig) -> None:
    # A letter is a token of the tiny model, so long words are far more than they were estimated to be.
    long = {"id": "long", "text": " ".join(["the", "abcdefghijklmnopqrstuvwxyz" * 20] * 8)}
    answer = await ingest(rig.app, LIMES, long, chunking=small(400))
    assert [document["status"] for document in answer["documents"]] == ["created", "created"]
    assert (await stored(rig, "long"))["text"] == long["text"]
    assert sample(rig.app, "hartonomous_backend_requests_total", service="embedding", outcome="2xx") > 0
    for outcome in ("4xx", "5xx"):
        assert sample(rig.app, "hartonomous_backend_requests_total", service="embedding", outcome=outcome) == 0


# What is refused.


def bad(**changes: Any) -> dict[str, Any]:
    return {"documents": [{"id": "a", "text": "some text", **changes}]}


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (bad(colour="red"), "documents.0.colour"),
        ({**bad(), "colour": "red"}, "colour"),
        ({}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": {}}, "documents"),
        ({"documents": ["text"]}, "documents.0"),
        ({"documents": [{"text": "x"}] * 1001}, "documents"),
        ([], None),
        ("text", None),
        (bad(text=None), "documents.0.text"),
        (bad(text=5), "documents.0.text"),
        (bad(text="a\x00b"), "documents.0.text"),
        (bad(id=""), "documents.0.id"),
        (bad(id=7), "documents.0.id"),
        (bad(id="x" * 257), "documents.0.id"),
        (bad(id="a\nb"), "documents.0.id"),
        (bad(id="a\x00b"), "documents.0.id"),
        (bad(id="a\x85b"), "documents.0.id"),
        (bad(title="x" * 1025), "documents.0.title"),
        (bad(source="a\x00"), "documents.0.source"),
        (bad(format="pdf"), "documents.0.format"),
        (bad(metadata=[]), "documents.0.metadata"),
        (bad(metadata=nested(900)), "documents.0.metadata"),
        (bad(metadata=nested(200)), "documents.0.metadata"),
        (bad(metadata={"a": "x" * 70_000}), "documents.0.metadata"),
        ({**bad(), "chunking": {"max_tokens": 15}}, "chunking.max_tokens"),
        ({**bad(), "chunking": {"max_tokens": True}}, "chunking.max_tokens"),
        ({**bad(), "chunking": {"max_tokens": "64"}}, "chunking.max_tokens"),
        ({**bad(), "collection": "../x"}, "collection"),
        ({**bad(), "collection": ""}, "collection"),
        ({**bad(), "collection": "docs\n"}, "collection"),
        ({**bad(), "collection": "x" * 64}, "collection"),
        ({**bad(), "collection": "é"}, "collection"),
        ({**bad(), "collection": ".x"}, "collection"),
    ],
)
async def test_what_breaks_the_schema_is_refused_with_its_path(api: RunningApp, body: Any, param: str | None) -> None:
    status, answer = await ask(api, "/rag/ingest", body)
    assert (status, answer["error"]["param"]) == (422, param)
    assert answer["error"]["type"] == "invalid_request_error"
    assert len(answer["error"]["message"]) < 300


async def test_ids_and_collections_at_their_limits_are_taken(api: RunningApp) -> None:
    answer = await ingest(api, {"id": "x" * 256, "text": "a"}, {"id": "ä/ %2F 🍋", "text": "b"})
    assert answer["counts"]["created"] == 2
    name = "x" + "-._9"[:3] * 20 + "zz"
    assert len(name) == 63
    assert (await ingest(api, "text", collection=name))["collection"] == name
    assert await api.delete(f"/rag/collections/{name}") == 204


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"documents": [{"text": "a", "metadata": {"x": NaN}}]}', 400),
        (b'{"documents": [{"text": "a", "metadata": {"x": Infinity}}]}', 400),
        (b'{"documents": [{"text": "a", "metadata": {"x": 1e400}}]}', 400),
        (b'{"documents": [{"text": "\\ud800"}]}', 400),
        (b'{"documents": [{"text": "\xff"}]}', 400),
        (b"[" * 10_000 + b"]" * 10_000, 400),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400),
        (b'{"documents": [{"text": "a", "metadata": {"x": ' + b"9" * 10_000 + b"}}]}", 400),
        (b'{"documents": [{"text": "a"}], "chunking": {"max_tokens": ' + b"9" * 10_000 + b"}}", 400),
        (b'{"documents": [{"text": "a"}], "chunking": {"max_tokens": ' + b"9" * 30 + b"}}", 422),
        (b'{"documents": [{"text": "a"}], "' + b"k" * 100_000 + b'": 1}', 422),
        (b'{"documents": [{"text": "a", ' + b",".join(b'"k%d":1' % n for n in range(300_000)) + b"}]}", 422),
    ],
)
async def test_hostile_bodies_are_refused_and_never_a_500(api: RunningApp, data: bytes, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    async with api.session.post(api.url + "/rag/ingest", data=BytesIO(data), headers=headers) as response:
        answer = await response.text()
        assert response.status == status
        assert len(answer) < 1_000


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/xml"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {"Content-Type": "application/json", "Content-Encoding": "identity, gzip"},
        {"Content-Type": "application/json", "Content-Encoding": "unheard-of"},
    ],
)
async def test_another_content_type_or_a_compressed_body_is_415(api: RunningApp, headers: dict[str, str]) -> None:
    async with api.session.post(api.url + "/rag/ingest", data=b"{}", headers=headers) as response:
        assert response.status == 415
        assert (await response.json())["error"]["code"] == "unsupported_media_type"


async def test_a_body_over_the_limit_is_413_with_and_without_a_length(make_config: ConfigMaker) -> None:
    async with running(make_config(server={"max_body_bytes": 4096})) as app:

        async def unsized() -> Any:
            for _ in range(5):
                yield b" " * 1000

        for data in (b" " * 4097, unsized()):
            headers = {"Content-Type": "application/json"}
            async with app.session.post(app.url + "/rag/ingest", data=data, headers=headers) as response:
                assert response.status == 413
                assert (await response.json())["error"]["code"] == "payload_too_large"


async def test_a_body_of_exactly_the_limit_is_taken(make_config: ConfigMaker) -> None:
    async with running(make_config(server={"max_body_bytes": 4096})) as app:
        data = json.dumps(bad(colour="red")).encode().ljust(4096)
        async with app.session.post(
            app.url + "/rag/ingest", data=data, headers={"Content-Type": "application/json"}
        ) as response:
            assert response.status == 422


@pytest.mark.parametrize("deadline", [None, "200"])
async def test_a_body_that_never_ends_is_408(make_config: ConfigMaker, deadline: str | None) -> None:
    server = {"body_timeout_s": 0.2} if deadline is None else {}
    async with running(make_config(server=server)) as app:
        answer = await _begun(app, deadline)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"type":"timeout_error"' in answer


async def _begun(app: RunningApp, deadline: str | None) -> bytes:
    """Send the beginning of a body and return the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(app.url.rpartition(":")[2]))
    lines = ["POST /rag/ingest HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", "Content-Length: 100"]
    lines += [] if deadline is None else [f"X-Request-Timeout-Ms: {deadline}"]
    writer.write("\r\n".join((*lines, "", '{"documents":')).encode())
    answer = await asyncio.wait_for(reader.readuntil(b'"}'), 10)
    writer.close()
    await writer.wait_closed()
    return answer


# Failures of backends.


async def test_row_27_with_the_embedding_service_down_nothing_is_written(rig: Rig) -> None:
    await ingest(rig.app, LIMES)
    await rig.embedding.stop()
    body = {"documents": [{**LIMES, "text": "Another text."}, {"id": "new", "text": "More."}]}
    rig.qdrant.requests.clear()
    async with rig.app.session.post(rig.app.url + "/rag/ingest", json=body) as response:
        answer = await response.json()
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
    assert answer["error"]["type"] == "backend_unavailable"
    assert answer["counts"]["failed"] == 2
    assert not [call for call in rig.qdrant.requests if call.path.endswith("/batch?wait=true")]
    assert (await stored(rig, "limes"))["text"] == LIMES["text"]
    assert await stored(rig, "new") == 404
    await rig.embedding.start()
    assert (await ingest(rig.app, *body["documents"]))["counts"] == {
        "created": 1,
        "updated": 1,
        "unchanged": 0,
        "failed": 0,
    }


async def test_row_27_a_first_ingest_with_the_embedding_service_down_makes_no_collection(rig: Rig) -> None:
    await rig.embedding.stop()
    status, answer = await ask(rig.app, "/rag/ingest", {"documents": [LIMES]})
    assert (status, answer["error"]["code"]) == (503, "backend_unavailable")
    assert rig.config.rag.default_collection not in await names(rig.app)


async def names(app: RunningApp) -> set[str]:
    _, answer = await app.get("/rag/collections")
    return {collection["name"] for collection in answer["collections"]}


async def test_an_unchanged_document_needs_no_embedding_service(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_TTL_S", 60.0)  # which model it is, is known from a moment ago
    await ingest(rig.app, LIMES)
    await rig.embedding.stop()
    assert (await ingest(rig.app, LIMES))["counts"]["unchanged"] == 1


async def test_nonsensical_vectors_are_502_and_nothing_is_written(rig: Rig) -> None:
    await ingest(rig.app, LIMES)
    rig.embedding.on(EMBEDDINGS, json_reply({"data": [{"index": 0, "embedding": [0.0] * 32}]}))
    status, answer = await ask(rig.app, "/rag/ingest", {"documents": [{**LIMES, "text": "Another text."}]})
    assert (status, answer["error"]["type"]) == (502, "backend_error")
    assert (await stored(rig, "limes"))["text"] == LIMES["text"]


async def test_one_failed_embedding_batch_fails_its_own_documents_alone(rigs: RigMaker) -> None:
    async with rigs.make(backends={"embedding": {"batch_size": 2, "concurrency": 1}}) as rig:
        rig.embedding.on(EMBEDDINGS, *[reply(500)] * 3, DEFAULT)
        documents = [{"id": str(number), "text": f"Number {number}."} for number in range(4)]
        status, answer = await ask(rig.app, "/rag/ingest", {"documents": documents})
        assert status == 200
        assert answer["counts"] == {"created": 2, "updated": 0, "unchanged": 0, "failed": 2}
        assert {document["error"]["type"] for document in answer["documents"] if document["error"]} == {"backend_error"}


async def test_with_the_vector_store_down_it_is_503(rig: Rig) -> None:
    await ingest(rig.app, LIMES)
    await rig.qdrant.stop()
    status, answer = await ask(rig.app, "/rag/ingest", {"documents": [LIMES]})
    assert (status, answer["error"]["type"]) == (503, "backend_unavailable")


async def test_another_embedding_model_is_409_and_both_are_named(rigs: RigMaker) -> None:
    async with rigs.make() as rig:
        await ingest(rig.app, LIMES)
    async with rigs.make(backends={"embedding": {"model": "another-model"}}) as rig:
        for path, body in (
            ("/rag/ingest", {"documents": [LIMES]}),
            ("/rag/search", {"query": "limes"}),
            ("/rag/search", {"query": "limes", "mode": "dense"}),
            ("/rag/query", {"query": "limes"}),
        ):
            status, answer = await ask(rig.app, path, body)
            assert (status, answer["error"]["type"], answer["error"]["param"]) == (409, "conflict_error", "collection")
            assert "tiny-embedding" in answer["error"]["message"]
            assert "another-model" in answer["error"]["message"]


async def test_another_prefix_is_409_and_said(rigs: RigMaker) -> None:
    async with rigs.make() as rig:
        await ingest(rig.app, LIMES)
    async with rigs.make(backends={"embedding": {"query_prefix": "query: "}}) as rig:
        status, answer = await ask(rig.app, "/rag/search", {"query": "limes"})
        assert status == 409
        assert "query: " in answer["error"]["message"]


# Many at once, and callers who leave.


async def test_of_concurrent_ingests_of_one_id_exactly_one_whole_version_stays(rig: Rig) -> None:
    texts = [" ".join(f"Caller {caller} says sentence {number}." for number in range(12)) for caller in range(8)]
    answers = await asyncio.gather(
        *(ingest(rig.app, {"id": "shared", "text": text}, chunking=small(32)) for text in texts)
    )
    document = await stored(rig, "shared")
    assert document["text"] in texts
    versions = {answer["documents"][0]["version"]: text for answer, text in zip(answers, texts, strict=True)}
    assert versions[document["version"]] == document["text"]
    status, found = await ask(rig.app, "/rag/search", {"query": "caller says sentence", "top_k": 100})
    assert status == 200
    assert all(hit["text"] in document["text"] for hit in found["results"])


async def test_concurrent_first_ingests_make_one_collection(rig: Rig) -> None:
    answers = await asyncio.gather(*(ingest(rig.app, {"id": str(n), "text": f"Number {n}."}) for n in range(10)))
    assert [answer["counts"]["created"] for answer in answers] == [1] * 10
    _, listed = await rig.app.get("/rag/collections")
    (ours,) = [one for one in listed["collections"] if one["name"] == rig.config.rag.default_collection]
    assert (ours["documents"], ours["chunks"]) == (10, 10)


async def test_row_34_an_ingest_that_began_to_write_is_finished_when_its_caller_leaves(
    rig: Rig, vector_url: str
) -> None:
    await ingest(rig.app, LIMES)
    gate = asyncio.Event()
    batch = f"/collections/{rig.config.rag.default_collection}/points/batch"
    rig.qdrant.requests.clear()
    rig.qdrant.on(batch, after(passed_on(vector_url), gate))
    post = asyncio.create_task(ask(rig.app, "/rag/ingest", {"documents": [{**LIMES, "text": "A new text."}]}))
    await eventually(lambda: bool(rig.qdrant.calls(batch)), "the write")
    post.cancel()
    await asyncio.gather(post, return_exceptions=True)
    left = {"method": "POST", "route": "/rag/ingest", "status": "499"}
    await eventually(lambda: sample(rig.app, "hartonomous_http_requests_total", **left) == 1, "the end of the request")
    gate.set()
    jobs = rig.app.runtime.ingestor.jobs
    await eventually(lambda: jobs.active_count == 0, "the end of the job")
    assert (await stored(rig, "limes"))["text"] == "A new text."
