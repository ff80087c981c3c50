"""What both balancers do not pass on, and what they answer by themselves."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest
from yarl import URL

from tests.chaos.contract import wrong_with_error
from tests.hosts import balancers
from tests.hosts.conftest import Front, Hosts
from tests.hosts.paced import WORDS, Paced
from tests.service.application import eventually
from tests.service.rag import CHAT
from tests.service.vector_store import free_ports

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPERATORS = [
    "/metrics",
    "/metrics?x=1",
    "/metrics/",
    "/%6detrics",
    "//metrics",
    "/./metrics",
    "/rag/../metrics",
    "/admin",
    "/admin/logs",
    "/%61dmin/logs",
    "/admin%2Flogs",
    "/rag/..%2Fadmin/logs",
]


@pytest.mark.parametrize("path", OPERATORS)
async def test_what_is_the_operators_is_not_there_in_any_spelling(front: Front, path: str) -> None:
    request_id = uuid4().hex
    url = URL(front.balancer.url + path, encoded=True)
    async with front.session.get(url, headers={"X-Request-ID": request_id}) as response:
        body = await response.read()
        assert response.status == 404, body
        assert response.headers["X-Request-ID"] == request_id
        assert wrong_with_error(404, body, request_id) is None


@pytest.mark.parametrize(("name", "status"), [("haproxy", 503), ("nginx", 502)])
async def test_where_no_server_is_up_clients_are_told_in_the_shape_of_all_errors(
    name: str, status: int, tmp_path: Path
) -> None:
    request_id = uuid4().hex
    headers = {"X-Request-ID": request_id}
    ports = free_ports(3)
    async with balancers.needed(name)(tmp_path, ports) as balancer, aiohttp.ClientSession(balancer.url) as session:
        for path in ("/rag/query", CHAT):
            async with session.post(path, json={"query": "valve"}, headers=headers) as response:
                body = await response.read()
                assert response.status == status, body
                assert response.content_type == "application/json"
                assert int(response.headers["Retry-After"]) > 0
                assert response.headers["X-Request-ID"] == request_id
                assert wrong_with_error(status, body, request_id) is None


HIDDEN = "GET /ready HTTP/1.1\r\nHost: rag\r\nX-Request-ID: {}\r\n\r\n"
SMUGGLED = [
    # Both lengths: by one the hidden request is a body, by the other a request.
    "Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}",
    "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{chunk:x}\r\n{hidden}\r\n0\r\n\r\n",
    # Two lengths, and spellings of `Transfer-Encoding` that one side may take and the other not.
    "Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{hidden}",
    "Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n",
    "Transfer-Encoding : chunked\r\nContent-Length: {length}\r\n\r\n0\r\n\r\n{hidden}",
    "Transfer-Encoding:\tchunked, identity\r\nContent-Length: {length}\r\n\r\n0\r\n\r\n{hidden}",
    "X-Folded: a\r\n Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n0\r\n\r\n{hidden}",
]


@pytest.mark.parametrize("rest", SMUGGLED)
async def test_a_request_that_is_hidden_in_another_reaches_no_server(front: Front, rest: str) -> None:
    hidden_id, seen_id = f"hidden-{uuid4().hex}", uuid4().hex
    hidden = HIDDEN.format(hidden_id)
    text = rest.format(length=len(hidden) + 5, chunk=len(hidden), hidden=hidden)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.balancer.port)
    writer.write(f"POST /rag/search HTTP/1.1\r\nHost: rag\r\nContent-Type: application/json\r\n{text}".encode())
    async with asyncio.timeout(15):
        first = await reader.readuntil(b"\r\n")
        assert first.split()[1] in {b"400", b"401", b"501"}
    writer.close()
    # What comes afterwards, over the same connections to the servers, gets its own answer.
    for _ in range(6):
        async with front.session.get("/ready", headers={"X-Request-ID": seen_id}) as response:
            assert (response.status, response.headers["X-Request-ID"]) == (200, seen_id)
    await eventually(lambda: front.record_of(seen_id), "the request is in a log")
    assert front.record_of(hidden_id) == {}


async def test_a_softly_stopped_haproxy_lets_what_is_under_way_end(hosts: Hosts, tmp_path: Path) -> None:
    paced = Paced()
    hosts.cluster.models.on(CHAT, paced)
    body = {"model": "any", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    async with asyncio.timeout(30), balancers.needed("haproxy")(tmp_path, hosts.cluster.ports) as balancer:
        async with (
            aiohttp.ClientSession(balancer.url, headers=hosts.cluster.key.headers) as session,
            session.post(CHAT, json=body) as response,
        ):
            assert response.status == 200
            balancer.process.send_signal(signal.SIGUSR1)
            await eventually(lambda: not balancers.listens(balancer.port), "nobody new is taken")
            for _ in WORDS:
                paced.say()
            assert b"[DONE]" in await response.read()
        assert await balancer.process.wait() == 0
