"""What is watched: `hartonomous serve` with TLS and keys, before tiny models, with proxies that spoil its calls."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.proxy import FaultProxy
from tests.monitoring.prometheus import Prometheus, prometheus
from tests.service.certificates import Files
from tests.service.fault_backend import FaultBackend, reply
from tests.service.keyed import Key, auth_section
from tests.service.serving import Served, serving

ALICE = Key("alice", ("query", "ingest"), ("*",))
BOB = Key("bob", ("query",), ("*",), options={"limits": {"requests_per_s": 1.0, "burst": 2}})
OPERATOR = Key("operator", ("admin",), ("*",))
SCRAPER = Key("prometheus", ("metrics",))
COLLECTION = "monitored"

_ALL = (ALICE, BOB, OPERATOR, SCRAPER)


@dataclass(slots=True)
class Stack:
    """Everything that runs. `proxies` stand before the models, by service; the embedding service has two."""

    url: str
    served: Served
    prometheus: Prometheus
    proxies: dict[str, FaultProxy]
    tls: ssl.SSLContext
    config: Path

    def reconfigure(self, change: str) -> None:
        """Write the configuration anew, with another line at its end."""
        lines = self.config.read_text(encoding="utf-8").partition("# changed\n")[0]
        self.config.write_text(f"{lines}# changed\n{change}\n", encoding="utf-8")


@asynccontextmanager
async def running(folder: Path, models: dict[str, str], store_url: str) -> AsyncIterator[Stack]:
    """Start the server before these models and this store, and a Prometheus that scrapes it."""
    certificates = Files(folder)
    async with AsyncExitStack() as stack:
        proxies = {
            name: await stack.enter_async_context(FaultProxy(models[name.partition("-")[0]], seed=1))
            for name in ("embedding", "embedding-b", "reranking", "generative")
        }
        collector = await stack.enter_async_context(FaultBackend())
        collector.otherwise = reply(200)
        sections = _sections(proxies, store_url, certificates.section())
        sections["tracing"] = {"endpoint": collector.url, "interval_s": 1.0}
        served = await stack.enter_async_context(serving(folder, **sections))
        target = f"127.0.0.1:{served.port}"
        watching = await stack.enter_async_context(prometheus(folder, target, SCRAPER.text, certificates.client_ca))
        yield Stack(f"https://{target}", served, watching, proxies, certificates.client(), folder / "config.yaml")


def _sections(proxies: dict[str, FaultProxy], store_url: str, tls: dict[str, str]) -> dict[str, Any]:
    quick = {
        "connect_timeout_s": 1.0,
        "first_byte_timeout_s": 2.0,
        "breaker": {"failures": 3, "open_s": 0.5, "max_open_s": 1.0},
    }
    embedding, second = proxies["embedding"].url, proxies["embedding-b"].url
    return {
        "server": {"tls": tls, "request_timeout_s": 20.0},
        "auth": _plain(auth_section(*_ALL)),
        "limits": {"address": {"failed_authentications_per_minute": 5}},
        "backends": {
            "embedding": {"urls": [embedding, second], "batch_size": 8, "concurrency": 2, **quick},
            "reranking": {"urls": [proxies["reranking"].url], "concurrency": 2, **quick},
            "generative": {"urls": [proxies["generative"].url], "concurrency": 1, "queue": 3, **quick},
            "qdrant": {"url": store_url},
        },
        "rag": {
            "default_collection": COLLECTION,
            "retrieval": {"min_similarity": 0.0, "min_words": 0.0},
            "generation": {"max_tokens": 12, "temperature": 0.0},
            "cache": {"answers": {"enabled": True, "max_entries": 4}, "embeddings": {"max_entries": 8}},
        },
        "health": {"interval_s": 0.5, "timeout_s": 1.0},
    }


def _plain(value: Any) -> Any:
    """Return the same with lists in place of tuples, as YAML has them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
