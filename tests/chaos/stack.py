"""What a chaos run is made of: tiny real models, the engine, the application, and a proxy before each backend's URL.

Two URLs of a service are two proxies before the same model.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.schedule import PLACES, service_of
from tests.chaos.server import Server
from tests.chaos.texts import CHUNKING
from tests.faults.kinds import parse
from tests.faults.lies import liar
from tests.faults.proxy import FaultProxy, address
from tests.llama import LlamaServer, write_model
from tests.service.fault_backend import FaultBackend
from tests.service.vector_store import Engine, drop_collection

REQUEST_TIMEOUT_S = 12.0
BREAKER_OPEN_S = 2.0


class Place:
    """A proxy before one URL of a service, whose connections are spoiled or led to a liar."""

    def __init__(self, name: str, url: str, seed: int) -> None:
        self.name = name
        self.service = service_of(name)
        self.url = url
        self.proxy = FaultProxy(url, seed=seed)
        self._liar: FaultBackend | None = None

    async def spoil(self, what: str) -> None:
        """Let a fault be there, as the schedule names it."""
        kind, _, name = what.partition(":")
        if kind == "lie":
            self._liar = liar(self.service, name, self.url)
            await self._liar.start()
            await self._lead_to(self._liar.url)
        else:
            await self.proxy.set(parse(what))

    async def heal(self) -> None:
        """Let everything pass, and the truth be told."""
        await self.proxy.set()
        backend, self._liar = self._liar, None
        if backend is not None:
            await self._lead_to(self.url)
            await backend.stop()

    async def _lead_to(self, url: str) -> None:
        self.proxy.upstream = address(url)
        await self.proxy.drop()


@dataclass(slots=True)
class Stack:
    """Everything that runs. `engine` is None where the vector store is somebody else's."""

    places: dict[str, Place]
    server: Server
    store_url: str
    engine: Engine | None

    async def heal(self) -> None:
        """Switch off what is wrong, and start what was killed."""
        for place in self.places.values():
            await place.heal()


@asynccontextmanager
async def running(folder: Path, seed: int, collections: tuple[str, ...]) -> AsyncIterator[Stack]:
    """Start everything but the load; the server answers when this yields, and is ready soon after."""
    async with AsyncExitStack() as stack:
        engine, store_url = await _store(folder, stack)
        models = {
            kind: stack.enter_context(LlamaServer(kind, write_model(kind, folder))).url
            for kind in ("embedding", "reranking", "generative")
        }
        urls = models | {"qdrant": store_url}
        places = {name: Place(name, urls[service_of(name)], seed) for name in PLACES}
        for place in places.values():
            await stack.enter_async_context(place.proxy)
            stack.push_async_callback(place.heal)
        if engine is None:
            for name in collections:
                await drop_collection(store_url, name)
                stack.push_async_callback(drop_collection, store_url, name)
        server = Server(_config(places, collections[0]), folder)
        stack.push_async_callback(server.stop)
        await server.start()
        yield Stack(places, server, store_url, engine)


async def _store(folder: Path, stack: AsyncExitStack) -> tuple[Engine | None, str]:
    given = os.environ.get("HARTONOMOUS_TEST_QDRANT_URL")
    if given:
        return None, given.rstrip("/")
    engine = Engine(folder / "vectors")
    stack.callback(engine.__exit__, None, None, None)
    await asyncio.to_thread(engine.start)
    return engine, engine.url


def _config(places: dict[str, Place], collection: str) -> dict[str, Any]:
    """Return a configuration with short timeouts, whose answer cache is on."""

    def urls(service: str) -> list[str]:
        return [place.proxy.url for place in places.values() if place.service == service]

    quick = {
        "connect_timeout_s": 1.0,
        "first_byte_timeout_s": 2.5,
        "idle_timeout_s": 3.0,
        "max_answer_bytes": 1024 * 1024,
        "breaker": {"failures": 5, "open_s": 0.5, "max_open_s": BREAKER_OPEN_S},
    }
    return {
        "server": {"request_timeout_s": REQUEST_TIMEOUT_S, "drain_s": 5.0},
        "log": {"level": "WARNING"},
        "backends": {
            "embedding": {"urls": urls("embedding"), "timeout_s": 3.0, "batch_size": 8, **quick},
            "reranking": {"urls": urls("reranking"), "timeout_s": 3.0, **quick},
            "generative": {"urls": urls("generative"), "timeout_s": 6.0, "concurrency": 4, **quick},
            "qdrant": {"url": urls("qdrant")[0], "timeout_s": 4.0, **quick},
        },
        "rag": {
            "default_collection": collection,
            "chunking": CHUNKING,
            "retrieval": {"min_similarity": 0.0, "min_words": 0.0},
            "generation": {"max_tokens": 16, "temperature": 0.0},
            "cache": {"answers": {"enabled": True, "ttl_s": 60.0}},
        },
        "health": {"interval_s": 0.5, "timeout_s": 1.0},
    }
