"""`/v1/rerank`: one answer that llama.cpp's, Jina's and Cohere's clients all read, from the real llama.cpp service."""

from __future__ import annotations

import math
from typing import Any

import aiohttp
import pytest

from tests.service import fault_backend as fault
from tests.service.application import ConfigMaker, RunningApp, running
from tests.service.fault_backend import FaultBackend

DOCUMENTS = ["a lamp burns oil", "the flask holds two litres", "ab", "a flask", "the lamp is made of brass"]
BODY: dict[str, Any] = {"model": "any", "query": "the flask", "documents": DOCUMENTS}


async def _own_scores(url: str) -> dict[int, float]:
    """Return llama.cpp's own scores."""
    async with aiohttp.ClientSession() as session, session.post(url + "/v1/rerank", json=BODY) as response:
        answer = await response.json()
    return {result["index"]: result["relevance_score"] for result in answer["results"]}


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
async def test_scores_are_the_backends_own_sorted(api: RunningApp, reranking_url: str, path: str) -> None:
    status, answer = await api.post(path, BODY)
    assert status == 200
    own = await _own_scores(reranking_url)
    scores = {result["index"]: result["relevance_score"] for result in answer["results"]}
    assert scores == pytest.approx(own, abs=1e-5)
    assert list(scores.values()) == sorted(own.values(), reverse=True)
    assert all(set(result) == {"index", "relevance_score"} for result in answer["results"])
    assert answer["object"] == "list"
    assert answer["model"] == "any"  # llama.cpp's servers say what they were asked for
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 0
    assert answer["meta"]["billed_units"]["search_units"] == 1
    assert answer["id"]


async def test_jina_documents_of_objects_come_back_when_they_are_wanted(api: RunningApp) -> None:
    documents = [{"text": text} for text in DOCUMENTS[:2]] + [DOCUMENTS[2]]
    status, answer = await api.post(
        "/v1/rerank", BODY | {"documents": documents, "return_documents": True, "top_n": 2, "truncation": True}
    )
    assert status == 200
    assert len(answer["results"]) == 2
    for result in answer["results"]:
        assert result["document"] == {"text": DOCUMENTS[result["index"]]}


async def test_cohere_v2s_request_is_understood(api: RunningApp) -> None:
    body = BODY | {"top_n": 3, "max_tokens_per_doc": 4096, "priority": 0}
    status, answer = await api.post("/v2/rerank", body, headers={"Authorization": "Bearer x", "X-Client-Name": "me"})
    assert status == 200
    assert len(answer["results"]) == 3


async def test_normalized_scores_are_the_logistic_function_of_the_own_ones(api: RunningApp, reranking_url: str) -> None:
    _, answer = await api.post("/v1/rerank", BODY | {"normalize": True})
    own = await _own_scores(reranking_url)
    for result in answer["results"]:
        assert result["relevance_score"] == pytest.approx(1 / (1 + math.exp(-own[result["index"]])), abs=1e-5)


async def test_top_n_beyond_the_documents_returns_all(api: RunningApp) -> None:
    status, answer = await api.post("/v1/rerank", BODY | {"top_n": 10_000_000})
    assert (status, len(answer["results"])) == (200, len(DOCUMENTS))


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": "one"}, "documents"),
        ({"documents": ["one", 7]}, "documents.1"),
        ({"documents": [{"title": "no text"}]}, "documents.0"),
        ({"documents": [None]}, "documents.0"),
        ({"query": " "}, "query"),
        ({"query": None}, "query"),
        ({"query": "x" * 8_193}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": "3"}, "top_n"),
        ({"top_n": True}, "top_n"),
        ({"return_documents": 1}, "return_documents"),
    ],
)
async def test_a_wrong_request_is_refused_with_its_path(api: RunningApp, change: dict[str, Any], param: str) -> None:
    status, answer = await api.post("/v1/rerank", BODY | change)
    assert (status, answer["error"]["param"]) == (422, param)


async def test_a_body_that_is_no_object_is_refused(api: RunningApp) -> None:
    bodies: tuple[Any, ...] = ([], "text", 7)
    for body in bodies:
        status, answer = await api.post("/v1/rerank", body)
        assert (status, answer["error"]["type"]) == (422, "invalid_request_error")


@pytest.mark.parametrize(
    "results",
    [
        [{"index": 0, "relevance_score": 1.0}],
        [{"index": 0, "relevance_score": 1.0}, {"index": 0, "relevance_score": 1.0}],
        [{"index": 0, "relevance_score": 1.0}, {"index": 2, "relevance_score": 1.0}],
        [{"index": 0, "relevance_score": 1.0}, {"index": -1, "relevance_score": 1.0}],
        [{"index": 0, "relevance_score": 1.0}, {"index": 1, "relevance_score": None}],
        [{"index": 0, "relevance_score": 1.0}, {"index": 1, "relevance_score": float("nan")}],
        [{"index": 0, "relevance_score": 1.0}, {"index": 1, "relevance_score": "1"}],
        [{"index": 0, "relevance_score": 1.0}, {"index": True, "relevance_score": 1.0}],
        [0, 1],
        {"0": 1.0},
        None,
    ],
)
async def test_a_nonsensical_ranking_is_a_502(make_config: ConfigMaker, faulty: FaultBackend, results: Any) -> None:
    faulty.on("/v1/rerank", fault.json_reply({"results": results}))
    async with running(make_config(backends={"reranking": {"urls": (faulty.url,)}})) as app:
        status, answer = await app.post("/v1/rerank", BODY | {"documents": ["a", "b"]})
        assert (status, answer["error"]["type"]) == (502, "backend_error")


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": -5}, {"prompt_tokens": 10**30}, {"prompt_tokens": 10**400}, [7], 7]
)
@pytest.mark.parametrize("model", [7, 10**30, {"id": 10**30}])
async def test_nonsense_about_usage_and_model_counts_as_nothing(
    make_config: ConfigMaker, faulty: FaultBackend, usage: Any, model: Any
) -> None:
    results = [{"index": 1, "relevance_score": 2}, {"index": 0, "relevance_score": 3}]
    faulty.on("/v1/rerank", fault.json_reply({"results": results, "usage": usage, "model": model}))
    async with running(make_config(backends={"reranking": {"urls": (faulty.url,)}})) as app:
        status, answer = await app.post("/v1/rerank", BODY | {"documents": ["a", "b"]})
        assert (status, answer["usage"]) == (200, {"prompt_tokens": 0, "total_tokens": 0})
        assert answer["model"] == BODY["model"]
        assert [result["index"] for result in answer["results"]] == [0, 1]


async def test_without_a_reranking_service_there_is_no_model(make_config: ConfigMaker) -> None:
    async with running(make_config(backends={"reranking": None})) as app:
        status, answer = await app.post("/v1/rerank", BODY)
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
