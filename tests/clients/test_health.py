"""What the health monitor says of a service with several addresses, and what its findings change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from hartonomous.clients.pool import Pool
from hartonomous.config import Health
from hartonomous.core.served import Served
from hartonomous.metrics import Metrics
from hartonomous.monitor import Monitor
from hartonomous.services import Address, Embedding
from tests.clients.guarded import call, ticks
from tests.service.vector_store import free_port

OURS, ANOTHER = Served("ours", 32), Served("another", 32)


@pytest.fixture
async def pool() -> AsyncIterator[Pool]:
    """An embedding service of two addresses, where nobody listens, that take one call each."""
    config = Embedding(urls=tuple(Address(url=f"http://127.0.0.1:{free_port()}") for _ in range(2)), concurrency=1)
    pool = Pool("embedding", config.urls, config, Metrics())
    yield pool
    await pool.close()


async def polled(pool: Pool) -> Monitor:
    """Return a monitor that has polled the service, and has found both addresses up."""
    monitor = Monitor([pool], Health(ready=("embedding",)), Metrics())
    await monitor._poll_service(pool)
    for replica in pool.replicas:
        replica.up = True
    return monitor


def fail(pool: Pool, index: int) -> None:
    """Open the circuit of an address."""
    breaker = pool.replicas[index].breaker
    while (ticket := breaker.admit()) is not None:
        ticket.failed()
    assert breaker.state == "open"


async def test_a_service_is_down_when_one_address_has_an_open_circuit_and_the_other_another_model(pool: Pool) -> None:
    monitor = await polled(pool)
    for replica, model in zip(pool.replicas, (OURS, ANOTHER), strict=True):
        replica.model = model
    pool.agree()
    assert monitor.status("embedding") == "up"
    fail(pool, 0)
    assert monitor.status("embedding") == "down"
    assert monitor.missing() == ["embedding"]


async def test_a_service_is_down_when_the_one_address_that_is_up_has_an_open_circuit(pool: Pool) -> None:
    monitor = await polled(pool)
    pool.replicas[1].up = False
    assert monitor.status("embedding") == "up"
    fail(pool, 0)
    assert monitor.status("embedding") == "down"


async def test_who_waits_is_let_in_where_an_address_has_the_right_model_again(pool: Pool) -> None:
    first, second = pool.replicas
    first.model, second.model = OURS, ANOTHER
    pool.agree()
    held = await pool.admission.enter(call())
    waiting = asyncio.create_task(pool.admission.enter(call()))
    await ticks()
    assert pool.admission.waiting == 1
    second.model = OURS
    pool.agree()
    place = await waiting
    assert (held.replica, place.replica) == (first, second)
    for one in (held, place):
        one.leave(None)


async def test_nothing_is_kept_of_addresses_that_a_reload_took_away(pool: Pool) -> None:
    monitor = await polled(pool)
    first, second = (replica.url for replica in pool.replicas)
    assert {address for _, address in monitor._told} == {None, first, second}
    pool.propose((Address(url=second), Address(url=f"http://127.0.0.1:{free_port()}")))
    pool.adopt()
    await monitor._poll_service(pool)
    assert {address for _, address in monitor._told} == {None, *(replica.url for replica in pool.replicas)}
