"""The OpenAI-compatible routes, called by OpenAI's own SDK in front of real llama.cpp servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.service.application import ConfigMaker, RunningApp, running

USER: Any = [{"role": "user", "content": "Hello"}]


def _sdk(app: RunningApp, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=app.url + "/v1", api_key="none", max_retries=0, **options)


@pytest.fixture
async def sdk(api: RunningApp) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's SDK, pointed at the application."""
    async with _sdk(api) as client:
        yield client


@pytest.fixture
async def rag(api: RunningApp) -> str:
    """The name of a RAG model over two documents."""
    documents = [
        {"id": "flask", "text": "The flask holds two litres. It is made of steel.", "title": "Flask"},
        {"id": "lamp", "text": "The lamp burns oil. It is made of brass.", "title": "Lamp"},
    ]
    status, answer = await api.post("/rag/ingest", {"documents": documents})
    assert (status, answer["counts"]["created"]) == (200, 2)
    return f"rag:{answer['collection']}"


async def test_chat(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(model="any", messages=USER, max_tokens=5)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


async def test_chat_streamed(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model="any", messages=USER, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5


async def test_embeddings_as_base64_and_as_floats_are_the_same(sdk: openai.AsyncOpenAI) -> None:
    by_default = await sdk.embeddings.create(model="any", input=["one", "two words"])
    floats = await sdk.embeddings.create(model="any", input=["one", "two words"], encoding_format="float")
    assert [item.index for item in by_default.data] == [0, 1]
    for one, other in zip(by_default.data, floats.data, strict=True):
        assert len(one.embedding) == 32
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)


async def test_models_are_listed_generative_first_and_described(sdk: openai.AsyncOpenAI, rag: str) -> None:
    names = [model.id async for model in sdk.models.list()]
    assert names[0] == "tiny-generative"
    assert names[-2:] == ["tiny-embedding", "tiny-reranking"]
    assert rag in names[1:-2]
    assert all(name.startswith("rag:") for name in names[1:-2])
    for name in (rag, "tiny-embedding"):
        model = await sdk.models.retrieve(name)
        assert (model.id, model.object) == (name, "model")
    with pytest.raises(openai.NotFoundError) as failure:
        await sdk.models.retrieve("rag:absent")
    assert failure.value.code == "model_not_found"


async def test_a_service_that_is_down_has_no_model_in_the_list(make_config: ConfigMaker) -> None:
    config = make_config(backends={"embedding": {"urls": ("http://127.0.0.1:9",)}})
    async with running(config) as app, _sdk(app) as client:
        names = [model.id async for model in client.models.list() if not model.id.startswith("rag:")]
        assert names == ["tiny-generative", "tiny-reranking"]


async def test_a_rag_model_answers_with_citations_beside_the_choices(sdk: openai.AsyncOpenAI, rag: str) -> None:
    answer = await sdk.chat.completions.create(
        model=rag,
        messages=[{"role": "user", "content": [{"type": "text", "text": "How much holds"}, _text("the flask?")]}],
        max_tokens=12,
    )
    extra = answer.model_extra or {}
    assert answer.model == rag
    assert answer.object == "chat.completion"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert {hit["document_id"] for hit in extra["citations"]} <= {"flask", "lamp"}
    content = answer.choices[0].message.content or ""
    assert extra["grounding"]
    assert all(0 <= row["start"] <= row["end"] <= len(content) for row in extra["grounding"])
    assert extra["degraded"] == []


async def test_a_rag_stream_ends_with_its_extras_then_usage_then_done(api: RunningApp, rag: str) -> None:
    async with _sdk(api) as sdk:
        stream = await sdk.chat.completions.create(
            model=rag,
            messages=[{"role": "user", "content": "How much holds the flask?"}],
            max_completion_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
            temperature=0,
        )
        chunks = [chunk async for chunk in stream]
        whole = await sdk.chat.completions.create(
            model=rag,
            messages=[{"role": "user", "content": "How much holds the flask?"}],
            max_completion_tokens=12,
            temperature=0,
        )
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    *_, last, usage = chunks
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 12
    assert last.choices[0].finish_reason == "length"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    extra = last.model_extra or {}
    assert extra["grounding"] == (whole.model_extra or {})["grounding"]
    assert [hit["chunk_id"] for hit in extra["citations"]] == [
        hit["chunk_id"] for hit in (whole.model_extra or {})["citations"]
    ]


async def test_without_include_usage_a_rag_stream_has_no_usage_chunk(sdk: openai.AsyncOpenAI, rag: str) -> None:
    stream = await sdk.chat.completions.create(model=rag, messages=USER, max_tokens=3, stream=True)
    assert all(chunk.choices for chunk in [chunk async for chunk in stream])


async def test_system_and_history_reach_the_model(sdk: openai.AsyncOpenAI, rag: str) -> None:
    short = await sdk.chat.completions.create(model=rag, messages=USER, max_tokens=1)
    long = await sdk.chat.completions.create(
        model=rag,
        messages=[
            {"role": "system", "content": "Be brief, always. " * 4},
            {"role": "user", "content": "What is a lamp? " * 4},
            {"role": "assistant", "content": "A light. " * 4},
            *USER,
        ],
        max_tokens=1,
    )
    assert short.usage is not None
    assert long.usage is not None
    assert long.usage.prompt_tokens > short.usage.prompt_tokens + 100  # a token a byte


def _text(text: str) -> Any:
    return {"type": "text", "text": text}


_IMAGE = [_text("What is this?"), {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}]
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [_TOOL]}, "tools"),
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"messages": [{"role": "user", "content": _IMAGE}]}, "messages.0.content.1"),
        ({"messages": [{"role": "system", "content": "x" * 65_537}, *USER]}, "messages"),
        ({"messages": [{"role": "user", "content": [7]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "assistant", "content": "Hm"}]}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"stream_options": 1}, "stream_options"),
    ],
)
async def test_what_a_rag_model_cannot_do_is_refused(
    sdk: openai.AsyncOpenAI, rag: str, change: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as failure:
        await sdk.chat.completions.create(**({"model": rag, "messages": USER} | change))
    assert failure.value.param == param
    assert failure.value.type == "invalid_request_error"


async def test_what_a_rag_model_does_not_know_is_ignored(sdk: openai.AsyncOpenAI, rag: str) -> None:
    answer = await sdk.chat.completions.create(
        model=rag, messages=USER, max_tokens=1, n=1, tools=[], user="me", logit_bias={}, extra_body={"mirostat": 2}
    )
    assert answer.choices


@pytest.mark.parametrize("collection", ["absent-collection", "../x", "", "x" * 64, "a\n"])
@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_rag_model_is_not_found(sdk: openai.AsyncOpenAI, collection: str, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError) as failure:
        await sdk.chat.completions.create(model=f"rag:{collection}", messages=USER, stream=stream)
    assert (failure.value.param, failure.value.code) == ("model", "model_not_found")


async def test_the_sdk_raises_its_own_errors(make_config: ConfigMaker) -> None:
    down = {"urls": ("http://127.0.0.1:9",)}
    async with running(make_config(backends={"generative": down})) as app, _sdk(app) as sdk:
        with pytest.raises(openai.InternalServerError) as failure:
            await sdk.chat.completions.create(model="any", messages=USER)
        assert failure.value.status_code == 503
        assert failure.value.type == "backend_unavailable"
        assert failure.value.response.headers["Retry-After"] == "1"
        assert failure.value.request_id == failure.value.response.headers["X-Request-ID"]


async def test_the_backends_own_refusal_reaches_the_sdk(sdk: openai.AsyncOpenAI) -> None:
    wrong: Any = [{"role": "user", "content": 7}]
    with pytest.raises(openai.BadRequestError):
        await sdk.chat.completions.create(model="any", messages=wrong)


async def test_malformed_json_is_the_callers_fault_on_every_route(api: RunningApp) -> None:
    for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/rerank"):
        async with api.session.post(
            api.url + path, data=b'{"model": ', headers={"Content-Type": "application/json"}
        ) as response:
            assert response.status == 400, path
            assert (await response.json())["error"]["type"] == "invalid_request_error"
