"""Every error has one shape, names its request and tells nothing of the inside."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from hartonomous import log
from tests.service.application import ConfigMaker, RunningApp, running

JSON = {"Content-Type": "application/json"}
LIMIT = 4096
# What no error may hold: file names and lines, modules, representations, libraries, addresses of backends.
INSIDE = re.compile(
    r"\.py|line \d+, in|site-packages|Traceback|<class|object at 0x|aiohttp|pydantic|orjson|httpx|qdrant_|127\.0\.0\.1:"
)


@pytest.fixture
async def app(make_config: ConfigMaker) -> AsyncIterator[RunningApp]:
    """The application with a small limit on bodies."""
    async with running(make_config(server={"max_body_bytes": LIMIT})) as running_app:
        yield running_app


async def _send(app: RunningApp, method: str, path: str, **options: Any) -> tuple[int, Any, Any]:
    async with app.session.request(method, app.url + path, **options) as response:
        assert response.content_type == "application/json"
        body = await response.read()
        assert not INSIDE.search(body.decode())
        answer = await response.json()
        assert set(answer) >= {"error", "request_id"}
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        assert answer["error"]["message"]
        assert answer["request_id"] == response.headers["X-Request-ID"]
        return response.status, answer["error"], response.headers


ROUTES = ("/v1/chat/completions", "/v1/embeddings", "/v1/rerank", "/rag/search", "/rag/query", "/rag/ingest")


async def test_an_unmatched_path(app: RunningApp) -> None:
    for path in ("/", "/nowhere", "/v1", "/v1/chat/completions/", "//health", "/health/../nowhere", "/%2e%2e/etc"):
        status, error, _ = await _send(app, "GET", path)
        assert (status, error["type"], error["code"]) == (404, "not_found_error", "path_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/health", "GET, HEAD"),
        ("PUT", "/rag/collections/docs/documents/a", "DELETE, GET"),
        ("OPTIONS", "/rag/query", "POST"),
    ],
)
async def test_a_wrong_method_tells_the_right_ones(app: RunningApp, method: str, path: str, allow: str) -> None:
    status, error, headers = await _send(app, method, path)
    assert (status, error["type"], headers["Allow"]) == (405, "invalid_request_error", allow)


@pytest.mark.parametrize("path", ROUTES)
async def test_a_body_over_the_limit_is_refused_with_and_without_a_length(app: RunningApp, path: str) -> None:
    async def unknown_length() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b" " * 1024

    for data in (b" " * (LIMIT + 1), unknown_length()):
        status, error, _ = await _send(app, "POST", path, data=data, headers=JSON)
        assert (status, error["type"], error["code"]) == (413, "invalid_request_error", "payload_too_large")


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": ";;;"},
        JSON | {"Content-Encoding": "gzip"},
    ],
)
async def test_another_content_type_or_a_compressed_body_is_refused(
    app: RunningApp, path: str, headers: dict[str, str]
) -> None:
    # The bytes need not be gzip: nobody may open them.
    async with app.session.post(app.url + path, data=b"{}", headers=headers) as response:
        answer = await response.json()
    assert (response.status, answer["error"]["type"]) == (415, "invalid_request_error")


MALFORMED = {
    "cut": b'{"query": ',
    "empty": b"",
    "NaN": b'{"query": NaN}',
    "Infinity": b'{"query": Infinity}',
    "overflow": b'{"query": 1e400}',
    "lone surrogate": b'{"query": "\\ud800"}',
    "invalid UTF-8": b'{"query": "\xff"}',
    "too deep": b"[" * 2000 + b"]" * 2000,
    "trailing": b"{} {}",
    "single quotes": b"{'a': 1}",
    "comment": b"{} // x",
    "BOM": b"\xef\xbb\xbf{}",
    "4,000 digits": b"9" * 4_000,
    "UTF-16": '{"query": "a"}'.encode("utf-16"),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("path", ROUTES[2:])
async def test_malformed_json_is_a_400(app: RunningApp, path: str, body: bytes) -> None:
    status, error, _ = await _send(app, "POST", path, data=body, headers=JSON)
    assert (status, error["type"], error["code"]) == (400, "invalid_request_error", "invalid_json")


@pytest.mark.parametrize("path", ROUTES[2:])
@pytest.mark.parametrize("body", [b"[]", b"null", b"7", b'"text"', b"{}"])
async def test_json_of_another_shape_is_a_422(app: RunningApp, path: str, body: bytes) -> None:
    status, error, _ = await _send(app, "POST", path, data=body, headers=JSON)
    assert (status, error["type"]) == (422, "invalid_request_error")


@pytest.mark.parametrize("value", ["", "0", "-1", "1.5", "abc", "9" * 13, "\u0661", "1e3"])
async def test_a_malformed_timeout_header_is_a_400(app: RunningApp, value: str) -> None:
    status, error, _ = await _send(app, "POST", "/rag/search", json={}, headers={"X-Request-Timeout-Ms": value})
    assert (status, error["param"]) == (400, "X-Request-Timeout-Ms")


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a/b", "é", "a,b"])
async def test_a_malformed_request_id_is_replaced(app: RunningApp, given: str) -> None:
    _, _, headers = await _send(app, "GET", "/nowhere", headers={"X-Request-ID": given})
    assert re.fullmatch(r"[0-9a-f]{32}", headers["X-Request-ID"])


async def test_a_well_formed_request_id_is_kept(app: RunningApp) -> None:
    given = "A-z_0.9" + "x" * 121
    _, _, headers = await _send(app, "GET", "/nowhere", headers={"X-Request-ID": given})
    assert headers["X-Request-ID"] == given


@pytest.mark.parametrize("path", ROUTES[3:5])
async def test_a_bug_is_a_500_that_tells_nothing_and_a_record_that_tells_all(
    app: RunningApp, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        secret = "sk-inside"  # noqa: F841 - the value of a variable must not be logged
        raise KeyError("no such inner thing")

    monkeypatch.setattr(type(app.runtime.searcher), "search", broken)
    records: list[Any] = []
    sink = log.logger.add(lambda message: records.append(message.record), level="ERROR", diagnose=False)
    try:
        status, error, headers = await _send(app, "POST", path, json={"query": "x"})
    finally:
        log.logger.remove(sink)
    assert (status, error) == (
        500,
        {"message": "An internal error occurred.", "type": "internal_error", "param": None, "code": "internal_error"},
    )
    (record,) = records
    assert record["extra"]["request_id"] == headers["X-Request-ID"]
    line = log.format_record(record)
    assert "no such inner thing" in line
    assert "in broken" in line
    assert "sk-inside" not in line.replace('secret = "sk-inside"', "").replace('secret = \\"sk-inside\\"', "")


async def test_an_error_of_a_backend_names_it_and_nothing_else(make_config: ConfigMaker) -> None:
    down: dict[str, Any] = {"urls": ("http://127.0.0.1:9",)}
    backends = {"generative": down, "embedding": down, "qdrant": {"url": "http://127.0.0.1:9"}}
    async with running(make_config(backends=backends)) as app:
        for path in ROUTES:
            if path == "/v1/rerank":
                continue
            body = {"query": "x", "documents": [{"text": "x"}], "messages": []}
            body = {"documents": body["documents"]} if path == "/rag/ingest" else body
            body = {"query": "x"} if path in {"/rag/search", "/rag/query"} else body
            status, error, headers = await _send(app, "POST", path, json=body)
            assert (status, error["type"]) == (503, "backend_unavailable")
            assert int(headers["Retry-After"]) >= 1


LOCAL_ONLY = (403, "permission_error", "local_only")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8700"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "10.0.0.1"},
        {"Host": "0.0.0.0"},
        {"Host": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://[::1"},
        {"Origin": "file://"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-Host": "localhost"},
        {"X-Forwarded-Proto": "https"},
        {"X-Real-IP": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"Via": "1.1 proxy"},
    ],
)
async def test_without_keys_what_comes_from_outside_is_refused(app: RunningApp, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/health"), ("POST", "/rag/ingest"), ("GET", "/metrics"), ("GET", "/nowhere")):
        status, error, _ = await _send(app, method, path, headers=headers)
        assert (status, error["type"], error["code"]) == LOCAL_ONLY


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", "localhost:8700", "127.0.0.1", "127.0.0.1:80", "127.1.2.3", "[::1]", "[::1]:8700"],
)
async def test_without_keys_local_names_are_served(app: RunningApp, host: str) -> None:
    for origin in ({}, {"Origin": f"http://{host}"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
        async with app.session.get(app.url + "/health", headers={"Host": host, **origin}) as response:
            assert response.status == 200


async def test_one_foreign_origin_among_several_is_enough(app: RunningApp) -> None:
    headers = [("Origin", app.url), ("Origin", "https://evil.example")]
    async with app.session.get(app.url + "/health", headers=headers) as response:
        assert response.status in {400, 403}
