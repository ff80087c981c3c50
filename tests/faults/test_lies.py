"""Each lie of the backends is told where it should be, and is no truth."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from tests.faults.lies import LIES, SERVICES, Service, liar
from tests.service.fault_backend import DIMENSION, FaultBackend, embeddings, json_reply

ASKED: dict[Service, tuple[str, dict[str, Any]]] = {
    "embedding": ("/v1/embeddings", {"input": ["one", "two", "three"], "encoding_format": "base64"}),
    "reranking": ("/v1/rerank", {"query": "one", "documents": ["one", "two", "three"]}),
    "generative": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "one"}]}),
    "qdrant": ("/collections/c/points/query/batch", {"searches": []}),
}


async def _ask(backend: FaultBackend, service: Service, **more: Any) -> tuple[int, dict[str, str], bytes]:
    path, body = ASKED[service]
    async with aiohttp.ClientSession() as session, session.post(backend.url + path, json=body | more) as answer:
        return answer.status, dict(answer.headers), await answer.read()


async def _health(backend: FaultBackend) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(backend.url + "/health") as answer:
        return answer.status, await answer.json()


def _vectors(body: Any) -> list[Any]:
    return [item["embedding"] for item in body["data"]]


def _places(body: Any) -> list[int]:
    return [item["index"] for item in body.get("data", body.get("results"))]


CHANGED: dict[str, Callable[[Any], bool]] = {
    "no-choices": lambda body: body == {"choices": []},
    "wrong-dimension": lambda body: {len(vector) for vector in _vectors(body)} == {DIMENSION - 1},
    "nan": lambda body: all(math.isnan(vector[0]) for vector in _vectors(body)),
    "null": lambda body: _vectors(body) == [None] * 3,
    "zero": lambda body: _vectors(body) == [[0.0] * DIMENSION] * 3,
    "too-few": lambda body: len(_vectors(body)) == 2,
    "too-many": lambda body: len(_vectors(body)) == 4,
    "duplicate-index": lambda body: _places(body) == [0, 0, 0],
    "permuted": lambda body: _places(body) == [2, 1, 0],
    "index-out-of-range": lambda body: _places(body) == [1, 2, 3],
    "index-twice": lambda body: _places(body) == [0, 1, 2, 0],
    "index-missing": lambda body: _places(body) == [0, 1],
    "nan-score": lambda body: all(math.isnan(item["relevance_score"]) for item in body["results"]),
}
STATUS = {
    "error-500": 500,
    "too-large": 500,
    "loading": 503,
    "busy-429": 429,
    "busy-503": 503,
    "unauthorized": 401,
    "forbidden": 403,
}


@pytest.mark.parametrize("name", CHANGED)
async def test_a_changed_answer_is_whole_json_with_one_thing_wrong(name: str) -> None:
    service = LIES[name].services[0]
    async with liar(service, name) as backend:
        status, _, body = await _ask(backend, service)
    assert status == 200
    assert CHANGED[name](json.loads(body))


@pytest.mark.parametrize(("name", "expected"), STATUS.items())
async def test_a_refusal_has_its_status(name: str, expected: int) -> None:
    service = LIES[name].services[0]
    async with liar(service, name) as backend:
        status, headers, body = await _ask(backend, service)
    assert status == expected
    assert json.loads(body)["error"]["code"] == expected
    assert headers.get("Retry-After") == ("2" if name.startswith("busy") else None)


@pytest.mark.parametrize("name", ["html", "garbage", "truncated"])
async def test_what_is_no_json_comes_with_status_200(name: str) -> None:
    async with liar("reranking", name) as backend:
        status, _, body = await _ask(backend, "reranking")
    assert status == 200
    with pytest.raises(ValueError, match=r"Expecting|decode|Invalid|Unterminated"):
        json.loads(body)


async def test_an_endless_body_comes_as_long_as_it_is_read() -> None:
    async with (
        liar("embedding", "endless") as backend,
        aiohttp.ClientSession(backend.url) as session,
        session.post(ASKED["embedding"][0], json={}) as answer,
    ):
        assert len(await answer.content.readexactly(1_000_000)) == 1_000_000


@pytest.mark.parametrize("stream", [True, False])
async def test_a_cut_generation_breaks_off(stream: bool) -> None:
    async with liar("generative", "cut") as backend:
        with pytest.raises(aiohttp.ClientError):
            await _ask(backend, "generative", stream=stream)


async def test_a_stream_without_done_ends_cleanly() -> None:
    async with liar("generative", "no-done") as backend:
        _, _, body = await _ask(backend, "generative", stream=True)
    assert body.startswith(b"data: ")
    assert b"[DONE]" not in body


async def test_a_lost_write_is_done_and_its_answer_reset_while_reads_are_true() -> None:
    async with FaultBackend() as store:
        store.otherwise = json_reply({"result": True})
        async with liar("qdrant", "write-lost", store.url) as backend, aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.put(f"{backend.url}/collections/c/points", json={"points": []})
            with pytest.raises(aiohttp.ClientError):
                await session.post(f"{backend.url}/collections/c/points/batch?wait=true", json={"operations": []})
            assert (await _ask(backend, "qdrant"))[0] == 200
        asked = [(request.method, request.path) for request in store.requests]
    # aiohttp's client sends a PUT again by itself.
    assert list(dict.fromkeys(asked)) == [
        ("PUT", "/collections/c/points"),
        ("POST", "/collections/c/points/batch?wait=true"),
        ("POST", "/collections/c/points/query/batch"),
    ]


async def test_the_truth_of_a_real_backend_is_what_is_changed() -> None:
    async with FaultBackend() as real, liar("embedding", "permuted", real.url) as backend:
        _, _, body = await _ask(backend, "embedding")
        assert real.calls("/v1/embeddings")[0].json["encoding_format"] == "float"
    true = embeddings(ASKED["embedding"][1] | {"encoding_format": "float"})["data"]
    assert json.loads(body)["data"] == true[::-1]


@pytest.mark.parametrize("name", sorted(set(LIES) - {"loading", "write-lost"}))
async def test_what_the_service_is_not_for_is_answered_truly(name: str) -> None:
    async with liar(LIES[name].services[0], name) as backend:
        assert await _health(backend) == (200, {"status": "ok"})


async def test_a_loading_model_is_not_healthy() -> None:
    async with liar("embedding", "loading") as backend:
        assert (await _health(backend))[0] == 503


@pytest.mark.parametrize("body", [b"", b"7", b"{}", b'{"input": 7}'])
@pytest.mark.parametrize("lie", [None, "nan"])
async def test_a_request_that_is_none_is_a_400(body: bytes, lie: str | None) -> None:
    async with (
        liar("embedding", lie) as backend,
        aiohttp.ClientSession(backend.url) as session,
        session.post("/v1/embeddings", data=body) as answer,
    ):
        assert answer.status == 400


@pytest.mark.parametrize("service", SERVICES)
def test_a_lie_of_another_service_is_refused(service: Service) -> None:
    for name, lie in LIES.items():
        if service not in lie.services:
            with pytest.raises(ValueError, match="has no lie"):
                liar(service, name, "http://127.0.0.1:1")
