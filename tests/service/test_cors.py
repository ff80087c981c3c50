"""Web pages of the configured origins may send and read everything, others nothing; by default there is no CORS."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hartonomous.pipelines.search import Searcher
from tests.service.application import RunningApp
from tests.service.fault_backend import reply, sse, stream
from tests.service.fetching import NetworkError, Page
from tests.service.keyed import KeyedRig, keyed
from tests.service.rag import CHAT, RigMaker, ingest

APP = "https://app.example.org"
DEV = "http://localhost:3000"
FOREIGN = "https://evil.example"
JSON = {"Content-Type": "application/json"}
SERVER: dict[str, Any] = {"cors": {"origins": (APP, DEV), "max_age_s": 77}, "max_body_bytes": 4096}


@pytest.fixture
async def it(rigs: RigMaker) -> AsyncIterator[KeyedRig]:
    """An application with keys and CORS."""
    async with keyed(rigs, server=SERVER) as made:
        yield made


def page(app: RunningApp, origin: str = APP, **options: Any) -> Page:
    return Page(app.session, app.url, origin, **options)


def _cors(headers: Any) -> list[str]:
    return [name for name in headers if name.lower().startswith("access-control-")]


async def test_by_default_there_is_no_cors(rigs: RigMaker) -> None:
    async with keyed(rigs) as it:
        for method, path in (("GET", "/health"), ("OPTIONS", "/rag/search"), ("POST", "/rag/search"), ("GET", "/no")):
            headers = {"Origin": APP, "Access-Control-Request-Method": "POST"}
            async with it.a.session.request(method, it.a.url + path, headers=headers) as response:
                assert not _cors(response.headers)
                assert "Vary" not in response.headers


async def test_a_page_sends_its_key_and_reads_the_answer(it: KeyedRig) -> None:
    await ingest(it.a, "The flask holds two litres.", collection=it.keys.a.collection)
    for headers in (it.keys.a.headers, {"X-API-Key": it.keys.a.text}):
        browser = page(it.rig.app)
        question = json.dumps({"query": "the flask", "collection": it.keys.a.collection})
        seen = await browser.fetch("/rag/search", "POST", {**JSON, **headers}, question)
        assert browser.preflights == [200]
        assert seen.status == 200
        assert json.loads(seen.body)["results"]
        assert seen.headers["X-Request-ID"]
        assert seen.headers["Server-Timing"]
    deleted = await page(it.rig.app).fetch(
        f"/rag/collections/{it.keys.a.collection}/documents/x", "DELETE", it.keys.a.headers
    )
    assert deleted.status == 204


async def test_openais_client_in_a_browser_gets_in(it: KeyedRig) -> None:
    names = (
        "x-stainless-lang",
        "x-stainless-package-version",
        "x-stainless-os",
        "x-stainless-arch",
        "x-stainless-runtime",
        "x-stainless-runtime-version",
        "x-stainless-retry-count",
        "x-stainless-timeout",
        "x-stainless-helper-method",
        "x-stainless-of-tomorrow",
        "openai-organization",
        "openai-project",
        "openai-beta",
        "idempotency-key",
        "user-agent",
        "x-request-id",
        "x-request-timeout-ms",
        "cache-control",
        "traceparent",
    )
    browser = page(it.rig.app)
    with pytest.raises(NetworkError):
        await browser.fetch("/v1/models", headers={**it.keys.a.headers, "X-Other": "1"})
    headers = {**it.keys.a.headers, **dict.fromkeys(names, "1000")}
    assert (await browser.fetch("/v1/models", headers=headers)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "data", "status"),
    [
        ("POST", "/rag/search", {**JSON}, "{}", 401),
        ("GET", "/rag/collections", {"X-API-Key": "wrong"}, None, 401),
        ("GET", "/v1/models", {"KEY": "powerless"}, None, 403),
        ("GET", "/nowhere", {"KEY": "a"}, None, 404),
        ("GET", "/nowhere", {}, None, 401),
        ("GET", "/rag/search", {"KEY": "a"}, None, 405),
        ("DELETE", "/rag/search", {"KEY": "a"}, None, 405),
        ("POST", "/rag/search", {**JSON, "KEY": "a"}, " " * 5000, 413),
        ("POST", "/rag/search", {"Content-Type": "text/plain", "KEY": "a"}, "x", 415),
        ("POST", "/rag/search", {**JSON, "KEY": "a"}, "{}", 422),
        ("GET", "/health", {}, None, 200),
    ],
)
async def test_a_page_reads_errors_as_well(
    it: KeyedRig, method: str, path: str, headers: dict[str, str], data: str | None, status: int
) -> None:
    sent = {name: value for name, value in headers.items() if name != "KEY"}
    if "KEY" in headers:
        sent |= getattr(it.keys, headers["KEY"]).headers
    seen = await page(it.rig.app).fetch(path, method, sent, data)
    assert seen.status == status, seen.body
    assert seen.headers["X-Request-ID"]


async def test_a_page_reads_that_a_service_is_busy_and_that_the_server_has_a_bug(
    it: KeyedRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    it.rig.generative.on(CHAT, reply(429, headers={"Retry-After": "7"}))
    seen = await page(it.rig.app).fetch("/v1/chat/completions", "POST", {**JSON, **it.keys.a.headers}, "{}")
    assert (seen.status, seen.headers["Retry-After"]) == (429, "7")

    async def bug(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(Searcher, "search", bug)
    question = json.dumps({"query": "x", "collection": it.keys.a.collection})
    seen = await page(it.rig.app).fetch("/rag/search", "POST", {**JSON, **it.keys.a.headers}, question)
    assert seen.status == 500


async def test_a_page_reads_streams(it: KeyedRig) -> None:
    await ingest(it.a, "The flask holds two litres.", collection=it.keys.a.collection)
    headers = {**JSON, **it.keys.a.headers}
    question = json.dumps({"query": "the flask", "collection": it.keys.a.collection, "stream": True, "max_tokens": 4})
    seen = await page(it.rig.app).fetch("/rag/query", "POST", headers, question)
    assert seen.headers["Content-Type"].startswith("text/event-stream")
    assert b"event: done" in seen.body


async def test_what_a_backend_says_of_cors_is_not_passed_on(it: KeyedRig) -> None:
    theirs = {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Expose-Headers": "*",
        "Vary": "Accept-Encoding",
    }
    for behaviour in (reply(200, b"{}", theirs), stream(sse(["a"]), headers=theirs), reply(400, b"{}", theirs)):
        it.rig.generative.on(CHAT, behaviour)
        headers = {**JSON, **it.keys.a.headers}
        seen = await page(it.rig.app).fetch("/v1/chat/completions", "POST", headers, '{"messages": []}')
        assert seen.status in {200, 400}
        async with it.a.session.post(it.a.url + CHAT, data="{}", headers={**JSON, "Origin": FOREIGN}) as response:
            assert not _cors(response.headers)
            assert response.headers["Vary"] == "Accept-Encoding, Origin"


async def test_a_preflight_is_told_what_it_asked_and_for_how_long(it: KeyedRig) -> None:
    asked = {
        "Origin": DEV,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    async with it.rig.app.session.options(it.rig.app.url + "/rag/query", headers=asked) as response:
        told = {name: response.headers[name] for name in _cors(response.headers)}
        assert set(told.pop("Access-Control-Allow-Headers").lower().split(",")) == {"authorization", "content-type"}
        assert told == {
            "Access-Control-Allow-Origin": DEV,
            "Access-Control-Allow-Methods": "POST",
            "Access-Control-Max-Age": "77",
        }
        assert response.headers["Vary"] == "Origin"
        assert await response.read() == b""


async def test_preflights_are_no_failed_authentications(rigs: RigMaker) -> None:
    limits = {"address": {"failed_authentications_per_minute": 1}}
    async with keyed(rigs, server=SERVER, limits=limits) as it:
        for _ in range(5):
            seen = await page(it.rig.app).fetch("/v1/models", headers=it.keys.a.headers)
            assert seen.status == 200


@pytest.mark.parametrize("origin", [FOREIGN, "null", f"{APP}:8443", APP.upper(), f"{APP}.evil.example", "*"])
async def test_a_page_of_another_origin_learns_nothing(it: KeyedRig, origin: str) -> None:
    foreign = page(it.rig.app, origin)
    with pytest.raises(NetworkError) as refused:
        await foreign.fetch("/v1/models", headers=it.keys.a.headers)
    assert refused.value.preflight
    assert foreign.preflights == [403]
    with pytest.raises(NetworkError) as refused:
        await foreign.fetch("/health")
    assert not refused.value.preflight
    headers = {**it.keys.a.headers, "Origin": origin}
    async with it.rig.app.session.get(it.rig.app.url + "/v1/models", headers=headers) as response:
        assert response.status == 200, "who has a key is served, whatever page sends it"
        assert not _cors(response.headers)


async def test_every_answer_varies_by_origin(it: KeyedRig) -> None:
    for origin in ({}, {"Origin": APP}, {"Origin": FOREIGN}):
        for method, path in (
            ("GET", "/health"),
            ("GET", "/nowhere"),
            ("GET", "/metrics"),
            ("POST", "/rag/search"),
            ("OPTIONS", "/rag/search"),
            ("GET", "/rag/search"),
        ):
            async with it.operator.session.request(method, it.operator.url + path, headers=origin) as response:
                assert response.headers["Vary"] == "Origin", (method, path)


async def test_an_options_that_is_no_preflight_is_a_method_that_is_not_taken(it: KeyedRig) -> None:
    for headers in ({}, {"Origin": APP}, {"Access-Control-Request-Method": "POST"}):
        async with it.a.session.options(it.a.url + "/rag/search", headers=headers) as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(("method", "path"), [("GET", "/metrics"), ("POST", "/admin/sweep"), ("GET", "/admin/nowhere")])
async def test_the_operators_side_is_not_for_pages(it: KeyedRig, method: str, path: str) -> None:
    with pytest.raises(NetworkError) as refused:
        await page(it.rig.app).fetch(path, method, it.keys.operator.headers)
    assert refused.value.preflight
    async with it.operator.session.request(method, it.operator.url + path, headers={"Origin": APP}) as response:
        assert not _cors(response.headers)


async def test_a_named_page_of_the_internet_gets_into_a_private_network(it: KeyedRig) -> None:
    assert (await page(it.rig.app, private_network=True).fetch("/v1/models", headers=it.keys.a.headers)).status == 200
    with pytest.raises(NetworkError):
        await page(it.rig.app, FOREIGN, private_network=True).fetch("/v1/models", headers=it.keys.a.headers)


async def test_without_keys_a_named_page_gets_in_and_no_other(rigs: RigMaker) -> None:
    async with rigs.make(server=SERVER) as rig:
        assert (await page(rig.app).fetch("/v1/models", headers={"X-Request-ID": "a"})).status == 200
        for origin in (FOREIGN, "null"):
            headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
            async with rig.app.session.get(rig.app.url + "/v1/models", headers=headers) as response:
                assert response.status == 403
                assert not _cors(response.headers)
        for headers in (
            {"Sec-Fetch-Site": "cross-site"},
            {"Origin": APP, "Host": "evil.example"},
            {"Origin": APP, "X-Forwarded-For": "192.0.2.1"},
        ):
            async with rig.app.session.get(rig.app.url + "/v1/models", headers=headers) as response:
                assert response.status == 403


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/admin/sweep"), ("POST", "/admin/config/reload"), ("GET", "/admin/logs")]
)
async def test_without_keys_the_operators_side_is_closed_to_a_named_page(
    rigs: RigMaker, method: str, path: str
) -> None:
    """Not one of these needs a preflight."""
    async with rigs.make(server=SERVER) as rig:
        response = await rig.app.session.request(method, rig.app.url + path, headers={"Origin": APP})
        assert (response.status, (await response.json())["error"]["code"]) == (403, "local_only")


async def test_a_reload_lets_other_pages_in(rigs: RigMaker, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    async with keyed(rigs, file) as it:
        with pytest.raises(NetworkError):
            await page(it.rig.app).fetch("/v1/models", headers=it.keys.a.headers)
        told = it.rig.config.model_dump(mode="json")
        told["server"]["cors"]["origins"] = [APP]
        told["auth"] = json.loads(json.dumps(it.keys.section()))
        file.write_text(yaml.safe_dump(told), encoding="utf-8")
        assert (await it.operator.post("/admin/config/reload", None))[1]["changed"] == ["server.cors.origins"]
        assert (await page(it.rig.app).fetch("/v1/models", headers=it.keys.a.headers)).status == 200
        with pytest.raises(NetworkError):
            await page(it.rig.app, DEV).fetch("/v1/models", headers=it.keys.a.headers)
