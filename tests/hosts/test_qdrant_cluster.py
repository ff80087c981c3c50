"""A Qdrant cluster of which a node is killed under load, when there is one.

`HARTONOMOUS_TEST_QDRANT_CLUSTER` names the URLs of three nodes on this host, separated by spaces; the first is asked,
the others when it is away. `HARTONOMOUS_TEST_QDRANT_KILL` and `…_START` are commands of the shell that kill a node and
start it again, with its number (1 to 3) as `$NODE`.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path
from uuid import uuid4

import pytest

from tests.hosts import balancers
from tests.hosts.cluster import started
from tests.hosts.load import Load
from tests.redis import RedisServer

NODES = os.environ.get("HARTONOMOUS_TEST_QDRANT_CLUSTER", "").split()
KILL, START = (os.environ.get(f"HARTONOMOUS_TEST_QDRANT_{what}", "") for what in ("KILL", "START"))

pytestmark = pytest.mark.skipif(
    len(NODES) != 3 or not KILL or not START, reason="HARTONOMOUS_TEST_QDRANT_CLUSTER, _KILL and _START name no cluster"
)


async def shell(command: str, node: int) -> None:
    process = await asyncio.create_subprocess_shell(command, env={**os.environ, "NODE": str(node)})
    assert await process.wait() == 0, command


async def some(load: Load, count: int) -> None:
    """Wait for so many answers, however slow the nodes are."""
    for _ in range(0, count, 10):
        await load.more(10)


@pytest.mark.parametrize("ordering", ["medium", "strong"])
@pytest.mark.parametrize("node", [1, 2, 3])
async def test_a_killed_node_loses_no_acknowledged_document(
    tmp_path: Path, redis_server: RedisServer, node: int, ordering: str
) -> None:
    ports = [int(url.rstrip("/").rpartition(":")[2]) for url in NODES]
    collections = {"shards": 3, "replicas": 2, "write_consistency": 1}
    store = {"qdrant": {"collections": collections, "write_ordering": ordering, "timeout_s": 10.0}}
    balancers.needed("haproxy")
    (tmp_path / "haproxy").mkdir()
    async with (
        balancers.haproxy(tmp_path / "haproxy", [9, 9, 9], ports) as balancer,
        started(
            tmp_path, balancer.store_url, redis_server, collection=f"cluster-{uuid4().hex}", backends=store
        ) as cluster,
    ):
        load = Load(cluster.servers["host1"].url, cluster.key, cluster.collection, workers=4)
        async with load.running():
            await some(load, 40)
            await shell(KILL, node)
            away = await told(load, "away", 100)
            await shell(START, node)
            await told(load, "back", 100)
        assert away > 0 or ordering == "strong"
        assert await load.missing() == []


async def told(load: Load, when: str, count: int) -> int:
    """Wait for so many answers and tell what has become of them; return how many documents were acknowledged."""
    failures, acknowledged = len(load.failures), len(load.acknowledged)
    await some(load, count)
    failed = load.failures[failures:]
    stored = len(load.acknowledged) - acknowledged
    print(
        f"{when}: {count} answers, {stored} documents stored, failed {Counter(one.kind for one in failed)}", failed[-1:]
    )
    return stored
