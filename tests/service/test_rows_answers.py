"""Rows 4, 9, 10, 11 and 13 of the fault table: answers that never end, that say come later, or that are none."""

from __future__ import annotations

import asyncio
import math
import time
from email.utils import formatdate
from typing import Any

import aiohttp
import pytest

from tests.service import fault_backend as fault
from tests.service.application import RunningApp, eventually
from tests.service.backend_calls import (
    GENERATIONS,
    INGEST,
    LOOKUP,
    PARSED,
    QUERY,
    RELAYED,
    RELAYED_CHAT,
    RELAYED_STREAM,
    REPEATED,
    RERANK,
    SEARCH,
    Kind,
    circuit,
    outcomes,
    prepared,
    retries,
    told,
)
from tests.service.fault_backend import DEFAULT, Behaviour
from tests.service.rag import RigMaker

BREAKER = {"failures": 2, "open_s": 60.0, "max_open_s": 60.0}
TOO_LARGE = b'{"error":{"code":500,"message":"input is too large to process. increase the physical batch size"}}'
LOADING = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'
DRIPPING: dict[str, tuple[Behaviour, dict[str, float]]] = {
    "idle": (fault.cut(b'{"data": []}', 5, "hang"), {"idle_timeout_s": 0.4}),
    "total": (fault.drip(b" " * 1_000, 0.03), {"timeout_s": 0.6}),
}


@pytest.mark.parametrize(("behaviour", "limits"), DRIPPING.values(), ids=DRIPPING.keys())
@pytest.mark.parametrize("kind", [SEARCH, RERANK, LOOKUP], ids=str)
async def test_row_04_a_slow_drip_is_aborted_and_a_504(
    rigs: RigMaker, kind: Kind, behaviour: Behaviour, limits: dict[str, float]
) -> None:
    patient = {name: limit_s * kind.patience for name, limit_s in limits.items()}
    async with prepared(rigs, kind, **patient) as rig:
        before = kind.calls(rig)
        kind.spoil(rig, behaviour)
        async with asyncio.timeout(14):  # the limits that are not set here are far beyond
            answer = await told(rig, kind)
        assert (answer.status, answer.type, kind.service in answer.message) == (504, "timeout_error", True)
        calls = kind.seen(rig)[before:]
        assert (len(calls), retries(rig, kind, "timeout"), outcomes(rig, kind, "timeout")) == (2, 1, 2)
        await eventually(lambda: all(call.closed.is_set() for call in calls), "the connections are closed")


@pytest.mark.parametrize("kind", GENERATIONS, ids=str)
async def test_row_04_a_generation_that_drips_beyond_the_deadline_is_aborted(rigs: RigMaker, kind: Kind) -> None:
    async with prepared(rigs, kind, breaker=BREAKER) as rig:
        kind.spoil(rig, fault.stream(fault.sse(["x"] * 500), gap_s=0.03))
        if kind in {QUERY, RELAYED_CHAT}:
            kind.spoil(rig, fault.drip(b" " * 500, 0.03))
        if kind is RELAYED_CHAT:  # what has begun cannot be told of
            with pytest.raises(aiohttp.ClientPayloadError):
                await told(rig, kind, 700)
        else:
            assert (await told(rig, kind, 700)).status == 504
        assert kind.calls(rig) == 1
        await eventually(kind.seen(rig)[0].closed.is_set, "the connection is closed")
        await eventually(lambda: outcomes(rig, kind, "timeout") == 1, "it is counted")


@pytest.mark.parametrize("kind", [INGEST, SEARCH, RELAYED, RERANK, RELAYED_CHAT, RELAYED_STREAM], ids=str)
async def test_row_09_an_input_that_is_too_large_is_a_422_and_not_the_backends_failure(
    rigs: RigMaker, kind: Kind
) -> None:
    async with prepared(rigs, kind, breaker=BREAKER) as rig:
        kind.spoil(rig, fault.reply(500, TOO_LARGE))
        for _ in range(5):
            before = kind.calls(rig)
            answer = await told(rig, kind)
            assert (answer.status, answer.type, circuit(rig, kind)) == (422, "invalid_request_error", 0)
            whole, *pieces = [call.body for call in kind.seen(rig)[before:]]
            assert whole not in pieces
            assert not pieces or kind in {INGEST, SEARCH}  # whose texts are tried in smaller pieces
        assert (retries(rig, kind, "failed"), outcomes(rig, kind, "5xx") >= 5) == (0, True)


async def _ready(app: RunningApp, status: int) -> Any:
    async with asyncio.timeout(20):
        while True:
            got, answer = await app.get("/ready")
            if got == status:
                return answer
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", [RELAYED, RERANK, RELAYED_CHAT, RELAYED_STREAM], ids=str)
async def test_row_10_while_the_model_loads_it_is_not_ready_not_hammered_and_a_503(rigs: RigMaker, kind: Kind) -> None:
    services = {kind.service: {"breaker": BREAKER}}
    health = {"interval_s": 0.05, "ready": tuple(services)}
    async with rigs.make(backends=services, health=health) as rig:
        await _ready(rig.app, 200)
        kind.backend(rig).otherwise = fault.reply(503, LOADING)
        assert kind.service in str(await _ready(rig.app, 503))
        for calls in (1, 2, 2, 2):  # then the circuit is open
            answer = await told(rig, kind)
            assert (answer.status, answer.type, kind.service in answer.message) == (503, "backend_unavailable", True)
            assert 1 <= int(answer.retry_after or 0) <= 60
            assert kind.calls(rig) == calls
        assert (circuit(rig, kind), retries(rig, kind, "unavailable"), outcomes(rig, kind, "5xx")) == (2, 0, 2)
        kind.backend(rig).otherwise = DEFAULT
        await _ready(rig.app, 200)
        assert (await told(rig, kind)).status == 200  # long before the circuit would be tried by itself
        assert circuit(rig, kind) == 0


def _busy(status: int, retry_after: str) -> Behaviour:
    return fault.reply(status, b"", {"Retry-After": retry_after})


@pytest.mark.parametrize("kind", REPEATED, ids=str)
async def test_row_11_a_retry_after_that_fits_the_deadline_is_waited_for(rigs: RigMaker, kind: Kind) -> None:
    async with prepared(rigs, kind) as rig:
        for status, reason in ((429, "overloaded"), (503, "unavailable")):
            before, started = kind.calls(rig), time.monotonic()
            kind.spoil(rig, _busy(status, "0.15"), DEFAULT)
            assert (await told(rig, kind)).status == 200
            assert time.monotonic() - started >= 0.15
            assert (kind.calls(rig) - before >= 2, retries(rig, kind, reason)) == (True, 1)


async def test_row_11_a_retry_after_may_be_a_date(rigs: RigMaker) -> None:
    async with rigs.make() as rig:
        date = math.ceil(time.time() + 0.2)
        RERANK.spoil(rig, _busy(503, formatdate(date, usegmt=True)), DEFAULT)
        assert (await told(rig, RERANK)).status == 200
        assert time.time() >= date - 0.01
        RERANK.spoil(rig, _busy(503, formatdate(time.time() + 20, usegmt=True)))
        answer = await told(rig, RERANK, 5_000)
        assert (answer.status, 15 <= int(answer.retry_after or 0) <= 20, RERANK.calls(rig)) == (503, True, 3)


@pytest.mark.parametrize(
    ("header", "passed_on"),
    [("7", "7"), ("3600", "30"), ("-3", "1"), ("99999999", "1"), ("soon", "1"), ("", "1")],
)
@pytest.mark.parametrize("kind", [RERANK, RELAYED_CHAT, RELAYED_STREAM], ids=str)
async def test_row_11_a_retry_after_that_does_not_fit_or_makes_no_sense_is_passed_on_at_once(
    rigs: RigMaker, kind: Kind, header: str, passed_on: str
) -> None:
    async with rigs.make() as rig:
        kind.spoil(rig, _busy(503, header))
        answer = await told(rig, kind, 5_000)
        assert (answer.status, answer.type, answer.retry_after) == (503, "backend_unavailable", passed_on)
        assert (kind.calls(rig), retries(rig, kind, "unavailable")) == (1, 0)


@pytest.mark.parametrize("kind", GENERATIONS, ids=str)
async def test_row_11_a_generation_never_waits(rigs: RigMaker, kind: Kind) -> None:
    async with prepared(rigs, kind) as rig:
        kind.spoil(rig, _busy(503, "2"))
        answer = await told(rig, kind)
        assert (answer.status, answer.type, kind.calls(rig)) == (503, "backend_unavailable", 1)
        assert answer.retry_after in {None, "2"}  # there is no header for what has begun


NONSENSE = {
    "html": fault.reply(200, b"<html>busy</html>", {"Content-Type": "text/html"}),
    "garbage": fault.reply(200, b"\x00\xff\xfe{]"),
    "truncated": fault.reply(200, b'{"data": [{"index": 0, "embedding": [0.1, 0.'),
    "another shape": fault.json_reply({"data": 1, "results": [], "choices": [], "points": 3}),
}


@pytest.mark.parametrize("kind", PARSED, ids=str)
async def test_row_13_an_answer_that_is_none_is_asked_for_once_more_and_never_half_parsed(
    rigs: RigMaker, kind: Kind
) -> None:
    async with prepared(rigs, kind) as rig:
        documents = f"/rag/collections/{rig.config.rag.default_collection}/documents"
        for again, (name, behaviour) in enumerate(NONSENSE.items()):
            kind.spoil(rig, behaviour, DEFAULT)
            assert (await told(rig, kind)).status == 200, name
            assert retries(rig, kind, "nonsense") == 2 * again + 1, name
            before, stored = kind.calls(rig), await rig.app.get(documents)
            kind.spoil(rig, behaviour)
            answer = await told(rig, kind)
            assert (answer.status, answer.type, kind.service in answer.message) == (502, "backend_error", True), name
            assert (kind.calls(rig) - before, retries(rig, kind, "nonsense")) == (2, 2 * again + 2), name
            status, left = await rig.app.get(documents)
            assert (status, left.get("documents")) == (stored[0], stored[1].get("documents")), name


@pytest.mark.parametrize("behaviour", NONSENSE.values(), ids=NONSENSE.keys())
async def test_row_13_a_generation_that_is_none_is_not_asked_for_again(rigs: RigMaker, behaviour: Behaviour) -> None:
    async with prepared(rigs, QUERY) as rig:
        QUERY.spoil(rig, behaviour)
        answer = await told(rig, QUERY)
        assert (answer.status, answer.type, QUERY.calls(rig)) == (502, "backend_error", 1)
