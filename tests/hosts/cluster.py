"""Three servers that share a vector store, models and Redis, and the keys of those who ask them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.chaos.server import Server
from tests.redis import RedisServer
from tests.service.application import merged
from tests.service.fault_backend import FaultBackend
from tests.service.keyed import Key, auth_section
from tests.service.vector_store import drop_collection

HOSTS = 3
NAMES = tuple(f"host{number}" for number in range(1, HOSTS + 1))
BURST = 60
# More than HAProxy needs to see it: two looks, a tenth of a second apart, on a busy machine.
NOTICE_S = 1.5


@dataclass(slots=True)
class Cluster:
    """The servers by the names that HAProxy knows them by, and what they share."""

    servers: dict[str, Server]
    models: FaultBackend
    key: Key
    collection: str

    @property
    def ports(self) -> list[int]:
        """Where the servers listen, in the order of their names."""
        return [server.port for server in self.servers.values()]


def limited_key(collection: str) -> Key:
    """Return a key that may ask `BURST` times, and then hardly ever."""
    options = {"limits": {"requests_per_s": 0.0001, "burst": BURST}}
    return Key(f"limited-{uuid4().hex[:8]}", ("query", "ingest"), (collection,), options=options)


@asynccontextmanager
async def started(
    folder: Path, store_url: str, redis: RedisServer, *keys: Key, collection: str, **changes: Any
) -> AsyncIterator[Cluster]:
    """Start three servers, which are ready when this yields; what they hold is dropped at the end."""
    async with AsyncExitStack() as stack:
        models = await stack.enter_async_context(FaultBackend())
        stack.push_async_callback(drop_collection, store_url, collection)
        key = Key("tenant", ("query", "ingest", "metrics", "admin"), (collection,))
        config = merged(_config(store_url, models.url, redis.url, collection, key, *keys), changes)
        servers = {}
        for name in NAMES:
            (folder / name).mkdir()
            servers[name] = Server(config, folder / name)
            stack.push_async_callback(servers[name].kill)
        await asyncio.gather(*(server.start() for server in servers.values()))
        await asyncio.gather(*(server.until("/ready", 60) for server in servers.values()))
        yield Cluster(servers, models, key, collection)


def _config(store: str, models: str, redis: str, collection: str, *keys: Key) -> dict[str, Any]:
    auth = auth_section(*keys)
    auth["keys"] = [
        {**entry, "scopes": list(entry["scopes"]), "collections": list(entry["collections"])} for entry in auth["keys"]
    ]
    server = {
        "trusted_proxies": ["127.0.0.1/32"],
        "processes": HOSTS,
        "notice_s": NOTICE_S,
        "drain_s": 20.0,
        "max_body_bytes": 1024 * 1024,
    }
    return {
        "auth": auth,
        "server": server,
        "redis": {"url": redis, "timeout_s": 5.0},
        "backends": {
            "embedding": {"urls": [models], "batch_size": 8},
            "generative": {"urls": [models], "concurrency": 32},
            "qdrant": {"url": store},
        },
        "rag": {
            "default_collection": collection,
            "chunking": {"max_tokens": 64, "overlap_tokens": 0},
            "retrieval": {"min_similarity": 0.0, "min_words": 0.0},
        },
        "health": {"interval_s": 0.5},
    }
