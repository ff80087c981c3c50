"""Requests that no server answers: malformed ones, and those before servers that break off or say nothing."""

from __future__ import annotations

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from tests.chaos.contract import TYPES, wrong_with_error, wrong_with_object
from tests.hosts import balancers

FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"
NOBODY = (9, 9, 9)


class Odd:
    """Servers that are ready, and break off (`/breaks`) or say nothing (`/hangs`) when they are asked something."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.asked: Counter[str] = Counter()

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Answer a connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                method, path, _ = head.decode().split(" ", 2)
                self.asked[f"{method} {path}"] += path != "/ready"
                if path == "/breaks":
                    break
                if path == "/hangs":
                    await reader.read()
                writer.write(FINE)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def odd() -> AsyncIterator[Odd]:
    servers = Odd()
    async with AsyncExitStack() as stack:
        for _ in range(3):
            server = await stack.enter_async_context(await asyncio.start_server(servers.serve, "127.0.0.1", 0))
            servers.ports.append(server.sockets[0].getsockname()[1])
        yield servers


async def answer_to(port: int, *pieces: bytes) -> tuple[int, dict[str, str], Any]:
    """Return status, fields and body of the answer to a request as it is sent, a moment between its pieces."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0.2)
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(fields["content-length"]))
    writer.close()
    is_json = fields["content-type"] == "application/json"
    return int(head[0].split()[1]), fields, json.loads(body) if is_json else body


MALFORMED = {
    "a line that is too long": (414, b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: rag\r\n\r\n"),
    "a head that is too long": (400, b"GET / HTTP/1.1\r\nHost: rag\r\nX-Long: " + b"a" * 40_000 + b"\r\n\r\n"),
    "TRACE": (405, b"TRACE / HTTP/1.1\r\nHost: rag\r\n\r\n"),
    "CONNECT": (400, b"CONNECT rag:1 HTTP/1.1\r\nHost: rag:1\r\n\r\n"),
    "an unknown encoding": (501, b"POST / HTTP/1.1\r\nHost: rag\r\nTransfer-Encoding: xchunked\r\n\r\n"),
    "another HTTP": (505, b"GET / HTTP/3.0\r\nHost: rag\r\n\r\n"),
    "no HTTP": (400, b"GET / SPDY\r\n\r\n"),
    "no chunk": (400, b"POST / HTTP/1.1\r\nHost: rag\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"),
    "plain HTTP where TLS is": (400, b"GET / HTTP/1.1\r\nHost: rag\r\n\r\n"),
}


async def test_nginx_says_what_is_wrong_with_a_request_in_the_shape_of_all_errors(tmp_path: Path) -> None:
    async with balancers.needed("nginx")(tmp_path, NOBODY) as balancer:
        for name, (wanted, request) in MALFORMED.items():
            port = int(balancer.tls_url.rpartition(":")[2]) if "TLS" in name else balancer.port
            status, fields, body = await answer_to(port, request)
            assert (status, set(body)) == (wanted, {"error", "request_id"}), name
            assert wrong_with_object(body["error"], status if status in TYPES else None) is None, name
            assert fields["x-request-id"] == body["request_id"]


async def test_haproxy_says_what_is_wrong_with_a_body_in_the_shape_of_all_errors(odd: Odd, tmp_path: Path) -> None:
    head = b"POST /hangs HTTP/1.1\r\nHost: rag\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"
    async with balancers.needed("haproxy")(tmp_path, odd.ports) as balancer:
        status, fields, body = await answer_to(balancer.port, head, b"zz\r\n\r\n")
    assert status == 400
    assert wrong_with_object(body["error"], 400) is None
    assert fields["x-request-id"] == body["request_id"]


@pytest.mark.parametrize(
    ("status", "request_"), [(400, MALFORMED["a line that is too long"][1]), (408, b"GET / HTTP/1.1\r\nHost: rag\r\n")]
)
async def test_what_haproxy_answers_before_there_is_a_request_is_its_own_as_its_file_says(
    status: int, request_: bytes, tmp_path: Path
) -> None:
    sooner = {"timeout http-request 10s": "timeout http-request 500ms"}
    async with balancers.needed("haproxy")(tmp_path, NOBODY, changes=sooner) as balancer:
        answered, fields, _ = await answer_to(balancer.port, request_)
    assert (answered, fields["content-type"]) == (status, "text/html")


SOONER = {
    "haproxy": {"timeout server 330s": "timeout server 1s"},
    "nginx": {"proxy_read_timeout 330s": "proxy_read_timeout 1s"},
}


@pytest.mark.parametrize(("path", "status"), [("/breaks", 502), ("/hangs", 504)])
@pytest.mark.parametrize("name", ["haproxy", "nginx"])
async def test_a_server_that_breaks_off_or_says_nothing_is_told_in_the_shape_of_all_errors(
    odd: Odd, name: str, path: str, status: int, tmp_path: Path
) -> None:
    request_id = uuid4().hex
    async with (
        balancers.needed(name)(tmp_path, odd.ports, changes=SOONER[name]) as balancer,
        aiohttp.ClientSession(balancer.url, headers={"X-Request-ID": request_id}) as session,
        session.post(path, json={}) as response,
    ):
        assert response.status == status
        assert wrong_with_error(status, await response.read(), request_id) is None
        assert response.headers["X-Request-ID"] == request_id


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("name", ["haproxy", "nginx"])
async def test_what_may_have_had_its_effect_is_not_sent_again_and_takes_no_server_away(
    odd: Odd, name: str, method: str, tmp_path: Path
) -> None:
    async with (
        balancers.needed(name)(tmp_path, odd.ports) as balancer,
        aiohttp.ClientSession(balancer.url) as session,
    ):
        async with session.request(method, "/breaks", data=b"body") as response:
            assert response.status == 502
        assert odd.asked[f"{method} /breaks"] == 1
        for _ in range(6):
            async with session.request(method, "/fine") as response:
                assert (response.status, await response.read()) == (200, b"fine")
        assert odd.asked[f"{method} /fine"] == 6


async def test_a_get_that_no_server_survives_takes_none_away(odd: Odd, tmp_path: Path) -> None:
    """nginx asks the others as well: a GET has no effect."""
    async with (
        balancers.needed("nginx")(tmp_path, odd.ports) as balancer,
        aiohttp.ClientSession(balancer.url) as session,
    ):
        async with session.get("/breaks") as response:
            assert response.status == 502
        assert odd.asked["GET /breaks"] == 3
        async with session.get("/fine") as response:
            assert response.status == 200
