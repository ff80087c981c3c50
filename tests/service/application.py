"""The real application on a real socket, in front of the real backends of the tests."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from hartonomous.app import create_app
from hartonomous.config import Config
from hartonomous.keys import STATE, Runtime
from hartonomous.listening import Listener

WAIT_S = 30.0


class RunningApp:
    """A started application: its address, its configuration, a session to call it with."""

    def __init__(self, app: web.Application, url: str, session: aiohttp.ClientSession) -> None:
        self.app = app
        self.url = url
        self.session = session

    @property
    def runtime(self) -> Runtime:
        """The runtime that serves now."""
        return self.app[STATE].current

    async def post(self, path: str, body: Any, **options: Any) -> tuple[int, Any]:
        """POST JSON; return status and parsed body."""
        async with self.session.post(self.url + path, json=body, **options) as response:
            return response.status, await response.json()

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        """GET; return status and parsed body."""
        async with self.session.get(self.url + path, **options) as response:
            return response.status, await response.json()

    async def delete(self, path: str) -> int:
        """DELETE; return the status."""
        async with self.session.delete(self.url + path) as response:
            return response.status

    async def metric(self, line: str) -> float:
        """Return the value of a sample of `/metrics`, by its name and labels as printed; 0 when it is not there."""
        async with self.session.get(self.url + "/metrics") as response:
            text = await response.text()
        values = [row.rpartition(" ")[2] for row in text.splitlines() if row.startswith(line + " ")]
        return float(values[0]) if values else 0.0


@asynccontextmanager
async def running(
    config: Config,
    path: Path | None = None,
    *,
    buffer_bytes: int | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[RunningApp]:
    """Start the application as `hartonomous serve` does, on a free port; stop it at the end. `path` is reloaded.

    With `buffer_bytes` the kernel holds no more than about that for a connection, in either direction, so that little
    data shows what happens when a client does not read.
    """
    runner = web.AppRunner(create_app(config, path), handler_cancellation=True, shutdown_timeout=5)
    await runner.setup()
    listener = Listener(runner, config, ssl_context)
    listener.serve(_socket(buffer_bytes))
    try:
        async with aiohttp.ClientSession() as session:
            scheme = "http" if ssl_context is None else "https"
            yield RunningApp(runner.app, f"{scheme}://127.0.0.1:{listener.sockets[0].getsockname()[1]}", session)
    finally:
        await listener.close(0)
        await runner.cleanup()
        await listener.wait_closed(5)


def _socket(buffer_bytes: int | None) -> socket.socket:
    listening = socket.create_server(("127.0.0.1", 0))
    if buffer_bytes is not None:
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            listening.setsockopt(socket.SOL_SOCKET, buffer, buffer_bytes)
    return listening


async def eventually(state: Callable[[], object], what: str = "the state") -> None:
    """Wait until `state()` is true; fail after 30 s."""
    ends = time.monotonic() + WAIT_S
    while not state():
        assert time.monotonic() < ends, f"{what} was not reached"
        await asyncio.sleep(0.01)


ConfigMaker = Callable[..., Config]


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` put over it, section by section."""
    result = dict(base)
    for key, value in changes.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


@pytest.fixture
def make_config(
    embedding_url: str, reranking_url: str, generative_url: str, vector_url: str, collection_name: str
) -> ConfigMaker:
    """Return a maker of configurations for the tests' backends; sections given to it are put over the defaults.

    The default collection is one that no other test uses. Tiny random models find everything similar, so every hit
    counts as relevant unless a test says otherwise.
    """
    base: dict[str, Any] = {
        "backends": {
            "embedding": {"urls": (embedding_url,), "batch_size": 8},
            "reranking": {"urls": (reranking_url,)},
            "generative": {"urls": (generative_url,)},
            "qdrant": {"url": vector_url},
        },
        "rag": {
            "default_collection": collection_name,
            "retrieval": {"min_similarity": 0.0, "min_words": 0.0},
            "generation": {"max_tokens": 24, "temperature": 0.0},
        },
        "health": {"interval_s": 0.2},
    }

    def make(**changes: Any) -> Config:
        return Config.model_validate(merged(base, changes))

    return make


@pytest.fixture
async def api(make_config: ConfigMaker) -> AsyncIterator[RunningApp]:
    """The application in front of all backends; its default collection is dropped at the end."""
    config = make_config()
    async with running(config) as app:
        yield app
        await app.delete(f"/rag/collections/{config.rag.default_collection}")
