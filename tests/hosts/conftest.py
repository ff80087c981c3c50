"""The servers and a balancer before them, started once for each file of tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
import pytest_asyncio

from tests import redis
from tests.hosts import balancers
from tests.hosts.balancers import Balancer
from tests.hosts.cluster import Cluster, limited_key, started
from tests.hosts.load import text_of
from tests.service.keyed import Key


@dataclass(slots=True)
class Hosts:
    """Three servers, a document, HAProxy before them, and two keys whose requests are counted."""

    cluster: Cluster
    balancer: Balancer
    limited: tuple[Key, ...]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(
    tmp_path_factory: pytest.TempPathFactory, vector_url: str
) -> AsyncIterator[tuple[Cluster, tuple[Key, ...]]]:
    """Three servers, and two keys whose requests are counted."""
    if redis.PROGRAM is None:
        pytest.skip("redis-server is not installed")
    folder = tmp_path_factory.mktemp("hosts")
    collection = f"hosts-{uuid4().hex}"
    shared = redis.RedisServer(folder)
    await shared.start()
    limited = (limited_key(collection), limited_key(collection))
    try:
        async with started(folder, vector_url, shared, *limited, collection=collection) as made:
            yield made, limited
    finally:
        shared.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hosts(
    cluster: tuple[Cluster, tuple[Key, ...]], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Hosts]:
    """The servers behind HAProxy."""
    made, limited = cluster
    async with balancers.needed("haproxy")(tmp_path_factory.mktemp("haproxy"), made.ports) as balancer:
        await fill(made)
        yield Hosts(made, balancer, limited)


async def fill(cluster: Cluster) -> None:
    """Send one document, so that there is a collection."""
    body = {"documents": [{"id": "first", "text": text_of("first")}]}
    async with (
        aiohttp.ClientSession(cluster.servers["host1"].url, headers=cluster.key.headers) as session,
        session.post("/rag/ingest", json=body) as response,
    ):
        assert response.status == 200, await response.text()


@dataclass(slots=True)
class Front:
    """A balancer, the servers behind it, and a session with a key."""

    balancer: Balancer
    cluster: Cluster
    session: aiohttp.ClientSession

    def record_of(self, request_id: str) -> dict[str, Any]:
        """Return the access record of a request, empty while no server has told of it."""
        for server in self.cluster.servers.values():
            for line in server.log.read_bytes().splitlines():
                if request_id.encode() in line and (record := json.loads(line))["message"] == "request":
                    assert isinstance(record, dict)
                    return record
        return {}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["haproxy", "nginx"])
async def front(
    request: pytest.FixtureRequest, cluster: tuple[Cluster, tuple[Key, ...]], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Front]:
    """The servers behind HAProxy, and behind nginx."""
    balancer_of = balancers.needed(request.param)
    async with (
        balancer_of(tmp_path_factory.mktemp(request.param), cluster[0].ports) as balancer,
        aiohttp.ClientSession(balancer.url, headers=cluster[0].key.headers) as session,
    ):
        await fill(cluster[0])
        yield Front(balancer, cluster[0], session)
