"""The servers behind both balancers, started once for each file of tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
import pytest_asyncio

from tests import redis
from tests.hosts import balancers
from tests.hosts.balancers import Balancer
from tests.hosts.cluster import Cluster, limited_key, started
from tests.service.keyed import Key


@dataclass(slots=True)
class Hosts:
    """Three servers, HAProxy before them, and the key whose requests are counted."""

    cluster: Cluster
    balancer: Balancer
    limited: Key


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory, vector_url: str) -> AsyncIterator[tuple[Cluster, Key]]:
    """Three servers, and a key whose requests are counted."""
    if redis.PROGRAM is None:
        pytest.skip("redis-server is not installed")
    folder = tmp_path_factory.mktemp("hosts")
    collection = f"hosts-{uuid4().hex}"
    shared = redis.RedisServer(folder)
    await shared.start()
    limited = limited_key(collection)
    try:
        async with started(folder, vector_url, shared, limited, collection=collection) as made:
            yield made, limited
    finally:
        shared.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hosts(cluster: tuple[Cluster, Key], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hosts]:
    """The servers behind HAProxy."""
    if balancers.HAPROXY is None:
        pytest.skip("haproxy is not installed")
    made, limited = cluster
    async with balancers.haproxy(tmp_path_factory.mktemp("haproxy"), made.ports) as balancer:
        yield Hosts(made, balancer, limited)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nginx(cluster: tuple[Cluster, Key], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Balancer]:
    """The servers behind nginx."""
    if balancers.NGINX is None:
        pytest.skip("nginx is not installed")
    async with balancers.nginx(tmp_path_factory.mktemp("nginx"), cluster[0].ports) as balancer:
        yield balancer
