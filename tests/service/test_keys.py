"""Who comes in with a key, and who does not: over real sockets, byte by byte where that counts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hartonomous.app import OPERATIONS
from tests.service.keyed import Key, KeyedRig, asking, keyed
from tests.service.rag import RigMaker, ingest

NO_LIMIT = {"address": {"failed_authentications_per_minute": None}}
EXPIRED = Key("expired", ("query",), ("*",), options={"expires": "2020-01-01"})
ENDLESS = Key("endless", ("query",), ("*",), options={"expires": "9999-12-31"})
SEARCH = b'{"query": "limes"}'


@pytest.fixture
async def it(rigs: RigMaker) -> AsyncIterator[KeyedRig]:
    """The application with the tests' keys, and two that expire."""
    async with keyed(rigs, more=(EXPIRED, ENDLESS), limits=NO_LIMIT) as made:
        yield made


async def _exchange(it: KeyedRig, request: bytes) -> bytes:
    """Send bytes on a connection of their own, and return all that is answered until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(it.rig.app.url.rpartition(":")[2]))
    try:
        writer.write(request)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


def _request(*headers: bytes, target: bytes = b"/rag/search", method: bytes = b"POST", body: bytes = SEARCH) -> bytes:
    own = (b"Host: 127.0.0.1", b"Connection: close", b"X-Request-ID: mine", b"Content-Length: %d" % len(body))
    return b"\r\n".join((method + b" " + target + b" HTTP/1.1", *own, *headers, b"", body))


def _bearer(key: str) -> bytes:
    return b"Authorization: Bearer " + key.encode()


def _status(answer: bytes) -> int:
    return int(answer[9:12])


async def test_a_tenant_reaches_its_own_collections_and_no_others(it: KeyedRig) -> None:
    for app, key in ((it.a, it.keys.a), (it.b, it.keys.b), (it.c, it.keys.c)):
        await ingest(app, "Limes are green.", collection=key.collection)
        status, answer = await app.post("/rag/search", {"query": "limes", "collection": key.collection})
        assert (status, len(answer["results"])) == (200, 1)


async def test_every_key_that_is_none_gets_the_same_answer(it: KeyedRig) -> None:
    """No key, and unknown, revoked, expired, malformed, foreign and enormous ones: byte by byte but for the date."""
    key = it.keys.a
    tampered = key.text[:20] + ("x" if key.text[20] != "x" else "y") + key.text[21:]
    wrong = [
        Key("nobody", ("query",)).text,
        Key(key.id, secret="before it was changed").text,
        EXPIRED.text,
        tampered,
        key.text[:-1],
        key.text + "0",
        key.text.upper(),
        key.text.replace("hart_", "sk-", 1),
        f"hart_{key.id}_" + "0" * 7_000,
        "é" * 40,
        "",
        "null",
        key.entry["hash"],
    ]
    headers: list[tuple[bytes, ...]] = [(), *((_bearer(text),) for text in wrong)]
    headers += [(b"X-API-Key: " + text.encode(),) for text in wrong]
    headers += [
        (b"Authorization: Bearer \xff\xfe" + key.text.encode(),),
        (b"Authorization: Basic " + key.text.encode(),),
        (b"Authorization: " + key.text.encode(),),
        (b"Authorization: BearerX " + key.text.encode(),),
        (b"Authorization: Bearer",),
        (b"Cookie: api_key=" + key.text.encode(),),
        (b"Proxy-Authorization: Bearer " + key.text.encode(),),
    ]
    answers = {re.sub(rb"Date: [^\r]*", b"", await _exchange(it, _request(*each))) for each in headers}
    assert len(answers) == 1
    (answer,) = answers
    assert _status(answer) == 401
    assert b"\r\nWWW-Authenticate: Bearer\r\n" in answer
    assert b'"type":"authentication_error","param":null,"code":"invalid_api_key"' in answer


@pytest.mark.parametrize("name", [b"api_key", b"key", b"access_token", b"apikey", b"X-API-Key", b"Authorization"])
async def test_a_key_in_the_query_string_is_none(it: KeyedRig, name: bytes) -> None:
    target = b"/rag/search?" + name + b"=" + it.keys.a.text.encode()
    assert _status(await _exchange(it, _request(target=target))) == 401


async def test_a_key_comes_in_either_header_or_in_both(it: KeyedRig) -> None:
    key = ENDLESS.text.encode()
    own, bearer = b"X-API-Key: " + key, b"Authorization: Bearer " + key
    for headers in (
        (own,),
        (bearer,),
        (own, bearer),
        (bearer, bearer),
        (own, own),
        (b"authorization: bEARER   " + key + b"  ",),
        (b"Authorization: Basic dXNlcjpwYXNz", own),  # as a proxy asks for it
        (bearer, b"X-API-Key:"),
        (b"Authorization: Bearer", own),
    ):
        assert _status(await _exchange(it, _request(*headers, target=b"/v1/models", method=b"GET", body=b""))) == 200


async def test_different_keys_are_a_bad_request_whether_they_are_right_or_wrong(it: KeyedRig) -> None:
    key, other, wrong = (_bearer(key.text) for key in (it.keys.a, it.keys.b, Key("nobody")))
    for headers in (
        (key, other),
        (key, wrong),
        (wrong, key),
        (key, b"X-API-Key: " + it.keys.b.text.encode()),
        (key, b"Authorization: Basic dXNlcjpwYXNz"),
        (b"X-API-Key: " + it.keys.a.text.encode(), b"X-API-Key: " + it.keys.b.text.encode()),
    ):
        answer = await _exchange(it, _request(*headers))
        assert _status(answer) == 400
        assert b'"code":"different_keys"' in answer


async def test_a_key_without_the_scope_is_refused_with_403(it: KeyedRig) -> None:
    async with asking(it.rig.app, it.keys.metrics) as metrics, asking(it.rig.app, it.keys.powerless) as powerless:
        assert (await metrics.session.get(metrics.url + "/metrics")).status == 200
        for app, method, path in (
            (metrics, "POST", "/rag/search"),
            (powerless, "GET", "/metrics"),
            (powerless, "GET", "/rag/collections"),
            (powerless, "POST", "/rag/ingest"),
            (it.a, "GET", "/metrics"),
            (it.a, "POST", "/admin/config/reload"),
            (it.a, "POST", "/admin/sweep"),
            (it.a, "DELETE", f"/rag/collections/{it.keys.a.collection}"),
        ):
            async with app.session.request(method, app.url + path) as response:
                answer = await response.json()
            assert (response.status, answer["error"]["type"]) == (403, "permission_error")
            assert answer["error"]["code"] == "scope_missing"


async def test_every_route_but_the_open_ones_needs_a_key(it: KeyedRig) -> None:
    for operation in OPERATIONS:
        path = re.sub(r"\{\w+\}", "x", operation.path)
        async with it.rig.app.session.request(operation.method, it.rig.app.url + path) as response:
            is_open = operation.path in {"/health", "/ready", "/openapi.json"}
            assert (response.status == 401) is not is_open, operation.path


@pytest.mark.parametrize(
    ("method", "path", "without", "with_key"),
    [
        ("GET", "/nobody", 401, 404),
        ("GET", "/", 401, 404),
        ("GET", "/rag/../health", 401, 404),
        ("GET", "/health/", 401, 404),
        ("GET", "/%68ealth", 200, 200),
        ("GET", "/rag/search", 401, 405),
        ("OPTIONS", "/rag/search", 401, 405),
        ("HEAD", "/metrics", 401, 405),
        ("POST", "/health", 405, 405),
        ("OPTIONS", "/openapi.json", 405, 405),
        ("PATCH", "/ready", 405, 405),
    ],
)
async def test_what_there_is_not_is_told_to_those_with_a_key(
    it: KeyedRig, method: str, path: str, without: int, with_key: int
) -> None:
    for headers, status in (((), without), ((_bearer(it.keys.a.text),), with_key)):
        answer = await _exchange(it, _request(*headers, target=path.encode(), method=method.encode(), body=b""))
        assert _status(answer) == status


async def test_metrics_are_for_this_host_where_the_operator_says_so(rigs: RigMaker) -> None:
    async with keyed(rigs, auth={"metrics_on_loopback": True}, limits=NO_LIMIT) as it:

        async def status(*headers: bytes, target: bytes = b"/metrics") -> int:
            return _status(await _exchange(it, _request(*headers, target=target, method=b"GET", body=b"")))

        assert await status() == 200
        assert await status(_bearer(it.keys.metrics.text)) == 200
        for name in (b"X-Forwarded-For: 127.0.0.1", b"Forwarded: for=127.0.0.1", b"X-Real-IP: ::1", b"Via: 1.1 proxy"):
            assert await status(name) == 401
        for page in (b"Origin: https://evil.example", b"Sec-Fetch-Site: cross-site"):
            assert await status(page) == 401
            assert await status(page, _bearer(it.keys.metrics.text)) == 200
        assert await status(target=b"http://evil.example/metrics") == 401
        assert await status(target=b"/rag/collections") == 401


async def test_metrics_need_a_key_by_default(it: KeyedRig) -> None:
    assert _status(await _exchange(it, _request(target=b"/metrics", method=b"GET", body=b""))) == 401


@pytest.mark.parametrize(
    "path",
    [b"/rag/search", b"/rag/ingest", b"/v1/chat/completions", b"/admin/sweep", b"/", b"/nobody", b"/rag/query/x"],
)
async def test_a_body_is_not_asked_for_without_a_key(it: KeyedRig, path: bytes) -> None:
    for headers in ((), (b"Authorization: Bearer nonsense",)):
        head = _request(b"Expect: 100-continue", *headers, target=path).removesuffix(SEARCH)
        answer = await _first_answer(it, head)
        assert _status(answer) == 401
        assert b"\r\nConnection: close\r\n" in answer


async def test_a_body_is_asked_for_once_when_it_is_wanted(it: KeyedRig) -> None:
    headers = (b"Expect: 100-Continue", _bearer(it.keys.a.text), b"Content-Type: application/json")
    body = b'{"query": "limes", "collection": "%s"}' % it.keys.a.collection.encode()
    request = _request(*headers, body=body)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(it.rig.app.url.rpartition(":")[2]))
    async with asyncio.timeout(10):
        writer.write(request.removesuffix(body))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        for byte in body:
            writer.write(bytes((byte,)))
            await writer.drain()
        answer = await reader.read()
    writer.close()
    assert _status(answer) == 404  # there is no such collection yet
    assert b"100 Continue" not in answer


@pytest.mark.parametrize(
    ("headers", "status"),
    [((b"Content-Type: text/plain",), 415), ((b"Content-Encoding: gzip",), 415), ((b"Expect: magic",), 417)],
)
async def test_a_body_is_not_asked_for_where_its_head_is_enough(
    it: KeyedRig, headers: tuple[bytes, ...], status: int
) -> None:
    key = _bearer(it.keys.a.text)
    head = _request(b"Expect: 100-continue", key, *headers).removesuffix(SEARCH)
    answer = await _first_answer(it, head)
    assert _status(answer) == status
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [(b"POST", b"/nobody", 404), (b"POST", b"/", 404), (b"PUT", b"/rag/search", 405), (b"POST", b"/health", 405)],
)
async def test_a_body_is_not_asked_for_where_nobody_takes_it(
    it: KeyedRig, method: bytes, path: bytes, status: int
) -> None:
    head = _request(b"Expect: 100-continue", _bearer(it.keys.a.text), method=method, target=path).removesuffix(SEARCH)
    answer = await _first_answer(it, head)
    assert _status(answer) == status
    assert (b"\r\nAllow: " in answer) is (status == 405)


async def test_a_body_that_is_too_large_is_not_asked_for(it: KeyedRig) -> None:
    head = _request(b"Expect: 100-continue", _bearer(it.keys.a.text)).removesuffix(SEARCH)
    head = head.replace(b"Content-Length: %d" % len(SEARCH), b"Content-Length: 99999999999")
    assert _status(await _first_answer(it, head)) == 413


async def test_an_unknown_expectation_is_refused_behind_the_key(it: KeyedRig) -> None:
    assert _status(await _exchange(it, _request(b"Expect: magic"))) == 401
    answer = await _exchange(it, _request(b"Expect: magic", _bearer(it.keys.a.text)))
    assert _status(answer) == 417
    assert b'"code":"expectation_failed"' in answer
    assert b"X-Request-ID: mine" in answer


async def _first_answer(it: KeyedRig, head: bytes) -> bytes:
    """Send a head without its body; return the first head that is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(it.rig.app.url.rpartition(":")[2]))
    try:
        writer.write(head)
        async with asyncio.timeout(10):
            return await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_no_bytes_in_place_of_a_key_are_anything_but_a_refusal(it: KeyedRig, data: st.DataObject) -> None:
    """Whatever the header's bytes are: 401, or 400 from the parser."""
    name = data.draw(st.sampled_from((b"Authorization: Bearer ", b"Authorization: ", b"X-API-Key: ")))
    key = it.keys.a.text.encode()
    places = st.integers(0, len(key) - 1)
    value = data.draw(
        st.one_of(
            st.binary(max_size=200),
            st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
            places.map(lambda at: key[:at] + bytes((key[at] ^ 1,)) + key[at + 1 :]),
            places.map(lambda length: key[:length]),
        )
    )
    value = value.replace(b"\r", b"").replace(b"\n", b"")
    assert _status(await _exchange(it, _request(name + value))) in {400, 401}
