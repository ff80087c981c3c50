"""What a backend does wrong behind chat and embeddings, and what the caller gets: the rows of the fault table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest

from hartonomous import codec
from tests.service import fault_backend as fault
from tests.service.application import WAIT_S, ConfigMaker, RunningApp, eventually, running
from tests.service.fault_backend import FaultBackend

CHAT = "/v1/chat/completions"
EMBED = "/v1/embeddings"
BODY = {"messages": [{"role": "user", "content": "Hello"}], "input": "Hello"}
STREAM = BODY | {"stream": True}
FAST = {"idle_timeout_s": 0.3, "max_answer_bytes": 4096}


@pytest.fixture
async def app(make_config: ConfigMaker, faulty: FaultBackend) -> AsyncIterator[RunningApp]:
    """The application with the faulty backend as its chat and embedding services; health is not polled meanwhile."""
    backends = {name: {"urls": (faulty.url,)} | FAST for name in ("embedding", "generative")}
    async with running(make_config(backends=backends, health={"interval_s": 1000.0})) as running_app:
        await eventually(running_app.runtime.monitor.first_round.is_set, "the first poll")
        yield running_app


async def _post(app: RunningApp, path: str, body: Any = BODY, **headers: str) -> tuple[int, dict[str, str], Any]:
    async with app.session.post(app.url + path, json=body, headers=headers) as response:
        return response.status, dict(response.headers), await response.json()


async def _events(app: RunningApp, **headers: str) -> list[bytes]:
    async with app.session.post(app.url + CHAT, json=STREAM, headers=headers) as response:
        assert response.status == 200
        return (await response.read()).split(b"\n\n")


async def _outcomes(app: RunningApp, service: str) -> dict[str, float]:
    found = {}
    for outcome in ("2xx", "4xx", "5xx", "timeout", "broken", "unreachable", "cancelled"):
        line = f'hartonomous_backend_requests_total{{outcome="{outcome}",service="{service}"}}'
        found[outcome] = await app.metric(line)
    return {outcome: count for outcome, count in found.items() if count}


@pytest.mark.parametrize("path", [CHAT, EMBED])
@pytest.mark.parametrize(
    ("behaviour", "status", "kind", "code", "attempts"),
    [
        (fault.reply(500, b"/opt/llama/server.cpp:12 sk-123"), 502, "backend_error", "bad_backend_answer", 3),
        (fault.reply(501, b"no"), 502, "backend_error", "bad_backend_answer", 1),
        (fault.reply(302, b"", {"Location": "http://127.0.0.1:9/"}), 502, "backend_error", "bad_backend_answer", 1),
        (
            fault.reply(500, b'{"error":{"message":"input is too large to process"}}'),
            422,
            "invalid_request_error",
            "input_too_long",
            1,
        ),
        (
            fault.reply(503, b'{"error":{"message":"Loading model"}}'),
            503,
            "backend_unavailable",
            "backend_unavailable",
            1,
        ),
        (fault.raw(b"garbage\r\n\r\n"), 502, "backend_error", "bad_backend_answer", 3),
        (fault.reset(), 502, "backend_error", "bad_backend_answer", 3),
        (fault.close(), 502, "backend_error", "bad_backend_answer", 3),
    ],
)
async def test_a_failing_backend_is_answered_as_the_table_says(
    app: RunningApp,
    faulty: FaultBackend,
    path: str,
    behaviour: fault.Behaviour,
    status: int,
    kind: str,
    code: str,
    attempts: int,
) -> None:
    faulty.on(path, behaviour)
    got, headers, answer = await _post(app, path)
    assert (got, answer["error"]["type"], answer["error"]["code"]) == (status, kind, code)
    assert answer["request_id"] == headers["X-Request-ID"]
    assert "sk-123" not in str(answer)
    assert "server.cpp" not in str(answer)
    assert ("Retry-After" in headers) == (status == 503)
    assert len(faulty.calls(path)) == (1 if path == CHAT else attempts)  # a generation is never sent twice


@pytest.mark.parametrize("path", [CHAT, EMBED])
@pytest.mark.parametrize("status", [401, 403])
async def test_row_12_a_backends_refusal_of_our_key_is_a_502_and_not_the_callers_own(
    app: RunningApp, faulty: FaultBackend, path: str, status: int
) -> None:
    faulty.on(path, fault.reply(status, b"bad key sk-123", {"WWW-Authenticate": "Bearer"}))
    got, headers, answer = await _post(app, path)
    assert (got, answer["error"]["type"], answer["error"]["code"]) == (502, "backend_error", "bad_backend_answer")
    assert "sk-123" not in str(answer)
    assert "WWW-Authenticate" not in headers
    assert len(faulty.calls(path)) == 1
    assert (await _outcomes(app, "generative" if path == CHAT else "embedding"))["4xx"] == 1


async def test_the_backends_retry_after_is_passed_on(app: RunningApp, faulty: FaultBackend) -> None:
    faulty.on(CHAT, fault.reply(503, b"", {"Retry-After": "7"}), fault.reply(503, b"", {"Retry-After": "-3"}))
    assert (await _post(app, CHAT))[1]["Retry-After"] == "7"
    assert (await _post(app, CHAT))[1]["Retry-After"] == "1"


async def test_a_refused_connection_is_a_503_at_once(app: RunningApp, faulty: FaultBackend) -> None:
    await faulty.stop()
    async with asyncio.timeout(WAIT_S):  # of the 300 that a request has
        status, headers, answer = await _post(app, CHAT)
    assert (status, answer["error"]["code"], headers["Retry-After"]) == (503, "backend_unavailable", "1")
    assert await _outcomes(app, "generative") == {"unreachable": 3}
    await faulty.start()


@pytest.mark.parametrize("path", [CHAT, EMBED])
async def test_a_hanging_backend_is_a_504_at_the_deadline(app: RunningApp, faulty: FaultBackend, path: str) -> None:
    faulty.on(path, fault.hang())
    started = time.monotonic()
    async with asyncio.timeout(20):  # the service's own limits are from 30 s on
        status, _, answer = await _post(app, path, **{"X-Request-Timeout-Ms": "600"})
        assert (status, answer["error"]["type"]) == (504, "timeout_error")
        assert time.monotonic() - started > 0.55
        await faulty.calls(path)[0].closed.wait()
    assert await _outcomes(app, "generative" if path == CHAT else "embedding") == {"timeout": 1}


async def test_a_whole_answer_may_take_longer_than_a_piece_of_a_stream(app: RunningApp, faulty: FaultBackend) -> None:
    faulty.on(CHAT, fault.reply(200, b"{}", delay_s=FAST["idle_timeout_s"] * 2))
    assert (await _post(app, CHAT))[0] == 200


@pytest.mark.parametrize("length_known", [True, False])
async def test_an_answer_cut_off_in_its_middle_cuts_ours(
    app: RunningApp, faulty: FaultBackend, caplog: pytest.LogCaptureFixture, length_known: bool
) -> None:
    whole = b'{"choices": [1, 2, 3]}'
    chunked = fault.stream([whole[:9]], "reset", content_type="application/json")
    faulty.on(CHAT, fault.cut(whole, 9) if length_known else chunked)
    with pytest.raises(aiohttp.ClientPayloadError):
        await _post(app, CHAT)
    assert (await _outcomes(app, "generative"))["broken"] == 1
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_malformed_json_is_not_the_backends_fault(app: RunningApp, faulty: FaultBackend) -> None:
    faulty.on(CHAT, fault.reply(500, b"parse error"))
    headers = {"Content-Type": "application/json"}
    async with app.session.post(app.url + CHAT, data=b'{"a": NaN}', headers=headers) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("end", ["reset", "clean", "complete"])
async def test_row_06_a_stream_that_breaks_ends_with_an_error_and_no_done(
    app: RunningApp, faulty: FaultBackend, end: fault.End
) -> None:
    pieces = [*fault.sse(["one", "two"], done=False)[:3], b'data: {"choices": [{"del']
    faulty.on(CHAT, fault.stream(pieces, end))
    *events, last, nothing = await _events(app)
    assert events == [piece.removesuffix(b"\n\n") for piece in pieces[:3]]
    assert nothing == b""
    failure = codec.loads(last.removeprefix(b"data: "))
    assert failure["error"]["type"] == "backend_error"
    assert failure["request_id"]
    assert len(faulty.calls(CHAT)) == 1
    assert (await _outcomes(app, "generative")) == {"broken": 1}


@pytest.mark.parametrize(("idle_timeout_s", "timeout_ms"), [(0.3, "60000"), (60.0, "1000")])
async def test_a_stream_that_stalls_ends_with_a_timeout(
    make_config: ConfigMaker, faulty: FaultBackend, idle_timeout_s: float, timeout_ms: str
) -> None:
    faulty.on(CHAT, fault.stream([b"data: {}\n\n"], "hang"))
    service = {"urls": (faulty.url,), "idle_timeout_s": idle_timeout_s}
    config = make_config(backends={"generative": service}, health={"interval_s": 1000.0})
    async with running(config) as app, asyncio.timeout(WAIT_S):
        events = await _events(app, **{"X-Request-Timeout-Ms": timeout_ms})
        assert codec.loads(events[1].removeprefix(b"data: "))["error"]["type"] == "timeout_error"
        assert (await _outcomes(app, "generative"))["timeout"] == 1
        await faulty.calls(CHAT)[0].closed.wait()


async def test_the_sdk_raises_for_a_stream_that_breaks(app: RunningApp, faulty: FaultBackend) -> None:
    faulty.on(CHAT, fault.stream(fault.sse(["one"], done=False), "reset"))
    messages: Any = BODY["messages"]
    async with openai.AsyncOpenAI(base_url=app.url + "/v1", api_key="x", max_retries=0) as sdk:
        stream = await sdk.chat.completions.create(model="x", messages=messages, stream=True)
        with pytest.raises(openai.APIError, match="broke"):
            async for _ in stream:
                pass


async def test_an_error_status_beyond_the_cap_is_a_502(app: RunningApp, faulty: FaultBackend) -> None:
    faulty.on(CHAT, fault.reply(500, b"x" * (FAST["max_answer_bytes"] + 1)))  # type: ignore[operator]  # an int
    status, _, answer = await _post(app, CHAT)
    assert (status, answer["error"]["type"]) == (502, "backend_error")


@pytest.mark.parametrize(
    "behaviour",
    [fault.hang(), fault.stream([], "hang"), fault.stream([b"data: {}\n\n"], "hang"), fault.drip(b"x" * 999, 0.2)],
)
@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_row_34_a_client_that_leaves_frees_the_backend_and_does_not_blame_it(
    make_config: ConfigMaker, faulty: FaultBackend, behaviour: fault.Behaviour, body: Any
) -> None:
    faulty.on(CHAT, behaviour)
    config = make_config(backends={"generative": {"urls": (faulty.url,)}}, health={"interval_s": 1000.0})
    async with running(config) as app:
        asking = asyncio.create_task(_post(app, CHAT, body))
        await eventually(lambda: faulty.calls(CHAT), "the backend is asked")
        await asyncio.sleep(0.05)  # some are before their headers, some in the middle of the body
        asking.cancel()
        async with asyncio.timeout(WAIT_S):
            await faulty.calls(CHAT)[0].closed.wait()
        route = f'{{method="POST",route="{CHAT}",status="499"}}'
        for _ in range(1_000):
            if await app.metric("hartonomous_http_requests_total" + route):
                break
            await asyncio.sleep(0.01)
        assert await app.metric("hartonomous_http_requests_total" + route) == 1
        assert await _outcomes(app, "generative") == {"cancelled": 1}
        assert await app.metric('hartonomous_backend_requests_in_flight{service="generative"}') == 0


async def test_a_busy_service_is_not_taken_for_a_dead_one(make_config: ConfigMaker, faulty: FaultBackend) -> None:
    faulty.on(CHAT, fault.hang())
    config = make_config(
        backends={"generative": {"urls": (faulty.url,), "concurrency": 2}},
        health={"interval_s": 0.05, "timeout_s": 0.5},
    )
    async with running(config) as app:
        asking = [asyncio.create_task(_post(app, CHAT)) for _ in range(5)]
        await eventually(lambda: len(faulty.calls(CHAT)) == 2, "every connection is in use")
        polls = len(faulty.calls("/health"))
        await eventually(lambda: len(faulty.calls("/health")) > polls + 3, "more polls")
        assert app.runtime.monitor.status("generative") == "up"
        assert len(faulty.calls(CHAT)) == 2  # the concurrency holds
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def test_a_list_of_models_does_not_wait_for_a_hanging_service(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    faulty.on("/v1/models", fault.hang())
    config = make_config(backends={"generative": {"urls": (faulty.url,)}}, health={"timeout_s": 0.2})
    async with running(config) as app:
        status, answer = await app.get("/v1/models")
        names = [model["id"] for model in answer["data"] if not model["id"].startswith("rag:")]
        assert (status, names) == (200, ["tiny-embedding", "tiny-reranking"])


async def test_the_address_with_fewer_calls_is_asked_and_a_dead_one_left_out(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    async with FaultBackend() as other:
        faulty.on(CHAT, fault.hang())
        config = make_config(backends={"generative": {"urls": (faulty.url, other.url)}})
        async with running(config) as app:
            asking = asyncio.create_task(_post(app, CHAT))
            await eventually(lambda: faulty.calls(CHAT), "the first address is asked")
            assert [(await _post(app, CHAT))[0] for _ in range(3)] == [200] * 3
            assert (len(faulty.calls(CHAT)), len(other.calls(CHAT))) == (1, 3)
            await other.stop()
            await eventually(lambda: app.runtime.pools["generative"].replicas[1].up is False, "the dead one is known")
            faulty.on(CHAT, fault.DEFAULT)
            assert [(await _post(app, CHAT))[0] for _ in range(3)] == [200] * 3
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await other.start()


async def test_a_call_that_waits_for_its_turn_does_not_use_up_the_services_time(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    faulty.on(CHAT, fault.reply(200, b"{}", delay_s=0.4))
    config = make_config(backends={"generative": {"urls": (faulty.url,), "concurrency": 1, "timeout_s": 0.7}})
    async with running(config) as app:
        answers = await asyncio.gather(*(_post(app, CHAT) for _ in range(4)))
        assert [status for status, _, _ in answers] == [200] * 4


async def test_a_call_whose_turn_never_comes_is_a_504_at_its_deadline(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    faulty.on(CHAT, fault.hang())
    async with running(make_config(backends={"generative": {"urls": (faulty.url,), "concurrency": 1}})) as app:
        first = asyncio.create_task(_post(app, CHAT))
        await eventually(lambda: faulty.calls(CHAT), "the only connection is in use")
        status, _, answer = await _post(app, CHAT, **{"X-Request-Timeout-Ms": "200"})
        assert (status, answer["error"]["type"]) == (504, "timeout_error")
        first.cancel()
        await eventually(lambda: app.runtime.pools["generative"].replicas[0].active == 0, "nothing is left")


async def test_row_34_a_client_that_leaves_while_its_call_is_queued_leaves_the_line(
    make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    faulty.on(CHAT, fault.hang())
    async with running(make_config(backends={"generative": {"urls": (faulty.url,), "concurrency": 1}})) as app:
        first = asyncio.create_task(_post(app, CHAT))
        await eventually(lambda: faulty.calls(CHAT), "the only connection is in use")
        waiting = asyncio.create_task(_post(app, CHAT))
        pool = app.runtime.pools["generative"]
        await eventually(lambda: pool.admission.waiting == 1, "the next one waits")
        waiting.cancel()
        await eventually(lambda: pool.admission.waiting == 0, "it has left the line")
        assert len(faulty.calls(CHAT)) == 1  # what left the line is not sent
        first.cancel()
        await eventually(lambda: pool.replicas[0].active == 0, "nothing is left")
        faulty.on(CHAT, fault.DEFAULT)
        assert (await _post(app, CHAT))[0] == 200


@pytest.mark.parametrize("header", ["application/json;charset*", "application/json; 0*"])
async def test_a_content_type_that_nobody_can_read_costs_no_slot_and_is_no_fault_of_ours(
    app: RunningApp, faulty: FaultBackend, header: str
) -> None:
    faulty.on(CHAT, fault.reply(200, b"{}", {"Content-Type": header}))
    for _ in range(3):
        assert (await _post(app, CHAT))[0] == 200
    assert app.runtime.pools["generative"].replicas[0].active == 0
    headers = {"Content-Type": header}
    async with app.session.post(app.url + "/rag/search", data=b'{"query": ""}', headers=headers) as response:
        assert response.status == 422
    async with app.session.post(app.url + "/rag/ingest", data=b"{}", headers=headers) as response:
        assert response.status == 422


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("connection", ["keep-alive", "close"])
async def test_a_header_that_cannot_be_sent_is_left_out_of_an_answer(
    app: RunningApp, faulty: FaultBackend, kind: str, connection: str
) -> None:
    head = f"HTTP/1.1 200 OK\r\nX-Bad: a\x01\r\nX-Gone: \x7f\r\nX-Good: a\tb\r\nContent-Type: {kind}\r\n"
    faulty.on(CHAT, fault.raw(f"{head}Content-Length: 14\r\n\r\ndata: [DONE]\n\n".encode()))
    async with app.session.post(app.url + CHAT, json=BODY, headers={"Connection": connection}) as response:
        assert (response.status, await response.read()) == (200, b"data: [DONE]\n\n")
        assert [response.headers.get(name) for name in ("X-Bad", "X-Gone", "X-Good")] == [None, None, "a\tb"]
