"""One record a request: its id, route, status and time, in one JSON line."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from hartonomous import log
from tests.service import fault_backend as fault
from tests.service.application import ConfigMaker, RunningApp, eventually, running
from tests.service.fault_backend import FaultBackend

CHAT = "/v1/chat/completions"


class _Full(io.StringIO):
    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The log of the application."""
    text = io.StringIO()
    log.configure("INFO", text)
    yield text
    log.logger.remove()


def _requests(lines: io.StringIO) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in lines.getvalue().splitlines()]
    return [record for record in records if record["message"] == "request"]


async def test_each_request_leaves_one_record(lines: io.StringIO, api: RunningApp) -> None:
    await api.get("/health", headers={"X-Request-ID": "mine"})
    await api.get("/rag/collections/absent/documents/some/id")
    await api.post("/rag/search", {})
    await api.get("/no/such/path")
    health, document, search, nowhere = _requests(lines)
    assert health["request_id"] == "mine"
    assert (health["method"], health["route"], health["status"], health["level"]) == ("GET", "/health", 200, "INFO")
    assert 0 < health["duration_ms"] < 10_000
    assert health["remote"] == "127.0.0.1"
    assert (document["route"], document["status"]) == ("/rag/collections/{name}/documents/{id}", 404)
    assert (search["method"], search["status"]) == ("POST", 422)
    assert (nowhere["route"], nowhere["status"]) == ("unmatched", 404)


async def test_what_a_caller_sends_is_not_in_the_log(lines: io.StringIO, api: RunningApp) -> None:
    secret = "caller-secret"
    headers = {"Authorization": f"Bearer {secret}", "X-API-Key": secret, "User-Agent": secret, "X-Request-ID": "a\x1bb"}
    await api.post(f"/rag/query?key={secret}", {"query": secret}, headers={**headers, "X-Request-ID": f"{secret} x"})
    await api.post("/rag/ingest", {"documents": [{"text": secret, "id": f"{secret}\x1b"}]})
    await api.get(f"/{secret}")
    await api.session.request(secret.upper()[:6], api.url + "/health")
    assert len(_requests(lines)) == 3  # the parser refuses the invented method
    assert secret not in lines.getvalue()


async def test_a_client_that_leaves_is_recorded_as_499(
    lines: io.StringIO, make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    faulty.on(CHAT, fault.hang())
    async with running(make_config(backends={"generative": {"urls": (faulty.url,)}})) as app:
        asking = asyncio.create_task(app.post(CHAT, {"messages": []}))
        await eventually(lambda: faulty.calls(CHAT), "the backend is asked")
        asking.cancel()
        await eventually(lambda: _requests(lines), "the record")
        assert [(record["status"], record["route"]) for record in _requests(lines)] == [(499, CHAT)]


async def test_a_backends_fault_leaves_a_line_with_the_same_id(
    lines: io.StringIO, make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    faulty.on(CHAT, fault.reply(500, b"sk-inside"))
    async with running(make_config(backends={"generative": {"urls": (faulty.url,)}})) as app:
        await app.post(CHAT, {"messages": []}, headers={"X-Request-ID": "mine"})
        records = [json.loads(line) for line in lines.getvalue().splitlines()]
        mine = [(record["level"], record["message"]) for record in records if record.get("request_id") == "mine"]
        assert mine == [("WARNING", "The generative service failed (status 500)."), ("INFO", "request")]
        assert "sk-inside" not in lines.getvalue()


async def test_a_health_change_is_told_once(lines: io.StringIO, make_config: ConfigMaker, faulty: FaultBackend) -> None:
    config = make_config(
        backends={"generative": {"urls": (faulty.url,)}}, health={"interval_s": 0.03, "timeout_s": 1.0}
    )

    def told() -> list[str]:
        records = [json.loads(line) for line in lines.getvalue().splitlines()]
        return [record["status"] for record in records if record.get("service") == "generative"]

    async with running(config) as app:
        monitor = app.runtime.monitor
        await eventually(lambda: monitor.status("generative") == "up", "up")
        faulty.on("/health", fault.reply(503, b'{"error":{"message":"Loading model"}}'))
        await eventually(lambda: monitor.status("generative") == "down", "down")
        polls = len(faulty.calls("/health"))
        await eventually(lambda: len(faulty.calls("/health")) > polls + 5, "more polls")
        faulty.on("/health", fault.DEFAULT)
        await eventually(lambda: monitor.status("generative") == "up", "up again")
        await eventually(lambda: len(told()) == 3, "the third line")
        assert told() == ["up", "down", "up"]


async def test_a_log_that_cannot_be_written_stops_nobody(make_config: ConfigMaker) -> None:
    log.configure("INFO", _Full())
    try:
        async with running(make_config()) as app:
            assert (await app.get("/health"))[0] == 200
            assert (await app.get("/nowhere"))[0] == 404
    finally:
        log.logger.remove()
