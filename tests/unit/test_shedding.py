"""Which requests are refused from their bytes alone."""

from __future__ import annotations

import pytest

from hartonomous.shedding import _headers


def head(*lines: bytes) -> bytes:
    return b"\r\n".join((b"", b"Host: here", b"Content-Length: 2", *lines, b"", b""))


@pytest.mark.parametrize(
    "line", [b"Connection: Keep-Alive", b"X-Request-Id:  mine ", b"X-Content-Length: 7", b"X-Forwarded-For: 10.0.0.1"]
)
def test_a_plain_request_is_read(line: bytes) -> None:
    headers = _headers(head(line))
    assert headers is not None
    assert headers[b"content-length"] == b"2"
    assert headers.get(b"x-request-id", b"mine") == b"mine"


@pytest.mark.parametrize(
    "line",
    [
        b"content-length: 3",
        b"Transfer-Encoding: chunked",
        b"Expect: 100-continue",
        b"Upgrade: websocket",
        b"Origin: https://example.org",
        b"Connection: close",
    ],
)
def test_one_that_ends_somewhere_else_or_needs_another_answer_goes_the_usual_way(line: bytes) -> None:
    assert _headers(head(line)) is None
