"""Chat and embeddings pass through: bytes, headers, streams, in front of a backend that records what it gets."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator

import pytest

from hartonomous.keys import STATE
from tests.service import fault_backend as fault
from tests.service.application import ConfigMaker, RunningApp, eventually, running
from tests.service.fault_backend import FaultBackend

CHAT = "/v1/chat/completions"
# Odd white space, a duplicate key, an escape, a big number: nothing that a parse and a dump would keep.
ODD = (
    b'{ "model" :"x",\n"model":"y", "n":1e2,"big":123456789012345678901234567890, "messages":[], "u":"\\u00e9\xc3\xa9"}'
)
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def app(make_config: ConfigMaker, faulty: FaultBackend) -> AsyncIterator[RunningApp]:
    """The application with the recording backend as its three model services."""
    names = ("embedding", "reranking", "generative")
    backends: dict[str, object] = {name: {"urls": (faulty.url,)} for name in names}
    backends["generative"] = {"urls": (faulty.url,), "api_key": "upward-key"}
    async with running(make_config(backends=backends, health={"interval_s": 1000.0})) as running_app:
        yield running_app


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
@pytest.mark.parametrize("status", [200, 201, 400, 404, 422, 429])
async def test_bodies_pass_byte_for_byte_both_ways(
    app: RunningApp, faulty: FaultBackend, path: str, status: int
) -> None:
    answer = b'{ "odd" :1e2,"odd":2}\n\x00\xff'
    faulty.on(path, fault.reply(status, answer, {"Content-Type": "application/json; charset=x", "X-Own": "kept"}))
    async with app.session.post(app.url + path, data=ODD, headers=JSON) as response:
        assert (response.status, await response.read()) == (status, answer)
        assert response.headers["Content-Type"] == "application/json; charset=x"
        assert response.headers["X-Own"] == "kept"
    assert [call.body for call in faulty.calls(path)] == [ODD]


async def test_what_belongs_to_the_caller_does_not_go_up(app: RunningApp, faulty: FaultBackend) -> None:
    given = {
        "Authorization": "Bearer caller",
        "X-API-Key": "caller",
        "Cookie": "a=caller",
        "X-Anything": "caller",
        "User-Agent": "caller",
        "X-Request-ID": "my-id.1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    async with app.session.post(f"{app.url}{CHAT}?key=caller", data=ODD, headers=JSON | given) as response:
        assert response.headers["X-Request-ID"] == "my-id.1"
    (call,) = faulty.calls(CHAT)
    assert call.path == CHAT
    assert call.headers["Authorization"] == "Bearer upward-key"
    assert call.headers["X-Request-ID"] == "my-id.1"
    assert call.headers["traceparent"] == given["traceparent"]
    assert call.headers["Accept-Encoding"] == "identity"
    assert not [value for value in call.headers.values() if "caller" in value]


async def test_a_service_without_a_key_is_sent_none(app: RunningApp, faulty: FaultBackend) -> None:
    headers = JSON | {"Authorization": "Bearer caller", "traceparent": "nonsense"}
    async with app.session.post(app.url + "/v1/embeddings", data=b'{"input":"x"}', headers=headers) as response:
        assert response.status == 200
    (call,) = faulty.calls("/v1/embeddings")
    assert not {"Authorization", "api-key", "traceparent"} & set(call.headers)


async def test_what_belongs_to_the_backend_does_not_come_down(app: RunningApp, faulty: FaultBackend) -> None:
    own = {
        "Server": "llama.cpp",
        "Set-Cookie": "a=b",
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Credentials": "true",
        "Keep-Alive": "timeout=5",
        "Connection": "keep-alive, X-Hop",
        "X-Hop": "1",
        "Proxy-Authenticate": "Basic",
        "Alt-Svc": "h3",
        "X-Request-ID": "theirs",
    }
    faulty.on(CHAT, fault.reply(200, b"{}", own))
    async with app.session.post(app.url + CHAT, data=ODD, headers=JSON | {"X-Request-ID": "ours"}) as response:
        assert await response.read() == b"{}"
        assert response.headers["X-Request-ID"] == "ours"
        kept = {name.lower() for name in response.headers}
        assert not kept & {name.lower() for name in own if name != "X-Request-ID" and name != "Server"}
        assert "llama" not in response.headers.get("Server", "")


async def test_a_stream_passes_byte_for_byte_as_it_comes(app: RunningApp, faulty: FaultBackend) -> None:
    events = fault.sse(fault.TOKENS)
    # Cut in the middle of events: no cut may be lost or move.
    whole = b"".join(events)
    released = asyncio.Event()

    async def behave(exchange: fault.Exchange) -> None:
        await exchange.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        await exchange.chunk(whole[: len(events[0]) + 5])
        await released.wait()
        for place in range(len(events[0]) + 5, len(whole), 7):
            await exchange.chunk(whole[place : place + 7])
        await exchange.raw(b"0\r\n\r\n")

    faulty.on(CHAT, behave)
    async with app.session.post(app.url + CHAT, data=b'{"stream":true}', headers=JSON) as response:
        assert response.content_type == "text/event-stream"
        assert await response.content.readexactly(len(events[0])) == events[0]  # while the backend still waits
        released.set()
        assert await response.read() == whole[len(events[0]) :]


@pytest.mark.parametrize("end", [b"data: [DONE]\r\n\r\n", b"data: [DONE]", b"data:[DONE]\n\n\n"])
async def test_every_way_to_say_done_is_understood(app: RunningApp, faulty: FaultBackend, end: bytes) -> None:
    faulty.on(CHAT, fault.stream([b"data: {}\n\n", end]))
    async with app.session.post(app.url + CHAT, data=b'{"stream":true}', headers=JSON) as response:
        assert await response.read() == b"data: {}\n\n" + end


@pytest.mark.parametrize("body", [b'{"stream":true}', b'{"stream" : true, "n": 1}'])
async def test_others_take_turns_while_an_answer_is_streamed(
    app: RunningApp, faulty: FaultBackend, body: bytes
) -> None:
    turns, ended = app.app[STATE].turns, asyncio.Event()
    faulty.on(CHAT, fault.after(fault.reply(), ended))
    asking = asyncio.create_task(_asked(app, body))
    await eventually(lambda: turns.streams == 1, "the stream has begun")
    statuses = await asyncio.gather(*(_asked(app, b"{}", "/health") for _ in range(20)))
    assert statuses == [200] * 20
    ended.set()
    assert await asking == 200
    assert turns.streams == 0


@pytest.mark.parametrize("body", [b'{"stream":false}', b'{"stream":null}', b'{"messages":"stream"}'])
async def test_nobody_takes_turns_for_what_is_no_stream(app: RunningApp, faulty: FaultBackend, body: bytes) -> None:
    ended = asyncio.Event()
    faulty.on(CHAT, fault.after(fault.reply(), ended))
    asking = asyncio.create_task(_asked(app, body))
    await eventually(lambda: len(faulty.calls(CHAT)) == 1, "the backend is asked")
    assert app.app[STATE].turns.streams == 0
    ended.set()
    assert await asking == 200


@pytest.mark.parametrize("behaviour", [fault.reset(), fault.reply(500), fault.reply(401)])
async def test_a_stream_that_fails_is_none_any_more(
    app: RunningApp, faulty: FaultBackend, behaviour: fault.Behaviour
) -> None:
    faulty.on(CHAT, behaviour)
    assert await _asked(app, b'{"stream":true}') >= 500
    assert app.app[STATE].turns.streams == 0


async def _asked(app: RunningApp, body: bytes, path: str = CHAT) -> int:
    method = app.session.get if path == "/health" else app.session.post
    async with method(app.url + path, data=body, headers=JSON) as response:
        await response.read()
        return response.status


async def test_an_event_of_several_megabytes_passes(app: RunningApp, faulty: FaultBackend) -> None:
    event = b"data: " + b"x" * 3_000_000 + b"\n\n"
    faulty.on(CHAT, fault.stream([event[:1_500_000], event[1_500_000:], b"data: [DONE]\n\n"]))
    async with app.session.post(app.url + CHAT, data=b'{"stream":true}', headers=JSON) as response:
        assert await response.read() == event + b"data: [DONE]\n\n"


async def test_an_empty_answer_passes(app: RunningApp, faulty: FaultBackend) -> None:
    faulty.on(CHAT, fault.reply(200, b""))
    async with app.session.post(app.url + CHAT, data=ODD, headers=JSON) as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_a_compressed_answer_passes_unopened(app: RunningApp, faulty: FaultBackend) -> None:
    packed = gzip.compress(b"{}")
    faulty.on(CHAT, fault.reply(200, packed, {"Content-Encoding": "gzip"}))
    async with app.session.post(app.url + CHAT, data=ODD, headers=JSON) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert await response.json() == {}


async def test_a_model_that_only_mentions_rag_is_passed_on(app: RunningApp, faulty: FaultBackend) -> None:
    body = b'{"model":"x","messages":[{"role":"user","content":"\\"rag:docs\\""}],"name":"rag:x"}'
    async with app.session.post(app.url + CHAT, data=body, headers=JSON) as response:
        assert response.status == 200
    assert faulty.calls(CHAT)[0].body == body
