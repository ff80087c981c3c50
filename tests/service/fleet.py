"""The application before model services of several addresses, which a reload changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from hartonomous.clients.pool import Pool
from hartonomous.clients.replica import Replica
from hartonomous.config import Config
from hartonomous.keys import METRICS
from tests.service.application import RunningApp, eventually, merged, running
from tests.service.fault_backend import Exchange, FaultBackend

RELOAD = "/admin/config/reload"
RERANK = "/v1/rerank"
DOCUMENTS = {"query": "q", "documents": ["a", "b"]}
QUICK = {"interval_s": 0.05, "timeout_s": 2.0}
SELDOM = {"interval_s": 1000.0, "timeout_s": 2.0}


def weighted(backend: FaultBackend, weight: int) -> dict[str, Any]:
    """Return an address with a weight, as it stands in a configuration."""
    return {"url": backend.url, "weight": weight}


class Fleet:
    """An application whose `service` has several addresses, and the file that it is reloaded from."""

    def __init__(self, app: RunningApp, file: Path, config: Config, service: str) -> None:
        self.app = app
        self.service = service
        self._file = file
        self._written: dict[str, Any] = config.model_dump(mode="json", exclude_none=True)
        file.write_text(yaml.safe_dump(self._written), encoding="utf-8")

    @property
    def pool(self) -> Pool:
        """The pool of the service."""
        return self.app.runtime.pools[self.service]

    def replica(self, backend: FaultBackend) -> Replica:
        """The address of a backend."""
        return next(replica for replica in self.pool.replicas if replica.url == backend.url)

    def write(self, *urls: Any, **service: Any) -> None:
        """Put addresses, and other settings of the service, into the file."""
        listed = [url.url if isinstance(url, FaultBackend) else url for url in urls]
        settings = service | ({"urls": listed} if listed else {})
        self._written = merged(self._written, {"backends": {self.service: settings}})
        self._file.write_text(yaml.safe_dump(self._written), encoding="utf-8")

    async def ask_reload(self) -> tuple[int, Any]:
        """Reload; return status and answer."""
        return await self.app.post(RELOAD, None)

    async def reload(self, *urls: Any, **service: Any) -> list[str]:
        """Serve with these addresses, strings or backends, from now on; return what is said to have changed."""
        self.write(*urls, **service)
        status, answer = await self.ask_reload()
        assert status == 200, answer
        changed: list[str] = answer["changed"]
        return changed

    async def rank(self) -> int:
        """Ask for a ranking; return the status."""
        return (await self.app.post(RERANK, DOCUMENTS))[0]

    def gauge(self, name: str, backend: FaultBackend) -> float | None:
        """Return a metric of an address, None where it is not there."""
        labels = {"service": self.service, "address": backend.url}
        return self.app.app[METRICS].registry.get_sample_value(f"hartonomous_{name}", labels)

    def under_way(self, backend: FaultBackend) -> float | None:
        """Return how many calls to an address are under way, None where it is no address any more."""
        return self.gauge("backend_address_requests_in_flight", backend)


@asynccontextmanager
async def fleet(config: Config, file: Path, service: str = "reranking") -> AsyncIterator[Fleet]:
    """Start the application; each of its backends has been polled once."""
    async with running(config, file) as app:
        await eventually(app.runtime.monitor.first_round.is_set, "the first poll")
        yield Fleet(app, file, config, service)


class Busy:
    """A behaviour that counts how many calls a backend works on at once, and the most there were."""

    def __init__(self, then: Any) -> None:
        self._then = then
        self.now = self.most = 0

    async def __call__(self, exchange: Exchange) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self._then(exchange)
        finally:
            self.now -= 1
