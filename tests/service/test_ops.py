"""`/health`, `/ready`, `/metrics`, `/openapi.json` of the running application."""

from __future__ import annotations

import asyncio
import shutil
import time
from asyncio.subprocess import PIPE, STDOUT

import pytest

from hartonomous import __version__
from hartonomous.app import OPERATIONS
from tests.service import fault_backend as fault
from tests.service.application import ConfigMaker, RunningApp, eventually, running
from tests.service.fault_backend import FaultBackend
from tests.service.rag import sample

NOBODY = "http://127.0.0.1:9"


async def test_ready_and_health_tell_what_the_monitor_knows(api: RunningApp) -> None:
    await eventually(lambda: not api.runtime.monitor.missing(), "every backend up")
    assert await api.get("/ready") == (200, {"status": "ready", "reasons": []})
    status, health = await api.get("/health")
    assert status == 200
    assert health["status"] == "ok"
    assert health["version"] == __version__
    assert health["backends"] == dict.fromkeys(("embedding", "generative", "reranking", "qdrant"), "up")


async def test_a_dead_backend_is_named_and_the_process_stays_healthy(make_config: ConfigMaker) -> None:
    async with running(make_config(backends={"generative": {"urls": (NOBODY,)}})) as app:
        await eventually(lambda: app.runtime.monitor.missing() == ["generative"], "generative alone missing")
        assert await app.get("/ready") == (503, {"status": "not ready", "reasons": ["generative is down"]})
        status, health = await app.get("/health")
        assert (status, health["status"], health["backends"]["generative"]) == (200, "degraded", "down")
        assert await app.metric('hartonomous_backend_up{service="generative"}') == 0
        assert await app.metric('hartonomous_backend_up{service="embedding"}') == 1


async def test_what_ready_needs_is_configurable(make_config: ConfigMaker) -> None:
    config = make_config(backends={"generative": {"urls": (NOBODY,)}}, health={"ready": ("qdrant",)})
    async with running(config) as app:
        await eventually(lambda: not app.runtime.monitor.missing(), "qdrant up")
        assert (await app.get("/ready"))[0] == 200


async def test_row_42_a_loop_that_was_blocked_for_250_ms_shows_in_the_lag(api: RunningApp) -> None:
    """It is no matter when the block begins: most of it must be seen."""

    def long_lags() -> float:
        name = "hartonomous_event_loop_lag_seconds"
        return sample(api, f"{name}_count") - sample(api, f"{name}_bucket", le="0.1")

    await eventually(lambda: sample(api, "hartonomous_event_loop_lag_seconds_count") > 2, "the timer")
    for blocks in range(1, 4):
        time.sleep(0.25)  # noqa: ASYNC251 - it is what is to be seen
        await eventually(lambda: long_lags() >= blocks, "the block in the metric")  # noqa: B023 - called at once


async def test_tasks_that_do_not_end_show_in_a_metric(api: RunningApp) -> None:
    before = await api.metric("hartonomous_asyncio_tasks")
    assert before > 0
    never = asyncio.Event()
    tasks = [asyncio.create_task(never.wait()) for _ in range(500)]
    assert await api.metric("hartonomous_asyncio_tasks") > before + 400
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert await api.metric("hartonomous_asyncio_tasks") < before + 100


async def test_row_26_a_poll_that_is_too_old_reads_unknown(make_config: ConfigMaker) -> None:
    async with running(make_config(health={"interval_s": 1000.0})) as app:
        await eventually(lambda: app.runtime.monitor.status("qdrant") == "up", "qdrant up")
        monitor = app.runtime.monitor
        later = monitor._clock() + 3001  # time is what this test moves
        monitor._clock = lambda: later
        assert monitor.statuses() == dict.fromkeys(monitor.statuses(), "unknown")


async def test_row_26_a_health_poll_that_hangs_has_its_own_timeout_and_holds_no_other(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    health = {"interval_s": 0.3, "timeout_s": 0.2}
    async with running(make_config(backends={"generative": {"urls": (faulty.url,)}}, health=health)) as app:
        monitor = app.runtime.monitor
        await eventually(lambda: not monitor.missing(), "every backend up")
        faulty.on("/health", fault.hang())
        await eventually(lambda: monitor.status("generative") == "down", "the one that hangs is down")
        assert await app.metric('hartonomous_backend_up{service="generative"}') == 0
        assert {monitor.status(name) for name in ("embedding", "reranking", "qdrant")} == {"up"}
        assert (await app.get("/health"))[0] == 200
        poll = faulty.calls("/health")[-1]
        await eventually(poll.closed.is_set, "the poll that hangs is ended")
        faulty.on("/health", fault.DEFAULT)
        await eventually(lambda: monitor.status("generative") == "up", "up again")


async def test_metrics_parse_with_promtool(api: RunningApp) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    await api.post("/rag/search", {"query": "anything"})
    await api.get("/nowhere")
    async with api.session.get(api.url + "/metrics") as response:
        assert response.content_type == "text/plain"
        text = await response.text()
    process = await asyncio.create_subprocess_exec(promtool, "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=STDOUT)
    complaints, _ = await process.communicate(text.encode())
    assert (process.returncode, complaints) == (0, b"")


@pytest.mark.parametrize("path", ["/health", "/ready", "/openapi.json"])
async def test_what_anyone_may_ask_is_asked_by_head_as_well(api: RunningApp, path: str) -> None:
    await eventually(lambda: not api.runtime.monitor.missing(), "all backends are up")
    async with api.session.head(api.url + path) as response:
        assert (response.status, await response.read()) == (200, b"")
        assert int(response.headers["Content-Length"]) > 0
    async with api.session.head(api.url + "/rag/collections") as response:
        assert response.status == 405


async def test_a_request_moves_its_metrics_under_its_route_template(api: RunningApp) -> None:
    name = 'hartonomous_http_requests_total{method="GET",route="/rag/collections/{name}/documents",status="404"}'
    before = await api.metric(name)
    assert (await api.get("/rag/collections/absent-1/documents"))[0] == 404
    assert (await api.get("/rag/collections/absent-2/documents"))[0] == 404
    assert await api.metric(name) == before + 2


async def test_unmatched_paths_share_one_label(api: RunningApp) -> None:
    for number in range(5):
        await api.get(f"/nowhere/{number}")
    assert await api.metric('hartonomous_http_requests_total{method="GET",route="unmatched",status="404"}') == 5


async def test_the_openapi_document_has_every_route_and_no_other(api: RunningApp) -> None:
    status, document = await api.get("/openapi.json")
    assert status == 200
    assert document["openapi"].startswith("3.1")
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == {(operation.method, operation.path) for operation in OPERATIONS}
    served = {
        (route.method, route.resource.canonical)
        for route in api.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    assert described == served
