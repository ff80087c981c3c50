"""What the backends are asked and answer: taken from the real application before a real vector engine.

So the static answers fit what is asked, whatever that is; and it is made sure that a question asks each service once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from hartonomous.config import Config
from tests.bench.texts import COLLECTION, answer, documents, pieces, question
from tests.service.application import RunningApp, running
from tests.service.fault_answers import completion, sse
from tests.service.fault_backend import FaultBackend
from tests.service.rag import CHAT, EMBEDDINGS

_POINTS = f"/collections/{COLLECTION}/points/query"
_BATCH = f"{_POINTS}/batch"
_RERANK = "/v1/rerank"
_QUESTIONS = 5
_CANDIDATES = 20


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a question sends to each service, by path, and what nginx answers, by file."""

    asked: dict[str, bytes]
    static: dict[str, bytes]
    said: str
    described: dict[str, Any]

    @property
    def found(self) -> dict[str, Any]:
        """What a backend of our own answers: the searches of a question, a chat, and what the store says of itself."""
        dense, sparse = orjson.loads(self.static["batch.json"])["result"]
        return {"dense": dense, "sparse": sparse, "answer": self.said, "described": self.described}


async def record(models: str, engine: str) -> Recorded:
    """Ingest the documents and ask questions. Raises RuntimeError when a question does not ask each service once."""
    async with FaultBackend(upstream=models) as services, FaultBackend(upstream=engine) as store:
        urls = {"urls": (services.url,)}
        backends = {"embedding": urls, "generative": urls, "reranking": urls, "qdrant": {"url": store.url}}
        async with running(Config.model_validate({"backends": backends})) as app:
            await _ingest(app)
            await _warm(app)
            services.requests.clear()
            before, store.requests = store.requests, []
            sources = [await _sources(app, number) for number in range(1, 1 + _QUESTIONS)][-1]
        counts = {path: len(services.calls(path)) for path in (EMBEDDINGS, _RERANK, CHAT)}
        counts[_BATCH] = len(store.calls(_BATCH))
        if set(counts.values()) != {_QUESTIONS}:
            raise RuntimeError(f"{_QUESTIONS} questions did not ask each service once: {counts}")
        asked = {path: services.calls(path)[-1].body for path in (EMBEDDINGS, _RERANK, CHAT)}
        asked[_BATCH] = store.calls(_BATCH)[-1].body
        described = {request.path for request in before + store.requests if request.method == "GET"}
    return await _answers(asked, answer(sources), described, models, engine)


async def _answers(asked: dict[str, bytes], said: str, described: set[str], models: str, engine: str) -> Recorded:
    searches = orjson.loads(asked[_BATCH])["searches"]
    dense = next(search for search in searches if search["using"] == "dense")
    bare = {"query": dense["query"], "using": "dense", "limit": _CANDIDATES, "with_payload": True}
    async with aiohttp.ClientSession() as session:
        static = {
            "batch.json": await _post(session, engine + _BATCH, asked[_BATCH]),
            "query.json": await _post(session, engine + _POINTS, orjson.dumps(bare)),
            "rerank.json": await _post(session, models + _RERANK, asked[_RERANK]),
        }
        for name, path in (("models.json", "/v1/models"), ("props.json", "/props"), ("health.json", "/health")):
            static[name] = await _get(session, models + path)
        told = {path: (await _get(session, engine + path)).decode() for path in described}
        told[_POINTS] = static["query.json"].decode()
    static["chat.json"] = orjson.dumps(completion(pieces(said)))
    static["chat.sse"] = b"".join(sse(pieces(said)))
    return Recorded(asked, static, said, told)


async def _get(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url) as response:
        return await response.read()


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> bytes:
    async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
        answered = await response.read()
        if response.status != 200:
            raise RuntimeError(f"{url} answered {response.status}: {answered[:300]!r}")
        return answered


async def _ingest(app: RunningApp) -> None:
    sent = [{"id": f"station-{number}", "text": text} for number, text in enumerate(documents())]
    body = {"collection": COLLECTION, "documents": sent, "chunking": {"max_tokens": 512, "overlap_tokens": 0}}
    status, answered = await app.post("/rag/ingest", body)
    if status != 200 or any(document["chunks"] != 1 for document in answered["documents"]):
        raise RuntimeError(f"the documents were not stored as one chunk each: {status} {answered}")


async def _warm(app: RunningApp) -> None:
    await _sources(app, 0)


async def _sources(app: RunningApp, number: int) -> list[str]:
    status, answered = await app.post("/rag/query", {"query": question(number)})
    if status != 200 or len(answered["sources"]) != 5:
        raise RuntimeError(f"a question was not answered from five sources: {status} {answered}")
    return [source["text"] for source in answered["sources"]]
