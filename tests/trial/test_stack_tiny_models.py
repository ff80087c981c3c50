"""The tiny models answer through real llama.cpp as the tests of the other parts expect of them."""

from __future__ import annotations

import base64
import struct
from typing import Any

import aiohttp
import pytest


async def _post(url: str, body: dict[str, Any]) -> Any:
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        assert answer.status == 200
        return await answer.json()


async def _stream(url: str, body: dict[str, Any]) -> str:
    async with aiohttp.ClientSession() as session, session.post(url, json={**body, "stream": True}) as answer:
        assert answer.content_type == "text/event-stream"
        return await answer.text()


def _chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 16, "temperature": 0}


async def test_embeddings_have_the_same_numbers_as_floats_and_as_base64(embedding_url: str) -> None:
    url = f"{embedding_url}/v1/embeddings"
    floats = await _post(url, {"input": ["hello"]})
    packed = await _post(url, {"input": ["hello"], "encoding_format": "base64"})
    numbers = struct.unpack("<32f", base64.b64decode(packed["data"][0]["embedding"]))
    assert floats["data"][0]["embedding"] == pytest.approx(numbers, abs=1e-6)


async def test_texts_that_share_letters_embed_nearer_than_others(embedding_url: str) -> None:
    body = {"input": ["a red apple", "apples are red", "0123 456 789"]}
    data = (await _post(f"{embedding_url}/v1/embeddings", body))["data"]
    first, near, far = (item["embedding"] for item in data)
    assert _dot(first, near) > _dot(first, far) + 0.2


async def test_an_input_of_512_tokens_is_embedded(embedding_url: str) -> None:
    answer = await _post(f"{embedding_url}/v1/embeddings", {"input": ["a" * 510]})
    assert answer["usage"]["prompt_tokens"] == 512


async def test_every_document_is_reranked_once(reranking_url: str) -> None:
    answer = await _post(f"{reranking_url}/v1/rerank", {"query": "a", "documents": ["a", "b", "c"]})
    assert sorted(result["index"] for result in answer["results"]) == [0, 1, 2]
    assert len({result["relevance_score"] for result in answer["results"]}) == 3


async def test_the_generative_model_says_16_printable_tokens_and_the_same_again(generative_url: str) -> None:
    answers = [await _post(f"{generative_url}/v1/chat/completions", _chat("hello")) for _ in range(2)]
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 16
    assert texts[0].isascii()
    assert texts[0].isprintable()
    assert answers[0]["usage"]["completion_tokens"] == 16


async def test_the_generative_model_streams_a_token_at_a_time(generative_url: str) -> None:
    text = await _stream(f"{generative_url}/v1/chat/completions", _chat("hello"))
    assert text.count('"delta":{"content":') == 16
    assert text.endswith("data: [DONE]\n\n")


async def test_each_slot_has_4096_tokens_of_context(generative_url: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{generative_url}/props") as answer:
        props = await answer.json()
    assert props["default_generation_settings"]["n_ctx"] == 4096


def _dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))
