"""The real models of the trial, as it serves them; they are looked for, never fetched here."""

from __future__ import annotations

from typing import Any

import aiohttp
import numpy as np
import pytest

pytestmark = pytest.mark.models

CAT, KITTEN, REVENUE = "The cat sits on the mat.", "A kitten is resting on a rug.", "Quarterly revenue rose by 4 %."


async def test_similar_sentences_embed_near_each_other_and_others_do_not(minilm: str) -> None:
    answer = await _post(f"{minilm}/v1/embeddings", {"input": [CAT, KITTEN, REVENUE]})
    cat, kitten, revenue = (np.array(row["embedding"]) for row in answer["data"])
    assert len(cat) == 384
    assert cat @ kitten > 0.6
    assert abs(cat @ revenue) < 0.15


async def test_the_embedding_model_takes_512_tokens_and_says_when_a_text_has_more(minilm: str) -> None:
    answer = await _post(f"{minilm}/v1/embeddings", {"input": "cat " * 510})
    assert answer["usage"]["prompt_tokens"] == 512
    refused = await _post(f"{minilm}/v1/embeddings", {"input": "cat " * 511}, status=400)
    assert refused["error"]["type"] == "exceed_context_size_error"


async def test_models_and_slots_are_as_the_trial_promises(smollm: str, minilm: str) -> None:
    smollm_props, minilm_props = await _get(f"{smollm}/props"), await _get(f"{minilm}/props")
    assert smollm_props["model_alias"] == "SmolLM2-135M-Instruct"
    assert smollm_props["default_generation_settings"]["n_ctx"] == 4096
    assert minilm_props["model_alias"] == "all-MiniLM-L6-v2"


async def test_the_generative_model_answers_from_the_sources_in_its_prompt(smollm: str) -> None:
    lamp = "The Aurora lamp is a camping light made by Lumo. It shines for 14 hours on one charge."
    messages = [
        {"role": "system", "content": "Answer the question using only the given context."},
        {"role": "user", "content": f"Context:\n[1] {lamp}\n\nQuestion: How long does the Aurora lamp shine?"},
    ]
    body = {"messages": messages, "max_tokens": 24, "temperature": 0}
    answer = await _post(f"{smollm}/v1/chat/completions", body)
    assert "14 hours" in answer["choices"][0]["message"]["content"]


async def _get(url: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.json()


async def _post(url: str, body: dict[str, Any], status: int = 200) -> Any:
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        assert answer.status == status
        return await answer.json()
