"""The OpenAI-compatible routes: chat, embeddings and rerank go to the backends, `rag:` models to the query pipeline."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiohttp import web

from hartonomous import codec
from hartonomous.clients.embedding import EmbeddingClient
from hartonomous.clients.generative import GenerativeClient
from hartonomous.clients.reranking import RerankingClient
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.errors import HartonomousError, NotFoundError
from hartonomous.handlers import ragmodel
from hartonomous.handlers.answers import json_response, runtime_of
from hartonomous.handlers.body import read_bytes, read_json, validate
from hartonomous.handlers.metering import spent
from hartonomous.handlers.openaishapes import AnyError, ChatRequest, EmbeddingsRequest
from hartonomous.handlers.operations import COST, Operation
from hartonomous.handlers.relay import relay
from hartonomous.handlers.schemas import RerankBody
from hartonomous.keys import Runtime
from hartonomous.middleware.request_id import call_of

_RAG = b'"rag:'
_Client = EmbeddingClient | GenerativeClient | RerankingClient


async def chat(request: web.Request) -> web.StreamResponse:
    """Pass a chat completion through, or answer it from a collection when the model is `rag:COLLECTION`."""
    body, call = await read_bytes(request), call_of(request)
    # The body is parsed only when it could name a RAG model.
    if _RAG in body:
        parsed = codec.loads_request(body)
        if isinstance(parsed, dict) and str(parsed.get("model")).startswith(ragmodel.PREFIX):
            return await ragmodel.chat(request, parsed, call)
    return await relay(request, runtime_of(request).pools["generative"], "/v1/chat/completions", body, call)


async def embeddings(request: web.Request) -> web.StreamResponse:
    """Pass embeddings through."""
    body, call = await read_bytes(request), call_of(request)
    pool = runtime_of(request).pools["embedding"]
    return await relay(request, pool, "/v1/embeddings", body, call, is_idempotent=True)


async def rerank(request: web.Request) -> web.Response:
    """Rerank for clients of llama.cpp, Jina and Cohere alike."""
    runtime, call = runtime_of(request), call_of(request)
    body = validate(RerankBody, await read_json(request))
    if runtime.reranking is None:
        raise NotFoundError("No reranking service is configured.", code="model_not_found", param="model")
    scores, ranked = await runtime.reranking.raw_scores(body.query, body.documents, call, body.model)
    if body.normalize:
        scores = runtime.reranking.calibrated(scores)
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
    tokens = ranked.tokens
    spent(request, tokens)
    return json_response(
        {
            "id": call.request_id,
            "object": "list",
            "model": ranked.model_name or body.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "meta": {
                "api_version": {"version": "2"},
                "billed_units": {"search_units": 1},
                "tokens": {"input_tokens": tokens, "output_tokens": 0},
            },
            "results": [_result(index, scores[index], body) for index in order],
        }
    )


def _result(index: int, score: float, body: RerankBody) -> dict[str, Any]:
    result: dict[str, Any] = {"index": index, "relevance_score": score}
    if body.return_documents:
        result["document"] = {"text": body.documents[index]}
    return result


async def list_models(request: web.Request) -> web.Response:
    """List the models: generative, then the `rag:` ones that the key may see, then embedding and reranking."""
    return json_response({"object": "list", "data": await _models(request)})


async def get_model(request: web.Request) -> web.Response:
    """Describe one model."""
    name = request.match_info["id"]
    ragmodel.collection_of(name, call_of(request).grant)
    for model in await _models(request):
        if model["id"] == name:
            return json_response(model)
    raise NotFoundError("There is no such model.", param="model", code="model_not_found")


async def _models(request: web.Request) -> list[dict[str, Any]]:
    """Return what the services and the vector store have; one that is down, or hangs, is left out."""
    runtime, call = runtime_of(request), call_of(request)
    call = call.within(Deadline(call.deadline.bound(runtime.config.health.timeout_s)), call.wanted)
    generative, rag, embedding, reranking = await asyncio.gather(
        _loaded(runtime.generative, call),
        _rag_models(runtime, call),
        _loaded(runtime.embedding, call),
        _loaded(runtime.reranking, call),
    )
    created = int(time.time())
    names = dict.fromkeys([*generative, *rag, *embedding, *reranking])
    return [{"id": name, "object": "model", "created": created, "owned_by": "hartonomous"} for name in names]


async def _loaded(client: _Client | None, call: Call) -> list[str]:
    if client is None:
        return []
    try:
        info = await client.model(call)
    except HartonomousError:
        return []
    return [info.name]


async def _rag_models(runtime: Runtime, call: Call) -> list[str]:
    try:
        return [ragmodel.PREFIX + info.name for info in await runtime.schema.list(call)]
    except HartonomousError:
        return []


_PROXY_ERRORS = (422, 429, 502, 503, 504)
_RERANK = "Rerank documents (llama.cpp's, Jina's and Cohere's clients)"

OPERATIONS = (
    Operation(
        "POST",
        "/v1/chat/completions",
        chat,
        "Chat completion; with the model rag:COLLECTION answered from a collection",
        "openai",
        ChatRequest,
        dict[str, Any],
        media=(codec.JSON, codec.SSE),
        tells=COST,
        failure=AnyError,
        errors=(404, 409, *_PROXY_ERRORS),
    ),
    Operation(
        "POST",
        "/v1/embeddings",
        embeddings,
        "Embeddings",
        "openai",
        EmbeddingsRequest,
        dict[str, Any],
        failure=AnyError,
        errors=_PROXY_ERRORS,
    ),
    *(
        Operation("POST", path, rerank, _RERANK, "openai", RerankBody, dict[str, Any], errors=(404, *_PROXY_ERRORS))
        for path in ("/v1/rerank", "/rerank", "/v2/rerank")
    ),
    Operation("GET", "/v1/models", list_models, "List the models", "openai", answer=dict[str, Any]),
    Operation(
        "GET",
        "/v1/models/{id}",
        get_model,
        "Describe a model",
        "openai",
        answer=dict[str, Any],
        path_parameters={"id": {"type": "string", "minLength": 1}},
        errors=(404,),
    ),
)
