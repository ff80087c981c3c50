"""An embedding service with another model, at the same address or after a reload: nothing of it enters a collection."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hartonomous.clients import models as known_models
from hartonomous.core.access import EVERYTHING
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from tests import models
from tests.llama import LlamaServer
from tests.service import fault_backend as fault
from tests.service.application import ConfigMaker, RunningApp, eventually, running
from tests.service.fault_answers import embeddings
from tests.service.fault_backend import Behaviour, Exchange, FaultBackend
from tests.service.fleet import SELDOM, fleet
from tests.service.vector_store import free_port

EMBED, TOKENIZE = "/v1/embeddings", "/tokenize"


async def _ingest(app: RunningApp, name: str) -> int:
    status, _ = await app.post("/rag/ingest", {"documents": [{"id": name, "text": f"Text of {name}."}]})
    return status


async def test_a_model_that_changes_behind_an_address_is_noticed_before_anything_is_written(
    make_config: ConfigMaker, tmp_path: Path
) -> None:
    model, port = tmp_path / "model.gguf", free_port()
    models.write_embedding_model(model)
    config = make_config(backends={"embedding": {"urls": (f"http://127.0.0.1:{port}",)}})
    first = await asyncio.to_thread(LlamaServer, "embedding", model, port=port, alias="model-a")
    async with running(config) as app:
        try:
            assert await _ingest(app, "a") == 200
        finally:
            await asyncio.to_thread(first.stop)
        second = await asyncio.to_thread(LlamaServer, "embedding", model, port=port, alias="model-b")
        try:
            statuses = [await _ingest(app, name) for name in ("b", "c", "d")]
            assert set(statuses) <= {409, 503}
            assert statuses[-1] == 409
            path = f"/rag/collections/{config.rag.default_collection}"
            _, listed = await app.get(path + "/documents")
            assert [document["id"] for document in listed["documents"]] == ["a"]
        finally:
            await asyncio.to_thread(second.stop)
            await app.delete(path)


def _serve(backend: FaultBackend, name: str) -> None:
    """Let a backend say that its model is of this name."""
    model = {"id": name, "meta": {"n_embd": fault.DIMENSION}}
    backend.on("/v1/models", fault.json_reply({"object": "list", "data": [model]}))
    backend.on(EMBED, _embeds(name))


def _embeds(name: str) -> Behaviour:
    async def embed(exchange: Exchange) -> None:
        await fault.json_reply(embeddings(exchange.request.json) | {"model": name})(exchange)

    return embed


async def _unseen(app: RunningApp, collection: str) -> int:
    """Remove what was written and not shown; return how many chunks it was."""
    return await app.runtime.vectors.sweep(collection, -60.0, Call("test", Deadline(60.0), grant=EVERYTHING))


@pytest.mark.parametrize("held", [EMBED, TOKENIZE])
@pytest.mark.parametrize("known_s", [0.0, 1_000.0])
async def test_an_ingest_that_goes_on_at_the_addresses_of_another_model_writes_nothing_of_it(
    make_config: ConfigMaker,
    faulty: FaultBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    held: str,
    known_s: float,
) -> None:
    """What is known of the model is old at once, or not for long."""
    monkeypatch.setattr(known_models, "_TTL_S", known_s)
    go = asyncio.Event()
    service = {"urls": (faulty.url,), "batch_size": 1, "concurrency": 1, "hedging": False}
    text = "\n\n".join(f"Paragraph {number} " + "word " * 60 for number in range(30))
    document = {"documents": [{"id": "a", "text": text}], "chunking": {"max_tokens": 64, "overlap_tokens": 0}}
    async with FaultBackend() as new:
        for backend, name in ((faulty, "old"), (new, "new")):
            _serve(backend, name)
        faulty.on(held, fault.after(_embeds("old") if held == EMBED else fault.DEFAULT, go))
        config = make_config(backends={"embedding": service}, health=SELDOM)
        async with fleet(config, tmp_path / "config.yaml", "embedding") as made:
            path = f"/rag/collections/{config.rag.default_collection}"
            ingesting = asyncio.create_task(made.app.post("/rag/ingest", document))
            await eventually(lambda: faulty.calls(held), "the old service is asked")
            await made.reload(new)
            go.set()
            status, answer = await ingesting
            assert (status, answer["error"]["code"]) == (503, "backend_unavailable")
            assert (await made.app.get(path + "/documents"))[1]["documents"] == []
            assert await _unseen(made.app, config.rag.default_collection) == 0
            assert await _ingest(made.app, "b") == 409
            assert await made.app.delete(path) == 204
