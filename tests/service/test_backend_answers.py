"""Nonsense from a model service behind `/rag`: nothing is half believed, nothing is written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from hartonomous.clients import models, wire
from tests.service import fault_backend as fault
from tests.service.application import ConfigMaker, RunningApp, eventually, running
from tests.service.fault_backend import DEFAULT, DIMENSION, FaultBackend, embeddings

EMBED = "/v1/embeddings"
CHAT = "/v1/chat/completions"
TEXTS = ["The flask holds two litres.", "The lamp burns oil.", "The rope is long."]
DOCUMENTS = [{"id": f"d{number}", "text": text} for number, text in enumerate(TEXTS)]


@pytest.fixture
async def app(make_config: ConfigMaker, faulty: FaultBackend) -> AsyncIterator[RunningApp]:
    """The application with the faulty backend as its model services, and a real vector store."""
    names = ("embedding", "reranking", "generative")
    backends = {name: {"urls": (faulty.url,), "max_answer_bytes": 65_536} for name in names}
    config = make_config(backends=backends, health={"interval_s": 1000.0})
    async with running(config) as running_app:
        yield running_app
        await running_app.delete(f"/rag/collections/{config.rag.default_collection}")


async def _documents(app: RunningApp) -> list[str]:
    name = app.runtime.config.rag.default_collection
    status, answer = await app.get(f"/rag/collections/{name}/documents")
    return [] if status == 404 else [document["id"] for document in answer["documents"]]


def _changed(change: Any) -> fault.Behaviour:
    """Answer embeddings as plain floats, changed by `change(data)`."""

    async def behave(exchange: fault.Exchange) -> None:
        answer = embeddings(exchange.request.json | {"encoding_format": "float"})
        answer["data"] = change(answer["data"])
        await fault.json_reply(answer)(exchange)

    return behave


def _first(value: Any) -> Any:
    return lambda data: [data[0] | {"embedding": value}, *data[1:]]


def _first_number(value: Any) -> Any:
    return lambda data: [data[0] | {"embedding": [value, *data[0]["embedding"][1:]]}, *data[1:]]


NONSENSE = {
    "wrong dimension": _first([0.5] * (DIMENSION - 1)),
    "twice the dimension": lambda data: [item | {"embedding": item["embedding"] * 2} for item in data],
    "NaN": _first_number(float("nan")),
    "infinity": _first_number(float("inf")),
    "null number": _first_number(None),
    "text number": _first_number("0.5"),
    "truth value": _first_number(True),
    "null": _first(None),
    "all zero": _first([0.0] * DIMENSION),
    "empty": _first([]),
    "nested": _first([[0.5] * DIMENSION]),
    "broken base64": _first("!!!!"),
    "odd base64": _first("AAAAAAA="),
    "one too few": lambda data: data[:-1],
    "one too many": lambda data: [*data, data[0] | {"index": len(data)}],
    "none": lambda data: [],
    "null list": lambda data: None,
    "no list": lambda data: {"0": data[0]},
    "duplicate index": lambda data: [data[0], *({**item, "index": 0} for item in data[1:])],
    "negative index": lambda data: [data[0] | {"index": -1}, *data[1:]],
    "index out of range": lambda data: [data[0] | {"index": len(data)}, *data[1:]],
    "text index": lambda data: [data[0] | {"index": "0"}, *data[1:]],
    "no index": lambda data: [{"embedding": item["embedding"]} for item in data],
    "numbers": lambda data: list(range(len(data))),
}


@pytest.mark.parametrize("change", NONSENSE.values(), ids=NONSENSE.keys())
async def test_row_15_nonsensical_embeddings_are_a_502_and_nothing_is_written(
    app: RunningApp, faulty: FaultBackend, change: Any
) -> None:
    faulty.on(EMBED, _changed(change))
    status, answer = await app.post("/rag/ingest", {"documents": DOCUMENTS})
    assert (status, answer["error"]["type"]) == (502, "backend_error")
    assert {document["status"] for document in answer["documents"]} == {"failed"}
    assert await _documents(app) == []


async def test_row_15_permuted_embeddings_are_put_in_order(app: RunningApp, faulty: FaultBackend) -> None:
    faulty.on(EMBED, _changed(lambda data: data[::-1]), DEFAULT)
    status, _ = await app.post("/rag/ingest", {"documents": DOCUMENTS})
    assert status == 200
    for number, text in enumerate(TEXTS):
        _, answer = await app.post("/rag/search", {"query": text, "mode": "dense", "top_k": 1, "rerank": False})
        assert answer["results"][0]["document_id"] == f"d{number}"
        assert answer["results"][0]["scores"]["dense"] == pytest.approx(1.0, abs=1e-4)


BROKEN_BODIES = {
    "html": fault.reply(200, b"<html>sk-123 busy</html>"),
    "truncated": fault.reply(200, b'{"data": [{"index": 0, "embedding": [0.1, 0.'),
    "null": fault.reply(200, b"null"),
    "a number": fault.reply(200, b"7"),
    "a list": fault.reply(200, b"[]"),
    "empty": fault.reply(200, b""),
    "no UTF-8": fault.reply(200, b'{"data": "\xff\xfe"}'),
    "deep": fault.reply(200, b"[" * 5_000 + b"]" * 5_000),
    "cut": fault.cut(b'{"data": []}', 5),
    "error": fault.reply(500, b"sk-123"),
}


@pytest.mark.parametrize("behaviour", BROKEN_BODIES.values(), ids=BROKEN_BODIES.keys())
async def test_a_broken_embedding_answer_is_a_502(
    app: RunningApp, faulty: FaultBackend, behaviour: fault.Behaviour
) -> None:
    faulty.on(EMBED, behaviour)
    status, answer = await app.post("/rag/ingest", {"documents": DOCUMENTS})
    assert (status, answer["error"]["type"]) == (502, "backend_error")
    assert "sk-123" not in str(answer)
    assert await _documents(app) == []


# What asks each model service for an answer that is parsed here: the route, the request, the backend's path.
PARSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "embedding": ("/rag/ingest", {"documents": [{"id": "new", "text": "A new text."}]}, EMBED),
    "reranking": ("/v1/rerank", {"query": "the flask", "documents": TEXTS}, "/v1/rerank"),
    "generative": ("/rag/query", {"query": "the flask", "rerank": False}, CHAT),
}


@pytest.mark.parametrize(("route", "body", "path"), PARSED.values(), ids=PARSED.keys())
@pytest.mark.parametrize("refusal", [401, 403])
async def test_row_12_a_refusal_of_our_key_is_a_502_and_never_retried(
    app: RunningApp, faulty: FaultBackend, route: str, body: dict[str, Any], path: str, refusal: int
) -> None:
    await app.post("/rag/ingest", {"documents": DOCUMENTS})
    before = len(faulty.calls(path))
    faulty.on(path, fault.reply(refusal, b"sk-123"))
    status, answer = await app.post(route, body)
    assert (status, answer["error"]["type"]) == (502, "backend_error")
    assert "sk-123" not in str(answer)
    # A query asks the embedding service as well; the one that refuses is asked once.
    assert len(faulty.calls(path)) == before + 1
    assert sorted(await _documents(app)) == ["d0", "d1", "d2"]


@pytest.mark.parametrize(("route", "body", "path"), PARSED.values(), ids=PARSED.keys())
async def test_row_14_a_body_beyond_the_cap_is_aborted_and_a_502(
    app: RunningApp, faulty: FaultBackend, route: str, body: dict[str, Any], path: str
) -> None:
    await app.post("/rag/ingest", {"documents": DOCUMENTS})
    asked = len(faulty.calls(path))
    faulty.on(path, fault.endless(b" " * 8_192))
    status, answer = await app.post(route, body)
    assert (status, answer["error"]["type"]) == (502, "backend_error")
    calls = faulty.calls(path)[asked:]
    assert calls
    await eventually(lambda: all(call.closed.is_set() for call in calls), "endless answers are ended")
    assert sorted(await _documents(app)) == ["d0", "d1", "d2"]


async def test_row_07_a_stale_keep_alive_socket_is_replaced_at_once_for_what_may_be_repeated(
    app: RunningApp, faulty: FaultBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_TTL_S", 60.0)  # nobody asks meanwhile which model it is
    monkeypatch.setattr(wire, "REST_S", 60.0)
    await app.post("/rag/ingest", {"documents": DOCUMENTS})
    assert (await app.post("/rag/query", {"query": "the flask"}))[0] == 200
    kept, asked = faulty.connections, len(faulty.calls(EMBED))
    faulty.on(EMBED, fault.close(), DEFAULT)
    assert (await app.post("/rag/ingest", {"documents": [{"id": "new", "text": "A new text."}]}))[0] == 200
    assert (len(faulty.calls(EMBED)), faulty.connections) == (asked + 2, kept + 1)  # the kept one, then a new one
    kept, asked = faulty.connections, len(faulty.calls(CHAT))
    faulty.on(CHAT, fault.close(), DEFAULT)
    status, answer = await app.post("/rag/query", {"query": "the flask"})
    assert (status, answer["error"]["type"]) == (502, "backend_error")
    # The connection of the stream before is not used again so soon.
    assert (len(faulty.calls(CHAT)), faulty.connections) == (asked + 1, kept + 1)


@pytest.mark.parametrize(
    "behaviour",
    [
        fault.reset(),
        fault.reply(500),
        fault.reply(200, b"<html>"),
        fault.json_reply({"choices": []}),
        fault.json_reply({"choices": [{"message": None}]}),
        fault.json_reply({"choices": [{"message": {"content": "x"}}], "usage": [1]}),
        fault.json_reply([]),
    ],
)
@pytest.mark.parametrize("model", ["query", "rag"])
async def test_a_broken_generation_is_a_502_and_never_repeated(
    app: RunningApp, faulty: FaultBackend, behaviour: fault.Behaviour, model: str
) -> None:
    await app.post("/rag/ingest", {"documents": DOCUMENTS})
    faulty.on(CHAT, behaviour)
    if model == "query":
        status, answer = await app.post("/rag/query", {"query": "the flask"})
    else:
        name = f"rag:{app.runtime.config.rag.default_collection}"
        status, answer = await app.post(CHAT, {"model": name, "messages": [{"role": "user", "content": "the flask"}]})
    assert (status, answer["error"]["type"]) == (502, "backend_error")
    assert len(faulty.calls(CHAT)) == 1


@pytest.mark.parametrize(
    "pieces",
    [
        [b"data: <html>\n\n"],
        [b"data: []\n\n"],
        [b'data: "error"\n\n'],
        [b'data: {"choices": 5}\n\n'],
        [b'data: {"choices": [{"delta": 7}]}\n\n'],
        [b'data: {"error": {"message": "sk-123"}}\n\n'],
        [b"data: " + b"x" * (1 << 20) + b"\n\n"],
        fault.sse(["one. "], done=False),
        [],
    ],
)
async def test_row_06_a_broken_stream_to_a_rag_model_ends_with_an_error_and_no_done(
    app: RunningApp, faulty: FaultBackend, pieces: list[bytes]
) -> None:
    await app.post("/rag/ingest", {"documents": DOCUMENTS})
    faulty.on(CHAT, fault.stream(pieces))
    body = {
        "model": f"rag:{app.runtime.config.rag.default_collection}",
        "messages": [{"role": "user", "content": "the flask"}],
        "stream": True,
    }
    async with app.session.post(app.url + CHAT, json=body) as response:
        answer = await response.text()
        status = response.status
    last = answer.strip().rpartition("\n\n")[2]
    assert (status, '"type":"backend_error"' in last) == (200, True)
    assert "[DONE]" not in answer
    assert "sk-123" not in answer
    assert len(faulty.calls(CHAT)) == 1


async def test_nonsensical_token_counts_count_as_nothing(app: RunningApp, faulty: FaultBackend) -> None:
    usage = {"prompt_tokens": -7, "completion_tokens": "many"}
    faulty.on(CHAT, fault.json_reply({"choices": [{"message": {"content": "x"}}], "usage": usage}))

    async def embed(exchange: fault.Exchange) -> None:
        await fault.json_reply(embeddings(exchange.request.json) | {"usage": {"prompt_tokens": -1}})(exchange)

    faulty.on(EMBED, embed)
    status, answer = await app.post("/rag/ingest", {"documents": DOCUMENTS})
    assert (status, answer["usage"]["embedding_tokens"]) == (200, 0)
    status, answer = await app.post("/rag/query", {"query": "the flask"})
    assert (status, answer["usage"]["total_tokens"]) == (200, 0)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"data": []},
        {"data": [7]},
        {"data": [{"id": "m", "meta": [1]}]},
        {"data": [{"id": "m", "meta": {"n_embd": "x"}}]},
        {"data": [{"id": None}]},
        [],
        None,
    ],
)
@pytest.mark.parametrize("props", [{"default_generation_settings": "x", "total_slots": True}, [], None])
async def test_odd_model_descriptions_are_no_500(
    app: RunningApp, faulty: FaultBackend, answer: Any, props: Any
) -> None:
    faulty.on("/v1/models", fault.json_reply(answer))
    faulty.on("/props", fault.json_reply(props))
    for path in ("/v1/models", "/v1/models/m"):
        assert (await app.get(path))[0] in {200, 404}
    assert (await app.post("/rag/ingest", {"documents": DOCUMENTS}))[0] in {200, 502}
