"""Broken and hostile HTTP over raw sockets: refused and closed, never a 500, never a hang, and the server serves on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from tests.service.application import ConfigMaker, RunningApp, running

HOST = b"Host: 127.0.0.1\r\n"
GET = b"GET /health HTTP/1.1\r\n" + HOST
POST = b"POST /v1/rerank HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b'{"query":"a","documents":["b"]}'


@pytest.fixture
async def app(make_config: ConfigMaker) -> AsyncIterator[RunningApp]:
    """The application."""
    async with running(make_config()) as running_app:
        yield running_app


async def _exchange(app: RunningApp, data: bytes, *, finish: bool = False) -> bytes:
    """Send bytes and return all that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(app.url).port, limit=1 << 24)
    try:
        writer.write(data)
        if finish:
            writer.write_eof()
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


REFUSED = {
    "length and chunked": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "length +5": POST + b"Content-Length: +5\r\n\r\nabcde",
    "length -1": POST + b"Content-Length: -1\r\n\r\n",
    "length 1_0": POST + b"Content-Length: 1_0\r\n\r\nabcdeabcde",
    "length 0x10": POST + b"Content-Length: 0x10\r\n\r\n",
    "length 5, 5": POST + b"Content-Length: 5, 5\r\n\r\nabcde",
    "length without a number": POST + b"Content-Length:\r\n\r\n",
    "length beyond 64 bits": POST + b"Content-Length: 99999999999999999999\r\n\r\n",
    "space before the colon": POST + b"Content-Length : 5\r\n\r\nabcde",
    "xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunk size 0_2e": CHUNKED + b"0_2e\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk size 0x5": CHUNKED + b"0x5\r\nabcde\r\n0\r\n\r\n",
    "chunk size -1": CHUNKED + b"-1\r\n",
    "chunk longer than its size": CHUNKED + b"5\r\nabcdeXX0\r\n\r\n",
    "bare LF": b"GET /health HTTP/1.1\nHost: 127.0.0.1\n\n",
    "CR in a value": GET + b"X: a\rb\r\n\r\n",
    "NUL in a value": GET + b"X: a\x00b\r\n\r\n",
    "folded header": GET + b"X: a\r\n b\r\n\r\n",
    "two hosts": GET + HOST + b"\r\n",
    "two different hosts": GET + b"Host: evil.example\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "byte 0xFF in a name": GET + b"\xffX: a\r\n\r\n",
    "129 headers": GET + b"".join(b"X%d: a\r\n" % number for number in range(129)) + b"\r\n",
    "a header line of 9 KB": GET + b"X: " + b"a" * 9_000 + b"\r\n\r\n",
    "a target of 9 KB": b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "raw bytes in the path": b"GET /v1/models/\xff HTTP/1.1\r\n" + HOST + b"\r\n",
    "a broken absolute target": b"GET http://[::1/health HTTP/1.1\r\n" + HOST + b"\r\n",
    "another HTTP": b"GET /health HTTP/3.0\r\n" + HOST + b"\r\n",
    "HTTP/2 by prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "an invented method": b"G@T /health HTTP/1.1\r\n" + HOST + b"\r\n",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
async def test_broken_framing_is_a_400_and_closed(app: RunningApp, data: bytes) -> None:
    answer = await _exchange(app, data)
    assert answer[9:12] == b"400"
    assert b"200 OK" not in answer
    assert (await app.get("/health"))[0] == 200


@pytest.mark.parametrize(
    "data",
    [
        CHUNKED + b"5\r\nabcde\r\nzz\r\n",
        CHUNKED + b"5\r\nabcde",
        CHUNKED,
        POST + b"Content-Length: 500\r\n\r\n{}",
        POST + b"Content-Length: 500\r\n\r\n",
        POST + b"Content-Le",
        GET,
        b"\r\n\r\n\r\n",
        CHUNKED + b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY) + b"T: a\r\n" * 100_000,
    ],
)
async def test_a_request_cut_off_ends_its_connection_and_is_no_bug(
    app: RunningApp, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = await _exchange(app, data, finish=True)
    assert answer[9:12] in {b"", b"400"}
    errors = 'hartonomous_http_requests_total{method="POST",route="/v1/rerank",status="500"}'
    assert await app.metric(errors) == 0
    assert "unhandled" not in capsys.readouterr().err


async def test_pipelined_requests_are_answered_in_order(app: RunningApp) -> None:
    request = b"GET /nowhere HTTP/1.1\r\n" + HOST + b"X-Request-ID: r%d\r\n\r\n"
    last = b"GET /nowhere HTTP/1.1\r\n" + HOST + b"Connection: close\r\nX-Request-ID: r999\r\n\r\n"
    answer = await _exchange(app, b"".join(request % number for number in range(999)) + last)
    ids = [line.partition(b": ")[2] for line in answer.split(b"\r\n") if line.startswith(b"X-Request-ID")]
    assert ids == [b"r%d" % number for number in range(1000)]


@pytest.mark.parametrize(
    "path", ["%ED%A0%80", "%ff", "%00", "%zz", "..%2f..%2fetc%2fpasswd", "a" * 5_000, "%0d%0aX:%20y"]
)
@pytest.mark.parametrize(
    "template",
    [
        "/v1/models/{}",
        "/rag/collections/{}/documents",
        "/rag/collections/docs/documents/{}",
        "/rag/collections/docs/documents?cursor={}",
        "/rag/collections/docs/documents?limit={}",
    ],
)
async def test_odd_paths_and_queries_are_the_callers_fault(app: RunningApp, template: str, path: str) -> None:
    target = template.format(path).encode()
    answer = await _exchange(app, b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    assert answer[9:12] in {b"400", b"404", b"422"}
    assert b"\r\nX: y" not in answer


async def test_a_health_check_of_http_1_0_without_a_host_is_answered(app: RunningApp) -> None:
    assert (await _exchange(app, b"GET /health HTTP/1.0\r\n\r\n"))[9:12] == b"200"
    foreign = b"GET http://evil.example/health HTTP/1.0\r\n\r\n"
    assert (await _exchange(app, foreign))[9:12] == b"403"


async def test_an_absolute_target_of_another_host_is_refused(app: RunningApp) -> None:
    request = b"GET http://evil.example/health HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
    assert (await _exchange(app, request))[9:12] == b"403"


async def test_an_expectation_that_cannot_be_met_is_a_417_with_its_id(app: RunningApp) -> None:
    request = POST + b"Expect: magic\r\nX-Request-ID: mine\r\nContent-Length: 31\r\nConnection: close\r\n\r\n" + BODY
    answer = await _exchange(app, request)
    assert answer[9:12] == b"417"
    assert b"X-Request-ID: mine" in answer


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text; version=x", "application/openmetrics-text;;,,=;q=z", ";", "*/*", "é"]
)
async def test_an_odd_accept_header_still_gets_metrics(app: RunningApp, accept: str) -> None:
    async with app.session.get(app.url + "/metrics", headers={"Accept": accept}) as response:
        assert response.status == 200
