"""Four bare aiohttp calls and orjson: `python -m tests.bench.floors.rag PORT EMBEDDING STORE RERANKING GENERATIVE`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
from aiohttp import web

_SESSION = web.AppKey("session", aiohttp.ClientSession)
_JSON = {"Content-Type": "application/json"}
_CANDIDATES, _SOURCES = 20, 5
_INSTRUCTION = "Answer from the sources alone and name them by their numbers, like [1]."


async def query(request: web.Request) -> web.Response:
    """Embed the question, search, rerank, let the model answer from the best."""
    question = orjson.loads(await request.read())["query"]
    embedding, store, reranking, generative = sys.argv[2:6]
    session = request.app[_SESSION]
    vector = (await _post(session, f"{embedding}/v1/embeddings", {"input": [question]}))["data"][0]["embedding"]
    wanted = {"query": vector, "using": "dense", "limit": _CANDIDATES, "with_payload": True}
    found = (await _post(session, f"{store}/collections/docs/points/query", wanted))["result"]["points"]
    texts = [point["payload"]["text"] for point in found]
    ranked = await _post(session, f"{reranking}/v1/rerank", {"query": question, "documents": texts, "top_n": _SOURCES})
    best = sorted(ranked["results"], key=lambda one: -one["relevance_score"])[:_SOURCES]
    sources = [texts[one["index"]] for one in best]
    prompt = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(sources, 1))
    messages = [
        {"role": "system", "content": _INSTRUCTION},
        {"role": "user", "content": f"{prompt}\n\nQuestion: {question}"},
    ]
    chat = {"messages": messages, "max_tokens": 512, "temperature": 0.1, "stream": False}
    said = await _post(session, f"{generative}/v1/chat/completions", chat)
    answer = {"answer": said["choices"][0]["message"]["content"], "sources": sources}
    return web.Response(body=orjson.dumps(answer), content_type="application/json")


async def _post(session: aiohttp.ClientSession, url: str, body: Any) -> Any:
    async with session.post(url, data=orjson.dumps(body), headers=_JSON) as response:
        return orjson.loads(await response.read())


async def ready(_: web.Request) -> web.Response:
    """Say that it listens."""
    return web.Response()


def main(port: int) -> None:
    """Serve until SIGTERM."""

    async def session(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as app[_SESSION]:
            yield

    app = web.Application()
    app.cleanup_ctx.append(session)
    app.router.add_post("/rag/query", query)
    app.router.add_get("/ready", ready)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
