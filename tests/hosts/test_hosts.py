"""Three servers behind HAProxy, under load, while one is killed, and while all are started anew one after the other."""

from __future__ import annotations

import asyncio
from collections import Counter

import aiohttp
import pytest

from tests.hosts.cluster import BURST
from tests.hosts.conftest import Hosts
from tests.hosts.load import Load
from tests.service.application import eventually
from tests.service.keyed import Key

pytestmark = pytest.mark.asyncio(loop_scope="module")

VICTIM = "host2"


def load_on(hosts: Hosts, *, keep_alive: bool = True, workers: int = 8) -> Load:
    return Load(hosts.balancer.url, hosts.cluster.key, hosts.cluster.collection, keep_alive, workers)


async def is_up(hosts: Hosts, name: str) -> None:
    await eventually(lambda: hosts.balancer.states().get(name, "UP") == "UP", f"{name} is up")


async def served_by(hosts: Hosts, name: str) -> None:
    """Wait until a request has been answered by this server since now."""
    seen = len(hosts.balancer.lines)
    await eventually(
        lambda: any(f" hartonomous/{name} " in line and " 200 " in line for line in hosts.balancer.lines[seen:]),
        f"{name} has work",
    )


async def test_a_killed_server_loses_no_acknowledged_document_and_fails_only_what_was_in_flight_on_it(
    hosts: Hosts,
) -> None:
    # On a connection that has had an answer HAProxy ends what broke off without a line in its log.
    load, victim = load_on(hosts, keep_alive=False), hosts.cluster.servers[VICTIM]
    async with load.running():
        await load.more()
        counting = asyncio.create_task(statuses(hosts, hosts.limited[0], 2 * BURST))
        await load.more(10)
        await victim.kill()
        await load.more(60)
        assert hosts.balancer.states()[VICTIM] == "DOWN"
        await victim.start()
        await is_up(hosts, VICTIM)
        await served_by(hosts, VICTIM)
        counted = await counting
    await eventually(
        lambda: all(hosts.balancer.server_of(failure.request_id) for failure in load.failures), "all is in the log"
    )
    places = Counter(hosts.balancer.server_of(failure.request_id) for failure in load.failures)
    assert set(places) <= {VICTIM}, load.failures
    assert len(load.failures) <= load.workers
    assert len(load.acknowledged) > 30
    assert await load.missing() == []
    # What was in flight on it may have been counted.
    assert counted[200] <= BURST <= 2 * BURST - counted[429]


async def statuses(hosts: Hosts, key: Key, count: int) -> Counter[int]:
    """Ask so often, one after the other, each time over a connection of its own; 0 stands for no answer."""
    found: Counter[int] = Counter()
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(hosts.balancer.url, headers=key.headers, connector=connector) as session:
        for _ in range(count):
            try:
                async with session.post("/rag/search", json={"query": "valve"}) as response:
                    found[response.status] += 1
            except aiohttp.ClientError:
                found[0] += 1
    return found


async def test_servers_stopped_and_started_one_after_the_other_under_load_fail_nothing(hosts: Hosts) -> None:
    load = load_on(hosts, workers=4)
    async with load.running():
        for name, server in hosts.cluster.servers.items():
            await load.more(10)
            await server.stop()
            await server.start()
            await is_up(hosts, name)
            await served_by(hosts, name)
    assert load.failures == []
    assert await load.missing() == []


async def test_a_key_has_exactly_its_requests_over_all_servers(hosts: Hosts) -> None:
    async def ask(session: aiohttp.ClientSession) -> tuple[int, str | None]:
        async with session.post("/rag/search", json={"query": "valve"}) as response:
            return response.status, response.headers.get("Retry-After")

    seen = len(hosts.balancer.lines)
    async with aiohttp.ClientSession(hosts.balancer.url, headers=hosts.limited[1].headers) as session:
        answers = await asyncio.gather(*(ask(session) for _ in range(2 * BURST)))
    assert Counter(status for status, _ in answers) == {200: BURST, 429: BURST}
    assert all(after and int(after) > 1_000 for status, after in answers if status == 429)
    await eventually(
        lambda: all(any(f"/{name} " in line for line in hosts.balancer.lines[seen:]) for name in hosts.cluster.servers),
        "each server has answered some",
    )
