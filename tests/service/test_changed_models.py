"""An embedding service that comes back with another model at the same address: nothing of it enters the collection."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests import models
from tests.llama import LlamaServer
from tests.service.application import ConfigMaker, RunningApp, running
from tests.service.vector_store import free_port


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
