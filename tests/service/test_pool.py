"""A service with two addresses: a dead one costs nobody an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from hartonomous.clients.failures import UnreachableError
from hartonomous.clients.pool import Pool
from hartonomous.core.access import EVERYTHING
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.metrics import Metrics
from hartonomous.services import Service
from tests.service.fault_backend import FaultBackend

NOBODY = "http://127.0.0.1:9"


def call() -> Call:
    return Call("test", Deadline(10), grant=EVERYTHING)


@pytest.fixture
async def pool(faulty: FaultBackend) -> AsyncIterator[Pool]:
    made = Pool("generative", (NOBODY, faulty.url), Service(), Metrics())
    yield made
    await made.close()


async def test_a_call_that_cannot_connect_goes_to_the_next_address(pool: Pool, faulty: FaultBackend) -> None:
    for _ in range(5):
        assert (await pool.request("GET", "/health", call(), is_idempotent=False)).status == 200
    assert [replica.up for replica in pool.replicas] == [False, None]
    assert [replica.active for replica in pool.replicas] == [0, 0]


async def test_a_stream_goes_to_the_next_address_too(pool: Pool) -> None:
    async with pool.open("POST", "/v1/embeddings", call(), b'{"input": "x"}') as opened:
        assert opened.status == 200


async def test_when_no_address_can_be_reached_the_caller_is_told(pool: Pool, faulty: FaultBackend) -> None:
    await faulty.stop()
    with pytest.raises(UnreachableError):
        await pool.request("GET", "/health", call())


async def test_a_failure_inside_the_block_is_not_tried_again(pool: Pool, faulty: FaultBackend) -> None:
    with pytest.raises(UnreachableError, match="another"):
        async with pool.open("POST", "/v1/embeddings", call(), b'{"input": "x"}'):
            raise UnreachableError("another service")
    assert len(faulty.calls("/v1/embeddings")) == 1
