"""`GET /admin/logs`: the newest records first, filtered, and followed for as long as the caller may."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from hartonomous import log
from hartonomous.handlers import logs
from hartonomous.keys import STATE
from hartonomous.log import logger
from tests.service.application import WAIT_S, RunningApp, merged, running
from tests.service.keyed import Keys, asking, keyed
from tests.service.rag import RigMaker, check_answer

PATH = "/admin/logs"


@pytest.fixture(autouse=True)
def stream() -> Iterator[io.StringIO]:
    """The log of the process, as `serve` sets it up."""
    text = io.StringIO()
    log.configure("DEBUG", text)
    yield text
    log.configure("WARNING", io.StringIO())
    logger.remove()


async def _records(app: RunningApp, **query: str) -> list[dict[str, Any]]:
    status, answer = await app.get(PATH, params=query)
    check_answer(app, "get", PATH, status, answer)
    assert status == 200, answer
    records: list[dict[str, Any]] = answer["records"]
    return records


@asynccontextmanager
async def _following(app: RunningApp, **query: str) -> AsyncIterator[aiohttp.ClientResponse]:
    async with app.session.get(app.url + PATH, params={"follow": "true", **query}) as response:
        yield response


async def _next(response: aiohttp.ClientResponse) -> dict[str, Any]:
    async with asyncio.timeout(10):
        record: dict[str, Any] = json.loads(await response.content.readline())
        return record


async def _until(response: aiohttp.ClientResponse, message: str) -> list[dict[str, Any]]:
    """Return the records before the one that says so."""
    records: list[dict[str, Any]] = []
    while (record := await _next(response))["message"] != message:
        records.append(record)
    return records


async def test_the_newest_records_come_first(api: RunningApp, stream: io.StringIO) -> None:
    await api.get("/health", headers={"X-Request-ID": "one"})
    await api.get("/health", headers={"X-Request-ID": "two"})
    newest, before, *_ = [record for record in await _records(api) if record["message"] == "request"]
    assert (newest["request_id"], before["request_id"]) == ("two", "one")
    assert newest in [json.loads(line) for line in stream.getvalue().splitlines()]


async def test_records_can_be_chosen(api: RunningApp) -> None:
    await api.get("/health", headers={"X-Request-ID": "chosen"})
    logger.warning("a warning")
    assert [record["route"] for record in await _records(api, request_id="chosen")] == ["/health"]
    (moment,) = {record["time"] for record in await _records(api, request_id="chosen")}
    # Since then: what other tests have logged before has any level.
    levels = {record["level"] for record in await _records(api, level="WARNING", since=moment)}
    assert levels - {"ERROR", "CRITICAL"} == {"WARNING"}
    assert len(await _records(api, limit="2")) == 2
    assert await _records(api, request_id="chosen", since=moment)
    assert not await _records(api, since="2999-01-01T00:00:00Z")
    for moment in ("0000-01-01t00:00:00z", "2016-12-31T23:59:60Z", "2016-12-31T23:59:59.123456789-23:59"):
        assert await _records(api, since=moment)


async def test_the_trail_can_be_read(rigs: RigMaker) -> None:
    async with keyed(rigs) as it:
        await it.rig.app.get("/rag/collections")
        await _records(it.operator, kind="audit")
        first, second = await _records(it.operator, kind="audit")
        assert (first["event"], first["key"], first["kind"]) == ("admin_read", "operator", "audit")
        assert second["event"] == "authentication_failed"


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("kind=both", "kind"),
        ("level=LOUD", "level"),
        ("kind=audit&level=INFO", "level"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=%2B1", "limit"),
        ("limit=1&limit=2", "limit"),
        ("since=yesterday", "since"),
        ("since=2026-01-01", "since"),
        ("since=20260101T000000Z", "since"),
        ("since=2026-01-01T00:00:61Z", "since"),
        ("follow=yes", "follow"),
        ("tail=1", "tail"),
    ],
)
async def test_a_wrong_parameter_is_refused_by_its_name(api: RunningApp, query: str, param: str) -> None:
    status, answer = await api.get(f"{PATH}?{query}")
    assert (status, answer["error"]["param"]) == (422, param)


async def test_only_the_scope_admin_reads_it(rigs: RigMaker) -> None:
    async with keyed(rigs) as it:
        for who, expected in ((it.rig.app, 401), (it.a, 403), (it.operator, 200)):
            assert (await who.get(PATH))[0] == expected


async def test_a_follower_gets_what_there_is_and_then_what_comes(api: RunningApp) -> None:
    for name in ("one", "two", "three"):
        logger.bind(request_id="mine").info(name)
    async with _following(api, request_id="mine", limit="2") as response:
        assert response.headers["Content-Type"] == "application/x-ndjson"
        assert [(await _next(response))["message"] for _ in range(2)] == ["two", "three"]
        logger.bind(request_id="other").info("not this")
        logger.bind(request_id="mine").info("four")
        assert (await _next(response))["message"] == "four"


async def test_a_follower_does_not_hear_itself(api: RunningApp) -> None:
    async with _following(api) as response:
        logger.info("begin")
        await _until(response, "begin")
        await asyncio.sleep(3 * logs.LOOK_S)  # in which it would hear itself
        logger.info("end")
        heard = await _until(response, "end")
        assert not [record for record in heard if record.get("route") == PATH or "logs" in record["logger"]]


async def test_a_silent_log_is_kept_alive(api: RunningApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "PING_S", 0.1)
    async with _following(api, request_id="nobody") as response, asyncio.timeout(10):
        assert await response.content.readline() == b"\n"


async def test_a_follower_learns_what_it_missed(api: RunningApp) -> None:
    log.kept.resize(20)
    async with _following(api, request_id="mine") as response:
        for number in range(100):
            logger.bind(request_id="mine").info("{}", number)
        gap = await _next(response)
        assert (gap["message"], gap["records"] >= 80) == ("records were left out", True)
        assert len(await _until(response, "99")) <= 19


async def test_following_ends_when_the_server_stops(api: RunningApp) -> None:
    async with _following(api, request_id="nobody") as response:
        api.app[STATE].draining = True
        async with asyncio.timeout(WAIT_S):
            assert await response.content.read() == b""
        api.app[STATE].draining = False


async def test_following_ends_with_the_time_that_its_caller_gave_it(api: RunningApp) -> None:
    headers = {"X-Request-Timeout-Ms": "300"}
    async with asyncio.timeout(WAIT_S), api.session.get(f"{api.url}{PATH}?follow=true", headers=headers) as response:
        assert response.status == 200
        await response.read()


@pytest.mark.parametrize("lost", ["key", "scope"])
async def test_following_ends_when_a_reload_takes_the_right_to_it(rigs: RigMaker, tmp_path: Path, lost: str) -> None:
    file = tmp_path / "config.yaml"
    keys = Keys()
    async with rigs.make(file, auth=keys.section()) as rig, asking(rig.app, keys.operator) as operator:
        written = rig.config.model_dump(mode="json", exclude_none=True)
        left = [dict(key.entry) for key in keys]
        if lost == "key":
            left = [entry for entry in left if entry["id"] != "operator"]
        else:
            next(entry for entry in left if entry["id"] == "operator")["scopes"] = ("query",)
        auth = json.loads(json.dumps({"auth": keys.section(keys=left)}))
        file.write_text(yaml.safe_dump(merged(written, auth)), encoding="utf-8")
        async with _following(operator, request_id="nobody") as response:
            assert (await operator.post("/admin/config/reload", None))[0] == 200
            async with asyncio.timeout(WAIT_S):
                assert await response.content.read() == b""


async def test_who_does_not_read_holds_up_nobody(make_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Following ends at the stop of the server also with a client that takes nothing."""
    async with running(make_config(), buffer_bytes=8_192) as app, _following(app, request_id="mine"):
        for _ in range(200):
            logger.bind(request_id="mine", filler="x" * 10_000).info("much")
        await asyncio.sleep(2 * logs.LOOK_S)
        state = app.app[STATE]
        assert state.active == 1
        state.draining = True
        async with asyncio.timeout(WAIT_S):
            await state.idle.wait()
