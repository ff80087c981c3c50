"""An answer in one write says what aiohttp's own would say, and goes that way wherever it is out of the ordinary."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from hartonomous.handlers.whole import Whole

BODY = b'{"a": 1}'
SAID = "X-Request-ID: one\r\nRateLimit-Limit: 5\r\n"
HEADERS = {"Content-Type": "application/json", "X-Backend": "b"}


async def _asked(response: web.Response, request: str) -> tuple[str, set[str], bytes]:
    """Return the first line, the headers but the date, and the body of what a server answers; raise what it raises."""
    raised: list[ValueError] = []

    async def answer(request: web.Request) -> web.Response:
        try:
            await response.prepare(request)
        except ValueError as error:
            raised.append(error)
            request.protocol.force_close()
        return response

    app = web.Application()
    app.router.add_get("/", answer)
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            writer.write(request.encode() + b"\r\nHost: h\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            told = dict(line.split(": ", 1) for line in lines)
            body = b"" if request.startswith("HEAD") else await reader.readexactly(int(told["Content-Length"]))
        except asyncio.IncompleteReadError:
            raise raised[0] from None
        finally:
            writer.close()
            await writer.wait_closed()
    assert told.pop("Date").endswith(" GMT")
    return first, {f"{name}: {value}" for name, value in told.items()}, body


def _whole(headers: Mapping[str, str] = HEADERS, status: int = 200) -> Whole:
    response = Whole(BODY, status=status, headers=headers)
    response.said = SAID
    return response


@pytest.mark.parametrize("headers", [HEADERS, {}, HEADERS | {"Content-Length": str(len(BODY))}])
@pytest.mark.parametrize("status", [200, 404])
async def test_it_says_what_aiohttp_says_and_what_is_said_of_every_answer(
    headers: Mapping[str, str], status: int
) -> None:
    first, told, body = await _asked(_whole(headers, status), "GET / HTTP/1.1")
    known = await _asked(web.Response(status=status, body=BODY, headers=headers), "GET / HTTP/1.1")
    assert (first, told - set(SAID.split("\r\n")), body) == known
    assert set(SAID.split("\r\n")[:-1]) <= told


@pytest.mark.parametrize("request_line", ["GET / HTTP/1.0", "HEAD / HTTP/1.1", "GET / HTTP/1.1\r\nConnection: close"])
async def test_what_is_out_of_the_ordinary_goes_the_way_of_aiohttp(request_line: str) -> None:
    known = await _asked(web.Response(body=BODY, headers=HEADERS), request_line)
    assert await _asked(_whole(), request_line) == known


@pytest.mark.parametrize("value", ["a\r\nX-Forged: 1", "a\nb", "a\rb", "a\0b"])
async def test_a_header_that_ends_its_line_is_not_sent(value: str) -> None:
    with pytest.raises(ValueError, match="Forbidden control character"):
        await _asked(_whole(HEADERS | {"X-Backend": value}), "GET / HTTP/1.1")
