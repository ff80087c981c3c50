"""Hostile bodies over raw sockets: refused for what they are, before they cost anything, and never a 500."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hartonomous.connection import Connection
from hartonomous.keys import METRICS
from tests.service.application import ConfigMaker, RunningApp, eventually, running
from tests.service.sockets import HOST, ask, connected, exchange, get, port_of, post

INGEST = "/rag/ingest"
SEARCH = "/rag/search"
QUERY = "/rag/query"
BATCH = "/rag/batch-query"
RERANK = "/v1/rerank"
EMBEDDINGS = "/v1/embeddings"
CHAT = "/v1/chat/completions"
JSON_PATHS = (INGEST, SEARCH, QUERY, BATCH, RERANK)
MIB = 1024 * 1024


@pytest.fixture
async def app(make_config: ConfigMaker) -> AsyncIterator[RunningApp]:
    """The application."""
    async with running(make_config()) as running_app:
        yield running_app


async def send(app: RunningApp, path: str, body: bytes, *headers: bytes, **options: Any) -> tuple[int, dict[str, Any]]:
    """Send a body; return the status and the error."""
    status, answer = await ask(port_of(app.url), post(path, body, *headers, **options))
    return status, answer.get("error", answer)


NO_JSON = {
    "nothing": b"",
    "half an object": b'{"query": "a"',
    "two values": b'{"query": "a"} {}',
    "NaN": b'{"query": "a", "score_threshold": NaN}',
    "Infinity": b'{"query": "a", "score_threshold": Infinity}',
    "minus Infinity": b'{"query": "a", "score_threshold": -Infinity}',
    "1e400": b'{"query": "a", "score_threshold": 1e400}',
    "lone surrogate": b'{"query": "\\ud800"}',
    "half a pair": b'{"query": "\\ud83d\\u0041"}',
    "encoded surrogate": b'{"query": "\xed\xa0\x80"}',
    "invalid UTF-8": b'{"query": "\xff\xfe"}',
    "overlong UTF-8": b'{"query": "\xc0\xaf"}',
    "UTF-16": '{"query": "a"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + b'{"query": "a"}',
    "control characters": b'{"query": "a\x01"}',
    "single quotes": b"{'query': 'a'}",
    "a comment": b'{"query": "a" /* b */}',
    "a comma at the end": b'{"query": "a",}',
    "leading zeros": b'{"query": "a", "top_k": 05}',
    "10,000 digits": b'{"query": "a", "top_k": ' + b"9" * 10_000 + b"}",
    "minus 10,000 digits": b'{"query": "a", "top_k": -' + b"9" * 10_000 + b"}",
    "lists 10,000 deep": b"[" * 10_000 + b"]" * 10_000,
    "objects 10,000 deep": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "lists 10,000,000 deep": b"[" * 10_000_000,
    "a filter 10,000 deep": b'{"query": "a", "filter": ' + b'{"must":[' * 10_000 + b"{}" + b"]}" * 10_000 + b"}",
}


@pytest.mark.parametrize("path", JSON_PATHS)
async def test_what_is_not_strict_json_is_a_400(app: RunningApp, path: str) -> None:
    for what, body in NO_JSON.items():
        status, error = await send(app, path, body)
        assert (what, status, error["type"]) == (what, 400, "invalid_request_error")


TOP_K = ("0", "-1", "1e9", "1000000000", "true", '"5"', "5.5", "101", "[]", "{}", "-0", "9" * 100)


async def test_a_wrong_top_k_is_a_422_that_names_it(app: RunningApp) -> None:
    for value in TOP_K:
        body = b'{"query": "a", "top_k": %b}' % value.encode()
        for path in (SEARCH, QUERY):
            status, error = await send(app, path, body)
            assert (value, status, error["param"]) == (value, 422, "top_k")
        status, answer = await send(app, BATCH, b'{"queries": [%b]}' % body)
        assert (value, status, answer["results"][0]["status"]) == (value, 200, 422)


async def test_empty_blank_and_nul_texts_are_refused(app: RunningApp) -> None:
    for text in ("", " ", "\n\t ", "\u3000", "a\x00b", "\x00"):
        for path in (SEARCH, QUERY, RERANK):
            body = {"query": text} | ({"documents": ["a"]} if path == RERANK else {})
            status, error = await send(app, path, json.dumps(body).encode())
            assert (text, status, error["param"]) == (text, 422, "query")
    for field in ("text", "title", "source", "id"):
        status, error = await send(app, INGEST, json.dumps({"documents": [{"text": "a", field: "a\x00b"}]}).encode())
        assert (status, error["param"]) == (422, f"documents.0.{field}")


METADATA = {
    "64 bits": '{"n": 18446744073709551615, "m": -9223372036854775808}',
    "beyond 64 bits": '{"n": 18446744073709551616, "m": -9223372036854775809}',
    "10,000 digits": '{"n": ' + "9" * 10_000 + "}",
    "10,000 digits, deep": '{"a": [{"n": ' + "9" * 10_000 + "}]}",
    "10,000 decimals": '{"n": 0.' + "9" * 10_000 + "}",
    "a tiny number": '{"n": 1e-400}',
    "a NUL": '{"n": "a\\u0000b", "a\\u0000": 1}',
    "an empty name": '{"": 1}',
    "odd names": '{"a.b": 1, "a[0]": 2, "$": 3, "__proto__": {}}',
    "17 levels": '{"a":' * 17 + "1" + "}" * 17,
    "1,000 levels": '{"a":' * 1_000 + "1" + "}" * 1_000,
    "too large": '{"a": "' + "x" * 70_000 + '"}',
}


async def test_odd_metadata_is_stored_or_refused(api: RunningApp) -> None:
    """Integers beyond 64 bits are numbers like those of JavaScript, as is everything with a point."""
    name = api.runtime.config.rag.default_collection
    outcomes = {}
    for what, metadata in METADATA.items():
        body = f'{{"documents": [{{"id": "odd", "text": "Limes are sour.", "metadata": {metadata}}}]}}'
        outcomes[what], error = await send(api, INGEST, body.encode())
        if outcomes[what] == 200:
            _, answer = await api.get(f"/rag/collections/{name}/documents/odd")
            parse = float if what == "beyond 64 bits" else int
            assert answer["metadata"] == json.loads(metadata, parse_int=parse), (what, error)
    refused = {what: status for what, status in outcomes.items() if status != 200}
    assert refused == {
        "10,000 digits": 400,
        "10,000 digits, deep": 400,
        "17 levels": 422,
        "1,000 levels": 422,
        "too large": 422,
    }


async def test_of_a_key_that_comes_twice_the_last_value_holds(app: RunningApp) -> None:
    status, error = await send(app, SEARCH, b'{"query": "a", "top_k": 3, "top_k": 0}')
    assert (status, error["param"]) == (422, "top_k")
    status, error = await send(app, SEARCH, b'{"query": "a", "top_k": 0, "top_k": 3, "mode": "none"}')
    assert (status, error["param"]) == (422, "mode")


@pytest.mark.parametrize("path", [INGEST, SEARCH, QUERY, BATCH, "/admin/sweep"])
async def test_an_unknown_field_is_refused_with_its_path(app: RunningApp, path: str) -> None:
    status, error = await send(app, path, b'{"colour": "red"}')
    assert status == 422
    assert error["param"] in {"colour", "documents", "queries", "query"}
    many = b"{" + b",".join(b'"f%d": 1' % number for number in range(500_000)) + b"}"
    assert (await send(app, path, many))[0] == 422


UNKNOWN_PARAMETERS = (
    "POST /rag/search?top_k=5",
    "POST /rag/query?a=",
    "POST /rag/batch-query?x",
    "POST /rag/ingest?colour=red",
    "GET /rag/collections?limit=5",
    "GET /rag/collections/docs/documents?limit=5&page=2",
    "GET /rag/collections/docs/documents?limit=5&limit=6",
    "DELETE /rag/collections/docs?force=true",
    "GET /rag/collections/docs/documents/a?full=1",
    "POST /admin/sweep?dry=1",
    "POST /admin/config/reload?now",
)


async def test_an_unknown_parameter_is_refused_by_name(app: RunningApp) -> None:
    for target in UNKNOWN_PARAMETERS:
        method, path = target.split()
        status, answer = await ask(port_of(app.url), post(path, b"{}").replace(b"POST", method.encode(), 1))
        assert (target, status) == (target, 422)
        assert answer["error"]["param"] in path
        assert answer["error"]["message"].startswith(answer["error"]["param"])


async def test_openais_paths_ignore_unknown_parameters(app: RunningApp) -> None:
    assert (await ask(port_of(app.url), get("/v1/models?colour=red")))[0] == 200


async def test_a_key_in_a_parameters_name_is_shown_escaped_and_short(app: RunningApp) -> None:
    status, answer = await ask(port_of(app.url), post("/rag/search?" + "a" * 5_000 + "%1b[31m=1", b"{}"))
    assert (status, len(answer["error"]["param"])) == (422, 64)
    status, answer = await ask(port_of(app.url), post("/rag/search?%1b%0d%0a=1", b"{}"))
    assert (status, answer["error"]["param"]) == (422, "\\x1b\\r\\n")


# Sizes.


@pytest.mark.parametrize("path", [*JSON_PATHS, EMBEDDINGS, CHAT])
async def test_a_body_over_the_limit_is_refused_before_it_is_sent(app: RunningApp, path: str) -> None:
    """Nothing of it is there yet; with `Expect` it is not asked for."""
    for headers in ((), (b"Expect: 100-continue",)):
        async with connected(port_of(app.url)) as client:
            client.writer.write(post(path, b"", *headers, length=16 * MIB + 1))
            status, answer = await client.answer()
            assert (status, answer["error"]["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize("path", [*JSON_PATHS, EMBEDDINGS, CHAT])
async def test_a_body_of_unknown_length_is_refused_at_the_limit(app: RunningApp, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\n".encode() + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    async with connected(port_of(app.url)) as client:
        client.writer.write(head)
        for _ in range(17):
            client.writer.write(b"%x\r\n" % MIB + b" " * MIB + b"\r\n")
        status, answer = await client.answer()
        assert (status, answer["error"]["code"]) == (413, "payload_too_large")


async def test_a_compressed_body_is_a_415(app: RunningApp) -> None:
    for encoding in (b"gzip", b"GZIP", b"deflate", b"br", b"zstd", b"gzip, identity", b"x"):
        await _compressed(app, encoding)


async def _compressed(app: RunningApp, encoding: bytes) -> None:
    bomb = gzip.compress(b'{"query": "' + b"a" * 10_000_000 + b'"}')
    for path in (*JSON_PATHS, EMBEDDINGS, CHAT):
        assert (await send(app, path, bomb, b"Content-Encoding: " + encoding))[0] == 415
    for kind in (b"application/x-ndjson", b"multipart/form-data; boundary=x"):
        headers = (b"Content-Encoding: " + encoding, b"Content-Type: " + kind)
        assert (await send(app, INGEST, bomb, *headers))[0] == 415


BATCHES = {
    "documents": (INGEST, b'{"documents": [%b]}', b'{"text":""}'),
    "queries": (BATCH, b'{"queries": [%b]}', b"{}"),
    "empty queries": (BATCH, b'{"queries": [%b]}', b'{"query":"a"}'),
    "numbers for documents": (INGEST, b'{"documents": [%b]}', b"1"),
    "reranked documents": (RERANK, b'{"query": "a", "documents": [%b]}', b'"a"'),
    "messages": (QUERY, b'{"query": "a", "messages": [%b]}', b'{"role":"user"}'),
    "conditions": (SEARCH, b'{"query": "a", "filter": {"must": [%b]}}', b"{}"),
    "values": (SEARCH, b'{"query": "a", "filter": {"key": "source", "match": {"any": [%b]}}}', b'"a"'),
}


@pytest.mark.parametrize("name", BATCHES)
async def test_a_million_of_something_is_a_422_at_once(app: RunningApp, name: str) -> None:
    """Models are not built for what is too many: memory stays, and the loop is not held up for longer than parsing."""
    path, frame, element = BATCHES[name]
    body = frame % b",".join([element] * 1_000_000)
    before = rss_bytes()
    status, error = await send(app, path, body)
    assert status == 422 or (status, len(body) > 16 * MIB) == (413, True), error
    assert "million" not in error["message"]
    assert rss_bytes() - before < 400 * MIB
    assert (await app.get("/health"))[0] == 200


@pytest.mark.parametrize("element", [b"{}", b"[]", b'{"a":[]}'])
async def test_more_objects_and_lists_than_anybody_needs_are_not_even_made(app: RunningApp, element: bytes) -> None:
    body = b'{"query": "a", "filter": [%b]}' % b",".join([element] * (15 * MIB // (len(element) + 1)))
    before = rss_bytes()
    for path in (SEARCH, QUERY, BATCH, INGEST, RERANK):
        status, error = await send(app, path, body)
        assert (status, error["message"]) == (422, "The body has more than 1000000 objects and lists.")
    assert rss_bytes() - before < 100 * MIB


def rss_bytes() -> int:
    """Return how much memory this process, which the server is in, has."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4_096


CLAUSES = ('{"must":[', "]}"), ('{"must_not":', "}"), ('{"min_should":{"min_count":1,"conditions":[', "]}}")


@pytest.mark.parametrize("levels", [9, 300, 500])
async def test_a_deep_filter_is_a_422(app: RunningApp, levels: int) -> None:
    for before, behind in CLAUSES:
        inner = '{"key":"source","match":{"value":"a"}}'
        body = '{"query": "a", "filter": ' + before * levels + inner + behind * levels + "}"
        status, error = await send(app, SEARCH, body.encode())
        if body.count("{") + body.count("[") < 1_024:
            assert (status, error["param"].partition(".")[0]) == (422, "filter")
        else:  # deeper than JSON may be
            assert status == 400


async def test_a_filter_of_a_thousand_levels_is_a_422(app: RunningApp) -> None:
    deep = b'{"must_not":' * 1_000 + b"{}" + b"}" * 1_000
    status, error = await send(app, SEARCH, b'{"query": "a", "filter": ' + deep + b"}")
    assert (status, error["param"].partition(".")[0]) == (422, "filter")


# Forms.


def form(*parts: bytes) -> bytes:
    """Return a form of these parts."""
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"


def file(name: bytes, data: bytes = b"Limes are sour.") -> bytes:
    """Return a part that is a file."""
    return b'Content-Disposition: form-data; name="file"; filename="' + name + b'"\r\n\r\n' + data


FORM = b"Content-Type: multipart/form-data; boundary=x"


PARTS = (
    file(b"a.txt", b""),
    b'Content-Disposition: form-data; name="f%d"\r\n\r\n',
    b"X: y\r\n\r\n",
    b"\r\n",
    b"",
)


async def test_a_form_of_ten_thousand_parts_is_refused(app: RunningApp) -> None:
    for part in PARTS:
        status, error = await send(app, INGEST, form(*([part] * 10_000)), FORM)
        assert status in {400, 422}, error


FILE_NAMES = (
    b"../../x.txt",
    b"..\\\\..\\\\x.txt",
    b"/etc/passwd.txt",
    b"C:\\\\x.txt",
    b"%2e%2e/x.txt",
    b"....//x.txt",
    b"x.txt/../..",
    b"a\x01.txt",
    "\u202etxt.exe.txt".encode(),
    b"con.txt",
    b"x" * 5_000 + b".txt",
    b"",
    b".",
    b"..",
)


async def test_a_file_name_leads_nowhere(api: RunningApp) -> None:
    before = {each.name for each in Path.cwd().iterdir()}
    for name in FILE_NAMES:
        status, answer = await send(api, INGEST, form(file(name)), FORM)
        assert status in {200, 400, 415, 422}, answer
    listed = await api.get(f"/rag/collections/{api.runtime.config.rag.default_collection}/documents")
    sources = [document["source"] for document in listed[1]["documents"]]
    assert "x.txt" in sources
    assert not [source for source in sources if source.startswith("/") or ".." in source.split("/")]
    assert {each.name for each in Path.cwd().iterdir()} == before


async def test_a_pdf_bomb_fails_alone(api: RunningApp) -> None:
    """An object stream of a gigabyte of zeros in a few kilobytes, and a page tree without an end."""
    stream = zlib.compress(zlib.compress(b"0" * 50_000_000, 9), 9)
    bomb = (
        b"%PDF-1.5\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[2 0 R 3 0 R]/Count 1000000000>>endobj\n"
        b"3 0 obj<</Type/Page/Parent 2 0 R/Contents 4 0 R>>endobj\n"
        b"4 0 obj<</Filter[/FlateDecode/FlateDecode]/Length "
        + str(len(stream)).encode()
        + b">>stream\n"
        + stream
        + b"\nendstream endobj\ntrailer<</Root 1 0 R>>\n%%EOF"
    )
    status, answer = await send(api, INGEST, form(file(b"bomb.pdf", bomb), file(b"fine.txt")), FORM)
    results = answer["documents"]
    assert (status, results[0]["status"], results[1]["status"]) == (200, "failed", "created")
    assert (await api.get("/health"))[0] == 200


# Names.


async def test_a_collections_name_is_checked_everywhere(app: RunningApp) -> None:
    for name in ("../x", "..", "%2e%2e", "a/b", "a" * 10_000, "a" * 64, "é", "a b", "", "-a", ".a", "a\n"):
        await _check_name(app, name)


async def _check_name(app: RunningApp, name: str) -> None:
    for path, body in (
        (SEARCH, {"query": "a"}),
        (QUERY, {"query": "a"}),
        (INGEST, {"documents": [{"text": "a"}]}),
        ("/admin/sweep", {}),
    ):
        status, error = await send(app, path, json.dumps(body | {"collection": name}).encode())
        assert (status, error["param"]) == (422, "collection")
    status, answer = await send(app, BATCH, json.dumps({"queries": [{"query": "a", "collection": name}]}).encode())
    assert (status, answer["results"][0]["status"]) == (200, 422)


@pytest.mark.parametrize("count", [16_384, 16_385, 16_386])
async def test_a_body_of_many_chunks_is_read_where_the_parser_was_held_at_the_last_that_came(
    app: RunningApp, count: int
) -> None:
    body = b'{"query":"a"'.ljust(count)
    async with connected(port_of(app.url)) as client:
        client.writer.write(f"POST {RERANK} HTTP/1.1\r\n".encode() + HOST)
        client.writer.write(b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.writer.write(b"".join(b"1\r\n%c\r\n" % byte for byte in body))
        await eventually(lambda: _read(count), "all that came is read")
        rest = b',"documents":["b"]}'
        client.writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest))
        assert (await client.answer())[0] == 200


def _read(count: int) -> bool:
    """Whether so many bytes of a request's body have been read."""
    bodies = [one._body for one in gc.get_objects() if isinstance(one, Connection)]
    return any(body.total_bytes == count for body in bodies)


async def test_a_collections_name_in_a_path_is_checked(app: RunningApp) -> None:
    for name in ("..%2fx", "%2e%2e", "%2e%2e%2f%2e%2e%2fetc", "a%00", "a%0a", "a" * 5_000, "%252e"):
        await _check_path(app, name)


async def _check_path(app: RunningApp, name: str) -> None:
    for method, rest in (("GET", "/documents"), ("GET", "/documents/a"), ("DELETE", "/documents/a"), ("DELETE", "")):
        request = get(f"/rag/collections/{name}{rest}").replace(b"GET", method.encode(), 1)
        status, answer = await ask(port_of(app.url), request)
        assert status in {404, 405, 422}, answer


async def test_what_callers_choose_is_one_escaped_line_of_the_log(
    app: RunningApp, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = b"\x1b[31mred\x1b[0m"
    requests = [
        get("/%0d%0aforged%1b[31m"),
        get("/health", b"X-Request-ID: a\x1b[31m", b"User-Agent: " + odd),
        get("/health", b"X-Forwarded-For: 1.2.3.4\x1b[31m\xe2\x80\xa8forged"),
        post("/rag/search?%0d%0aforged=1", b"{}"),
        post(INGEST, b'{"documents": [{"id": "a\\nforged", "text": ""}], "\\u001b[31mforged\\r\\n": 1}'),
        get("/rag/collections/a%0aforged%1b[31m/documents"),
    ]
    for request in requests:
        await exchange(port_of(app.url), request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
    written = capsys.readouterr()
    assert "\x1b[31m" not in written.err + written.out
    assert not [line for line in written.err.splitlines() if line.startswith("forged")]


async def test_no_request_of_all_these_was_a_500(app: RunningApp) -> None:
    """Bodies that are sent at once, side by side."""
    bodies = [body for body in NO_JSON.values() if len(body) < MIB]
    answers = await asyncio.gather(*(send(app, path, body) for path in JSON_PATHS for body in bodies))
    assert {status for status, _ in answers} == {400}
    samples = [sample for metric in app.app[METRICS].registry.collect() for sample in metric.samples]
    assert not [one for one in samples if one.labels.get("status") == "500" and one.value]
