"""Rows 1 to 5 and 8 of the fault table: connections and answers that fail, for every kind of call to a backend."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from hartonomous.clients import guard
from hartonomous.core.retry import backoff
from tests.service import fault_backend as fault
from tests.service.application import WAIT_S, eventually
from tests.service.backend_calls import (
    ALL,
    GENERATIONS,
    INGEST,
    LOOKUP,
    RELAYED,
    RELAYED_CHAT,
    REPEATED,
    RERANK,
    STREAMED_QUERY,
    Kind,
    Told,
    circuit,
    outcomes,
    prepared,
    retries,
    told,
)
from tests.service.fault_backend import DEFAULT, Behaviour
from tests.service.rag import Rig, RigMaker, sample

BREAKER = {"failures": 2, "open_s": 60.0, "max_open_s": 60.0}
FIRST_BYTE_S = 0.6
# Between two calls of the others the service answers what it is asked beside, so no row of failures comes about.
ALONE = (RELAYED, RERANK, LOOKUP)


async def refused_by_the_circuit(rig: Rig, kind: Kind) -> None:
    """Hold that the circuit is open: a caller is told so, and when to come again, and nothing is sent."""
    assert circuit(rig, kind) == 2
    before = kind.calls(rig)
    answer = await told(rig, kind)
    assert (answer.status, kind.service in answer.message) == (503, True)
    assert answer.retry_after is None or 1 <= int(answer.retry_after) <= 60
    assert kind.calls(rig) == before
    assert sample(rig.app, "hartonomous_backend_refusals_total", service=kind.service, reason="open") >= 1


@pytest.fixture
def longest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the jitter be what is the longest of all."""
    monkeypatch.setattr(guard, "backoff", partial(backoff, random=lambda: 1.0))


@pytest.mark.usefixtures("longest_waits")
@pytest.mark.parametrize("kind", ALL, ids=str)
async def test_row_01_a_refused_connection_is_tried_again_and_then_a_503_long_before_the_deadline(
    rigs: RigMaker, kind: Kind
) -> None:
    async with prepared(rigs, kind, breaker=BREAKER) as rig:
        await kind.backend(rig).stop()
        async with asyncio.timeout(WAIT_S):  # of the 300 that a request has
            answer = await told(rig, kind)
        assert (answer.status, answer.type, kind.service in answer.message) == (503, "backend_unavailable", True)
        assert answer.retry_after in {None, "1"}
        assert (retries(rig, kind, "unreachable"), outcomes(rig, kind, "unreachable")) == (2, 3)
        assert circuit(rig, kind) == 0  # it is the calls that count, not the attempts
        await told(rig, kind)
        await refused_by_the_circuit(rig, kind)
        assert outcomes(rig, kind, "unreachable") == 4  # an attempt that opens the circuit is the last


@pytest.mark.usefixtures("longest_waits")
@pytest.mark.parametrize("kind", [INGEST, RELAYED, RERANK, LOOKUP, STREAMED_QUERY, RELAYED_CHAT], ids=str)
async def test_row_01_a_backend_that_comes_up_between_two_attempts_answers(rigs: RigMaker, kind: Kind) -> None:
    async with prepared(rigs, kind) as rig:
        await kind.backend(rig).stop()
        asking = asyncio.create_task(told(rig, kind))
        await eventually(lambda: retries(rig, kind, "unreachable"), "the first attempt has failed")
        await kind.backend(rig).start()
        assert (await asking).status == 200
        assert outcomes(rig, kind, "unreachable") <= 2


@pytest.mark.parametrize("kind", ALL, ids=str)
async def test_row_02_a_backend_that_hangs_is_a_504_at_the_deadline_and_counts(rigs: RigMaker, kind: Kind) -> None:
    async with prepared(rigs, kind, breaker={**BREAKER, "failures": 1}) as rig:
        before = kind.calls(rig)
        kind.spoil(rig, fault.hang())
        async with asyncio.timeout(10):
            answer = await told(rig, kind, 700)
        assert (answer.status, answer.type) == (504, "timeout_error")
        await eventually(lambda: circuit(rig, kind) == 2, "the circuit is open")
        assert (kind.calls(rig) - before, outcomes(rig, kind, "timeout")) == (1, 1)
        await refused_by_the_circuit(rig, kind)


@pytest.mark.parametrize("kind", REPEATED, ids=str)
async def test_row_03_without_a_first_byte_it_is_asked_once_more(rigs: RigMaker, kind: Kind) -> None:
    async with prepared(rigs, kind, first_byte_timeout_s=FIRST_BYTE_S * kind.patience) as rig:
        before = kind.calls(rig)
        kind.spoil(rig, fault.hang(), DEFAULT)
        assert (await told(rig, kind)).status == 200
        assert (retries(rig, kind, "timeout"), outcomes(rig, kind, "timeout")) == (1, 1)
        assert kind.calls(rig) - before >= 2


@pytest.mark.parametrize("kind", [INGEST, RERANK, LOOKUP], ids=str)
async def test_row_03_without_a_first_byte_for_the_second_time_it_is_a_504(rigs: RigMaker, kind: Kind) -> None:
    async with prepared(rigs, kind, first_byte_timeout_s=FIRST_BYTE_S * kind.patience) as rig:
        answer, calls = await failing(rig, kind, fault.hang())
        assert (answer.status, answer.type, kind.service in answer.message) == (504, "timeout_error", True)
        assert (calls, retries(rig, kind, "timeout"), outcomes(rig, kind, "timeout")) == (2, 1, 2)


@pytest.mark.parametrize("kind", GENERATIONS, ids=str)
async def test_row_03_a_generation_without_a_first_byte_is_not_asked_again(rigs: RigMaker, kind: Kind) -> None:
    async with prepared(rigs, kind, first_byte_timeout_s=FIRST_BYTE_S * kind.patience) as rig:
        kind.spoil(rig, fault.hang())
        answer = await told(rig, kind)
        assert (answer.status, answer.type, kind.service in answer.message) == (504, "timeout_error", True)
        assert (kind.calls(rig), retries(rig, kind, "timeout"), outcomes(rig, kind, "timeout")) == (1, 0, 1)


async def mended(rig: Rig, kind: Kind, behaviour: Behaviour) -> None:
    """Hold that a call which fails once is answered all the same."""
    kind.spoil(rig, behaviour, DEFAULT)
    assert (await told(rig, kind)).status == 200


async def failing(rig: Rig, kind: Kind, behaviour: Behaviour) -> tuple[Told, int]:
    """Let every call fail; return what the caller is told and how many calls there were."""
    before = kind.calls(rig)
    kind.spoil(rig, behaviour)
    answer = await told(rig, kind)
    return answer, kind.calls(rig) - before


@pytest.mark.parametrize("kind", REPEATED, ids=str)
async def test_row_05_a_connection_reset_before_the_headers_is_made_anew_for_what_may_be_repeated(
    rigs: RigMaker, kind: Kind
) -> None:
    async with prepared(rigs, kind, breaker=BREAKER) as rig:
        await mended(rig, kind, fault.reset())
        assert (retries(rig, kind, "broken"), outcomes(rig, kind, "broken")) == (1, 1)
        await mended(rig, kind, fault.close())
        answer, calls = await failing(rig, kind, fault.reset())
        assert (answer.status, answer.type, kind.service in answer.message) == (502, "backend_error", True)
        assert (calls, retries(rig, kind, "broken"), circuit(rig, kind)) == (3, 4, 0)
        if kind in ALONE:
            await told(rig, kind)
            await refused_by_the_circuit(rig, kind)


@pytest.mark.parametrize("kind", GENERATIONS, ids=str)
async def test_row_05_a_generation_whose_connection_is_reset_is_not_repeated(rigs: RigMaker, kind: Kind) -> None:
    async with prepared(rigs, kind, breaker=BREAKER) as rig:
        answer, calls = await failing(rig, kind, fault.reset())
        assert (answer.status, answer.type, kind.service in answer.message) == (502, "backend_error", True)
        assert (calls, retries(rig, kind, "broken"), outcomes(rig, kind, "broken")) == (1, 0, 1)
        await told(rig, kind)
        await refused_by_the_circuit(rig, kind)


@pytest.mark.parametrize("kind", REPEATED, ids=str)
async def test_row_08_a_500_is_asked_for_again_where_that_changes_nothing(rigs: RigMaker, kind: Kind) -> None:
    async with prepared(rigs, kind, breaker=BREAKER) as rig:
        await mended(rig, kind, fault.reply(500, b"sk-123"))
        assert (retries(rig, kind, "failed"), outcomes(rig, kind, "5xx")) == (1, 1)
        answer, calls = await failing(rig, kind, fault.reply(500, b"sk-123"))
        assert (answer.status, answer.type, kind.service in answer.message) == (502, "backend_error", True)
        assert "sk-123" not in answer.message
        assert (calls, retries(rig, kind, "failed"), circuit(rig, kind)) == (3, 3, 0)
        if kind in ALONE:
            await told(rig, kind)
            await refused_by_the_circuit(rig, kind)


@pytest.mark.parametrize("kind", GENERATIONS, ids=str)
async def test_row_08_a_generation_that_fails_is_never_repeated(rigs: RigMaker, kind: Kind) -> None:
    async with prepared(rigs, kind, breaker=BREAKER) as rig:
        answer, calls = await failing(rig, kind, fault.reply(500, b"sk-123"))
        assert (answer.status, answer.type, kind.service in answer.message) == (502, "backend_error", True)
        assert (calls, retries(rig, kind, "failed"), outcomes(rig, kind, "5xx")) == (1, 0, 1)
        await told(rig, kind)
        await refused_by_the_circuit(rig, kind)
