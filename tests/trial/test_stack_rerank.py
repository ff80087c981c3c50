"""The similarity service answers as llama.cpp's own reranking service does: both are asked the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hartonomous.trial.rerank import create_app
from tests.llama import LlamaServer, write_model
from tests.trial.supervisor import free_port

DOCUMENTS = ["a red apple", "0123 456", "apples are red", "zzz"]


@pytest.fixture
async def similarity_url(embedding_url: str) -> Any:
    async with TestServer(create_app(embedding_url)) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.fixture
def stopped_embedding(tmp_path: Path) -> Iterator[tuple[str, LlamaServer]]:
    with LlamaServer("embedding", write_model("embedding", tmp_path)) as server:
        yield server.url, server


async def ask(url: str, body: Any = None) -> tuple[int, Any]:
    method = "GET" if body is None else "POST"
    data = body if isinstance(body, bytes) else None
    json = None if data else body
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, data=data, json=json) as answer,
    ):
        return answer.status, await answer.json()


async def test_the_answer_has_the_shape_of_llama_cpp(similarity_url: str, reranking_url: str) -> None:
    body = {"query": "red apples", "documents": DOCUMENTS, "model": "mine"}
    (status, ours), (_, theirs) = [await ask(f"{url}/v1/rerank", body) for url in (similarity_url, reranking_url)]
    assert status == 200
    assert _shape(ours) == _shape(theirs)
    assert ours["model"] == "mine"
    assert ours["usage"]["prompt_tokens"] > len(DOCUMENTS)


async def test_the_best_document_comes_first_and_scores_lie_in_0_to_1(similarity_url: str) -> None:
    _, answer = await ask(f"{similarity_url}/v1/rerank", {"query": DOCUMENTS[2], "documents": DOCUMENTS})
    scores = [result["relevance_score"] for result in answer["results"]]
    assert answer["results"][0] == {"index": 2, "relevance_score": pytest.approx(1, abs=1e-5)}
    assert answer["results"][1]["index"] == 0
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1.00001 for score in scores)


async def test_what_was_embedded_is_known_the_next_time(similarity_url: str) -> None:
    body = {"query": "red apples", "documents": DOCUMENTS}
    _, first = await ask(f"{similarity_url}/v1/rerank", body)
    _, again = await ask(f"{similarity_url}/v1/rerank", body)
    assert again["usage"]["prompt_tokens"] == 0
    assert again["results"] == first["results"]


@pytest.mark.parametrize(("top_n", "count"), [(0, 0), (1, 1), (3, 3), (99, 4), (None, 4), ("2", 4)])
async def test_top_n_cuts_the_results_as_llama_cpp_does(
    similarity_url: str, reranking_url: str, top_n: Any, count: int
) -> None:
    body = {"query": "red", "documents": DOCUMENTS, "top_n": top_n}
    for url in (similarity_url, reranking_url):
        _, answer = await ask(f"{url}/v1/rerank", body)
        assert len(answer["results"]) == count


@pytest.mark.parametrize(
    "body",
    [
        {},
        [1],
        {"query": 1, "documents": ["a"]},
        {"query": "a"},
        {"query": "a", "documents": []},
        {"query": "a", "documents": "a"},
        {"query": "a", "documents": ["a", 1]},
    ],
)
async def test_a_bad_request_is_refused_in_the_words_of_llama_cpp(
    similarity_url: str, reranking_url: str, body: Any
) -> None:
    ours, theirs = [await ask(f"{url}/v1/rerank", body) for url in (similarity_url, reranking_url)]
    assert ours == theirs


async def test_what_is_not_json_is_a_400(similarity_url: str) -> None:
    status, answer = await ask(f"{similarity_url}/v1/rerank", b"{x")
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


async def test_an_unknown_path_is_a_404_in_the_words_of_llama_cpp(similarity_url: str, reranking_url: str) -> None:
    assert await ask(f"{similarity_url}/nope") == await ask(f"{reranking_url}/nope")


@pytest.mark.parametrize("path", ["/rerank", "/v1/reranking", "/reranking"])
async def test_the_other_paths_of_llama_cpp_answer_too(similarity_url: str, path: str) -> None:
    status, answer = await ask(similarity_url + path, {"query": "a", "documents": ["a"]})
    assert (status, len(answer["results"])) == (200, 1)


@pytest.mark.parametrize("words", [300, 50_000])
async def test_a_text_that_is_too_long_counts_with_its_beginning(similarity_url: str, words: int) -> None:
    body = {"query": "ab " * 255, "documents": ["ab " * words, "0 " * words, "b"]}
    status, answer = await ask(f"{similarity_url}/v1/rerank", body)
    assert status == 200
    assert answer["results"][0] == {"index": 0, "relevance_score": pytest.approx(1, abs=1e-4)}
    assert len(answer["results"]) == 3


async def test_models_and_props_name_the_service_itself(similarity_url: str) -> None:
    _, models = await ask(f"{similarity_url}/v1/models")
    _, props = await ask(f"{similarity_url}/props")
    assert [model["id"] for model in models["data"]] == ["all-MiniLM-L6-v2-similarity"]
    assert models["data"][0]["meta"]["n_embd"] == 32
    assert props["model_alias"] == "all-MiniLM-L6-v2-similarity"
    assert props["default_generation_settings"]["n_ctx"] == 512


async def test_it_is_healthy_only_while_the_embedding_service_is(
    stopped_embedding: tuple[str, LlamaServer],
) -> None:
    url, embedding = stopped_embedding
    loading = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
    async with TestServer(create_app(url)) as server:
        ours = str(server.make_url("")).rstrip("/")
        assert await ask(f"{ours}/health") == (200, {"status": "ok"})
        embedding.stop()
        assert await ask(f"{ours}/health") == (503, loading)
        assert await ask(f"{ours}/v1/rerank", {"query": "a", "documents": ["a"]}) == (503, loading)


async def test_an_error_of_the_embedding_service_is_passed_on() -> None:
    async def fail(request: web.Request) -> web.Response:
        return web.json_response({"error": {"code": 500, "message": "no", "type": "server_error"}}, status=500)

    app = web.Application()
    app.router.add_post("/v1/embeddings", fail)
    async with (
        TestServer(app, port=free_port()) as embedding,
        TestServer(create_app(str(embedding.make_url("")))) as ours,
    ):
        status, answer = await ask(str(ours.make_url("/v1/rerank")), {"query": "a", "documents": ["a"]})
    assert (status, answer["error"]["message"]) == (500, "no")


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shape(item) for item in value]
    return type(value)
