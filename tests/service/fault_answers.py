"""The right answers of a llama.cpp server, as the fault backend gives them."""

from __future__ import annotations

import json
import math
from array import array
from base64 import b64encode
from collections.abc import Sequence
from typing import Any
from zlib import crc32

DIMENSION = 32
MODEL = "fault-model"
TOKENS = ("The ", "answer ", "is ", "42.")

HEALTH = {"status": "ok"}
PROPS = {"default_generation_settings": {"n_ctx": 4096}, "total_slots": 4}
MODELS = {
    "object": "list",
    "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "llamacpp", "meta": {"n_embd": DIMENSION}}],
}


def vector(text: str, dimension: int = DIMENSION) -> list[float]:
    """Return a unit vector that depends on the text alone."""
    seed = crc32(text.encode("utf-8", "surrogatepass"))
    numbers = [math.sin(seed % 9973 + place * (1 + seed % 31)) + 0.01 for place in range(dimension)]
    length = math.sqrt(sum(number * number for number in numbers))
    return [number / length for number in numbers]


def embeddings(body: Any) -> dict[str, Any]:
    """Return the right answer to an embeddings request."""
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    base64 = body.get("encoding_format") == "base64"
    vectors: list[Any] = [vector(text) for text in texts]
    if base64:
        vectors = [b64encode(array("f", numbers).tobytes()).decode() for numbers in vectors]
    data = [{"object": "embedding", "index": index, "embedding": value} for index, value in enumerate(vectors)]
    return {"object": "list", "model": MODEL, "data": data, "usage": {"prompt_tokens": 7, "total_tokens": 7}}


def ranking(body: Any) -> dict[str, Any]:
    """Return a ranking that keeps the order of the documents."""
    results = [{"index": index, "relevance_score": -float(index)} for index in range(len(body["documents"]))]
    return {"object": "list", "model": MODEL, "results": results, "usage": {"prompt_tokens": 5, "total_tokens": 5}}


def completion(tokens: Sequence[str]) -> dict[str, Any]:
    """Return a whole chat completion."""
    message = {"role": "assistant", "content": "".join(tokens)}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": len(tokens), "total_tokens": 9 + len(tokens)},
    }


def sse(tokens: Sequence[str], *, done: bool = True) -> list[bytes]:
    """Return the events of a streamed chat completion, one bytes object each."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}, *({"content": text} for text in tokens)]
    chunks = [head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    usage = {"prompt_tokens": 9, "completion_tokens": len(tokens), "total_tokens": 9 + len(tokens)}
    chunks.append(head | {"choices": [], "usage": usage})
    events = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
    return [*events, b"data: [DONE]\n\n"] if done else events
