"""What a contract run is made of: tiny real models, the engine, `hartonomous serve` with the keys of three tenants."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.llama import LlamaServer, write_model
from tests.service.fault_backend import Behaviour, Exchange, FaultBackend
from tests.service.fault_behaviours import forwarded
from tests.service.keyed import Key, Keys
from tests.service.rag import CHAT
from tests.service.serving import Served, serving
from tests.service.vector_store import data_folder, running_store

DOCUMENTS = [
    {"id": "flask", "text": "The flask holds two litres.", "title": "Flasks", "metadata": {"team": "lab", "size": 2}},
    {"id": "a/lime", "text": "# Limes\n\nA lime weighs sixty grams.", "format": "markdown", "source": "limes.md"},
]


@dataclass(slots=True)
class Contract:
    """Running backends, and the keys of the servers before them."""

    folder: Path
    models: dict[str, str]
    store: str
    keys: Keys

    @property
    def tenants(self) -> tuple[Key, ...]:
        """The keys of the three tenants."""
        return self.keys.a, self.keys.b, self.keys.c

    @asynccontextmanager
    async def serving(self, key: Key) -> AsyncIterator[Served]:
        """Start a server whose default collection is one that the key reaches; each tenant's has a few documents."""
        folder = self.folder / key.id
        folder.mkdir()
        async with serving(folder, **_sections(self.models, self.store, self.keys, key)) as served:
            for tenant in self.tenants:
                await _fill(served.url, tenant)
            yield served


@asynccontextmanager
async def contract(folder: Path) -> AsyncIterator[Contract]:
    """Start the backends."""
    async with AsyncExitStack() as stack:
        memory = stack.enter_context(data_folder(folder / "vectors"))
        store = stack.enter_context(running_store(memory))
        models = {
            kind: stack.enter_context(LlamaServer(kind, write_model(kind, folder))).url
            for kind in ("embedding", "generative")
        }
        # Whatever is to be ranked fits into it.
        ranker = await stack.enter_async_context(FaultBackend())
        models["reranking"] = ranker.url
        brief = await stack.enter_async_context(FaultBackend(upstream=models["generative"]))
        brief.on(CHAT, _brief(models["generative"]))
        brief.on("/props", _roomy(models["generative"]))
        models["generative"] = brief.url
        yield Contract(folder, models, store, Keys())


def _sections(models: dict[str, str], store: str, keys: Keys, key: Key) -> dict[str, Any]:
    services: dict[str, Any] = {kind: {"urls": [url]} for kind, url in models.items()}
    auth = keys.section()
    return {
        "backends": {**services, "qdrant": {"url": store}},
        "auth": {**auth, "keys": [_plain(entry) for entry in auth["keys"]]},
        "rag": {
            "default_collection": key.collection,
            "retrieval": {"min_similarity": 0.0, "min_words": 0.0},
            "generation": {"max_tokens": 8},
        },
    }


def _brief(url: str) -> Behaviour:
    """Let the model at `url`, which never ends by itself, answer with a few tokens; what it refuses it refuses."""

    async def behave(exchange: Exchange) -> None:
        request = exchange.request
        body = _parsed(request.body)
        if isinstance(body, dict) and isinstance(body.get("max_tokens"), float | int | None):
            request.body = json.dumps({**body, "max_tokens": 4, **_cut(body)}).encode()
        await exchange.answer(*await forwarded(url, request))

    return behave


def _roomy(url: str) -> Behaviour:
    """Let the model at `url` have room for every question; what it gets is cut."""

    async def behave(exchange: Exchange) -> None:
        status, body, headers = await forwarded(url, exchange.request)
        props = json.loads(body)
        props["default_generation_settings"]["n_ctx"] = 1 << 20
        await exchange.answer(status, json.dumps(props).encode(), headers)

    return behave


def _cut(body: dict[str, Any]) -> dict[str, Any]:
    """Return the messages with the beginnings of their texts, where they are messages with texts."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return {}
    return {"messages": [_shortened(message) for message in messages]}


def _shortened(message: Any) -> Any:
    content = message.get("content") if isinstance(message, dict) else None
    return {**message, "content": content[:500]} if isinstance(content, str) else message


def _parsed(body: bytes) -> Any:
    with suppress(ValueError):
        return json.loads(body)


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    """Return it with lists, as YAML knows them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in entry.items()}


async def _fill(url: str, key: Key) -> None:
    body = {"collection": key.collection, "documents": DOCUMENTS}
    async with (
        aiohttp.ClientSession(url, headers=key.headers) as session,
        session.post("/rag/ingest", json=body) as response,
    ):
        assert response.status == 200, await response.text()
