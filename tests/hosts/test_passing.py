"""What both balancers pass on as it is, and at once: streams both ways, refusals, the end of a client."""

from __future__ import annotations

import asyncio
import io
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from tests.chaos.contract import wrong_with_error
from tests.hosts.cluster import Cluster
from tests.hosts.conftest import Front
from tests.hosts.load import text_of
from tests.hosts.paced import WORDS, Paced
from tests.service.application import eventually
from tests.service.fault_backend import DEFAULT, Exchange, reply
from tests.service.keyed import Key
from tests.service.rag import CHAT, EMBEDDINGS

pytestmark = pytest.mark.asyncio(loop_scope="module")

NDJSON = {"Content-Type": "application/x-ndjson"}
CHATTING = {"model": "any", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def paced(front: Front) -> Paced:
    """A model that waits for the test."""
    behaviour = Paced()
    front.cluster.models.on(CHAT, behaviour)
    return behaviour


@pytest.mark.parametrize(("path", "body"), [(CHAT, CHATTING), ("/rag/query", {"query": "How is the valve opened?"})])
async def test_each_word_of_a_stream_is_seen_before_the_next_is_made(
    front: Front, paced: Paced, path: str, body: dict[str, Any]
) -> None:
    async with asyncio.timeout(20), front.session.post(path, json=body | {"stream": True}) as response:
        assert response.status == 200
        seen = b""
        for word in WORDS:
            paced.say()
            while word.strip().encode() not in seen:
                seen += await response.content.readany()
        seen += await response.content.read()
    assert b"[DONE]" in seen or b"event: done" in seen


@pytest.mark.parametrize("streamed", [True, False])
async def test_who_leaves_ends_the_call_to_the_model_within_a_second(
    front: Front, paced: Paced, streamed: bool
) -> None:
    asking = asyncio.create_task(_read(front.session, CHATTING | {"stream": streamed}))
    received = await asyncio.wait_for(paced.requests.get(), 10)
    asking.cancel()
    await asyncio.wait({asking})
    await asyncio.wait_for(received.closed.wait(), 1.0)


async def _read(session: aiohttp.ClientSession, body: Any) -> bytes:
    async with session.post(CHAT, json=body) as response:
        return await response.read()


async def test_each_line_of_an_upload_is_answered_before_the_next_is_sent(front: Front) -> None:
    results: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    names = [uuid4().hex for _ in range(4)]

    async def lines() -> AsyncIterator[bytes]:
        for name in names:
            yield json.dumps({"id": name, "text": text_of(name)}).encode() + b"\n"
            assert (await results.get())["id"] == name

    async with asyncio.timeout(20), front.session.post("/rag/ingest", data=lines(), headers=NDJSON) as response:
        assert response.status == 200
        async for line in response.content:
            results.put_nowait(json.loads(line))
    assert results.get_nowait()["counts"]["created"] == len(names)


@pytest.mark.parametrize("front", ["haproxy"], indirect=True, scope="module")
async def test_a_large_upload_comes_through_while_its_results_come_back(front: Front) -> None:
    """Larger than all buffers on its way, and sent faster than it is taken: there nginx 1.22 passes no more on."""
    count, blanks = 24, b" " * 2_000_000
    lines = [
        b'{"id":"%s","text":"The valve %d is opened."%b}\n' % (uuid4().hex.encode(), n, blanks) for n in range(count)
    ]
    front.cluster.models.on(EMBEDDINGS, after_a_while)
    sent = pieces_of(b"".join(lines))
    async with asyncio.timeout(60), front.session.post("/rag/ingest", data=sent, headers=NDJSON) as response:
        assert response.status == 200
        found = [json.loads(line) async for line in response.content]
    front.cluster.models.on(EMBEDDINGS, DEFAULT)
    assert len(found) == count + 1
    assert found[-1]["counts"]["created"] == count


async def after_a_while(exchange: Exchange) -> None:
    """Answer a tenth of a second later."""
    await asyncio.sleep(0.1)
    await DEFAULT(exchange)


async def pieces_of(data: bytes) -> AsyncIterator[bytes]:
    """Send a body in pieces, of which nobody is told how many there are."""
    for start in range(0, len(data), 65_536):
        yield data[start : start + 65_536]


async def test_a_refusal_of_a_backend_comes_through_with_its_time(front: Front) -> None:
    front.cluster.models.on(CHAT, reply(503, b'{"error":{"message":"Loading model"}}', {"Retry-After": "7"}))
    request_id = uuid4().hex
    async with front.session.post(CHAT, json=CHATTING, headers={"X-Request-ID": request_id}) as response:
        body = await response.read()
        assert response.status == 503, body
        assert response.headers["Retry-After"]
        assert response.headers["X-Request-ID"] == request_id
        assert wrong_with_error(503, body, request_id) is None
    front.cluster.models.on(CHAT, DEFAULT)


async def test_a_limit_that_is_reached_comes_through_with_its_time(
    front: Front, cluster: tuple[Cluster, tuple[Key, ...]]
) -> None:
    body, headers = {"query": "valve"}, cluster[1][0].headers
    async with aiohttp.ClientSession(front.balancer.url, headers=headers) as session:
        for _ in range(200):
            async with session.post("/rag/search", json=body) as response:
                if response.status == 429:
                    assert int(response.headers["Retry-After"]) > 1_000
                    assert (await response.json())["error"]["code"] == "too_many_requests"
                    return
    pytest.fail("the limit was not reached")


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_over_the_limit_is_refused_by_the_server_in_its_own_words(front: Front, is_chunked: bool) -> None:
    data = json.dumps({"query": "x" * (2 * 1024 * 1024)}).encode()
    request_id = uuid4().hex
    headers = {"Content-Type": "application/json", "X-Request-ID": request_id}
    sent: Any = pieces_of(data) if is_chunked else io.BytesIO(data)
    async with front.session.post("/rag/query", data=sent, headers=headers) as response:
        body = await response.read()
        assert response.status == 413, body
        assert wrong_with_error(413, body, request_id) is None


async def test_http_2_is_spoken_to_clients_and_the_certificate_is_the_balancers(front: Front) -> None:
    trusting = front.balancer.files.client()
    async with front.session.get(f"{front.balancer.tls_url}/ready", ssl=trusting) as response:
        assert response.status == 200
    trusting.set_alpn_protocols(["h2", "http/1.1"])
    port = int(front.balancer.tls_url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
    tls = writer.get_extra_info("ssl_object")
    assert isinstance(tls, ssl.SSLObject)
    assert tls.selected_alpn_protocol() == "h2"
    writer.close()


async def test_the_caller_is_who_connects_and_not_who_it_says(front: Front) -> None:
    request_id = uuid4().hex
    headers = {"X-Forwarded-For": "203.0.113.9", "X-Request-ID": request_id}
    async with front.session.post("/rag/search", json={"query": "valve"}, headers=headers) as response:
        assert response.status == 200
        assert response.headers["X-Request-ID"] == request_id
    await eventually(lambda: front.record_of(request_id), "the request is in a log")
    assert front.record_of(request_id)["remote"] == "127.0.0.1"
