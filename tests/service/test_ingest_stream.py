"""`/rag/ingest` as a stream: what is taken, what is refused, and what each line is answered."""

from __future__ import annotations

import json

import pytest

from hartonomous.core.fingerprint import document_id
from tests.service.application import ConfigMaker, RunningApp, running
from tests.service.ndjson import PATH, line, refused, send, stored
from tests.service.rag import ingest

# What is taken.


async def test_each_line_is_answered_and_the_last_line_counts(api: RunningApp) -> None:
    data = line("a", "Limes are sour.") + line("b", "Lemons are yellow.", title="Lemons", metadata={"n": 1})
    results, last = await send(api, data)
    assert [(one["line"], one["id"], one["status"], one["chunks"]) for one in results] == [
        (1, "a", "created", 1),
        (2, "b", "created", 1),
    ]
    assert all(one["version"].startswith("sha256:") and one["error"] is None for one in results)
    assert last["counts"] == {"created": 2, "updated": 0, "unchanged": 0, "failed": 0}
    assert last["collection"] == api.runtime.config.rag.default_collection
    assert last["usage"]["embedding_tokens"] > 0
    assert (await stored(api, "b"))["metadata"] == {"n": 1}
    assert (await send(api, data))[1]["counts"]["unchanged"] == 2


@pytest.mark.parametrize("kind", ["application/x-ndjson", "application/ndjson", "application/jsonl; charset=utf-8"])
async def test_every_name_of_the_format_is_taken(api: RunningApp, kind: str) -> None:
    results, _ = await send(api, line("a"), **{"Content-Type": kind})
    assert len(results) == 1


async def test_blank_lines_ends_of_windows_a_byte_order_mark_and_no_last_end(api: RunningApp) -> None:
    data = b"\xef\xbb\xbf" + line("a").replace(b"\n", b"\r\n") + b"\r\n \n" + line("b") + line("c").rstrip()
    results, last = await send(api, data)
    assert [(one["line"], one["id"], one["status"]) for one in results] == [
        (1, "a", "created"),
        (4, "b", "created"),
        (5, "c", "created"),
    ]
    assert last["counts"]["created"] == 3


@pytest.mark.parametrize("data", [b"", b"\n\n \r\n"])
async def test_nothing_is_counted_as_nothing(api: RunningApp, data: bytes) -> None:
    results, last = await send(api, data)
    assert results == []
    assert last["counts"] == {"created": 0, "updated": 0, "unchanged": 0, "failed": 0}
    assert last["usage"] == {"embedding_tokens": 0}


async def test_lines_of_one_id_apply_in_order(api: RunningApp) -> None:
    texts = [f"Version number {number}." for number in range(6)]
    results, last = await send(api, b"".join(line("same", text) for text in texts))
    assert [one["status"] for one in results] == ["created"] + ["updated"] * 5
    assert last["counts"] == {"created": 1, "updated": 5, "unchanged": 0, "failed": 0}
    assert (await stored(api, "same"))["text"] == texts[-1]


async def test_without_an_id_a_document_is_known_as_in_json(api: RunningApp) -> None:
    documents = [{"text": "one", "source": "https://x/1"}, {"text": "two"}]
    answer = await ingest(api, *documents)
    results, last = await send(api, b"".join(json.dumps(one).encode() + b"\n" for one in documents))
    assert [one["id"] for one in results] == [one["id"] for one in answer["documents"]]
    assert last["counts"]["unchanged"] == 2


PAGE = (
    "<html><head><title>Town</title></head><body><nav><a href='/'>Home</a></nav><main><h1>The town</h1>"
    + "".join(f"<p>Paragraph {number} tells at length what the people of the town do.</p>" for number in range(8))
    + "</main></body></html>"
)


async def test_html_is_stored_as_its_main_text_and_known_by_what_was_sent(api: RunningApp) -> None:
    page = {"text": PAGE, "format": "html"}
    answer = await ingest(api, page)
    (name,) = [one["id"] for one in answer["documents"]]
    assert name == document_id(None, PAGE)
    document = await stored(api, name)
    assert (document["title"], document["format"]) == ("Town", "html")
    assert "Paragraph 7 tells" in document["text"]
    assert "Home" not in document["text"]
    results, last = await send(api, json.dumps(page).encode())
    assert (results[0]["id"], last["counts"]["unchanged"]) == (name, 1)
    results, _ = await send(api, line("empty", "<html></html>", format="html"))
    assert (results[0]["error"]["type"], results[0]["error"]["param"]) == ("invalid_request_error", "text")


# Bad lines.


BAD_LINES = [
    (b"{", "invalid_json", None),
    (b'{"text": "a"} {}', "invalid_json", None),
    (b'{"text": "\xff"}', "invalid_json", None),
    (b'{"text": "\\ud800"}', "invalid_json", None),
    (b'{"text": "a", "metadata": {"x": NaN}}', "invalid_json", None),
    (b'{"text": "a", "metadata": {"x": 1e400}}', "invalid_json", None),
    (b"[" * 4_000, "invalid_json", None),
    (b"[]", "validation_error", None),
    (b"null", "validation_error", None),
    (b"{}", "validation_error", "text"),
    (b'{"text": 7}', "validation_error", "text"),
    (b'{"text": "a\\u0000"}', "validation_error", "text"),
    (b'{"text": "a", "colour": 1}', "validation_error", "colour"),
    (b'{"text": "a", "id": ""}', "validation_error", "id"),
    (b'{"text": "a", "format": "pdf"}', "validation_error", "format"),
    (b'{"text": "a", "metadata": []}', "validation_error", "metadata"),
    (b'{"text": " "}', "empty_document", "text"),
    (b'{"text": "' + b"x" * 1_000_000 + b'"}', "payload_too_large", None),
]


async def test_a_bad_line_is_one_failed_result_and_the_others_are_taken(make_config: ConfigMaker) -> None:
    config = make_config(server={"max_line_bytes": 4096})
    async with running(config) as app:
        data = b"".join(line("a", f"Text {number}.") + bad + b"\n" for number, (bad, _, _) in enumerate(BAD_LINES))
        results, last = await send(app, data.removesuffix(b"\n"))
        assert {one["status"] for one in results[::2]} == {"created", "updated"}
        for failed, (bad, code, param) in zip(results[1::2], BAD_LINES, strict=True):
            error = failed["error"]
            assert (error["code"], error["param"]) == (code, param), bad
            assert error["type"] == "invalid_request_error"
            assert (failed["status"], failed["version"], failed["chunks"]) == ("failed", None, 0)
            assert len(error["message"]) < 300
        assert last["counts"]["failed"] == len(BAD_LINES)
        await app.delete(f"/rag/collections/{config.rag.default_collection}")


async def test_the_place_of_an_error_in_a_line_is_told(api: RunningApp) -> None:
    results, _ = await send(api, b'{"text" "a"}\n[1]\n')
    messages = [one["error"]["message"] for one in results]
    assert messages == ["The line is not valid JSON (column 9).", "The line must be an object."]
    assert [one["id"] for one in results] == [None, None]


async def test_a_line_of_exactly_the_limit_is_taken(make_config: ConfigMaker) -> None:
    config = make_config(server={"max_line_bytes": 1024})
    async with running(config) as app:
        exact = b'{"id":"a","text":"%b"}' % (b"a " * 502)[: 1024 - 20]
        assert len(exact) == 1024
        results, _ = await send(app, exact + b"\r\n" + exact + b" \r\n")
        assert [(one["status"], one["error"] and one["error"]["code"]) for one in results] == [
            ("created", None),
            ("failed", "payload_too_large"),
        ]
        await app.delete(f"/rag/collections/{config.rag.default_collection}")


# Parameters.


async def test_collection_and_chunking_are_parameters(api: RunningApp) -> None:
    name = api.runtime.config.rag.default_collection + "-x"
    text = " ".join(f"Sentence number {number}." for number in range(40))
    path = f"{PATH}?collection={name}&max_tokens=32&overlap_tokens=0"
    results, last = await send(api, line("a", text), path)
    assert last["collection"] == name
    assert results[0]["chunks"] > 3
    assert await api.delete(f"/rag/collections/{name}") == 204


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("colour=red", "colour"),
        ("collection=..%2Fx", "collection"),
        ("collection=", "collection"),
        ("collection=a&collection=a", "collection"),
        ("max_tokens=15", "max_tokens"),
        ("max_tokens=x", "max_tokens"),
        ("max_tokens=", "max_tokens"),
        ("max_tokens=%2B64", "max_tokens"),
        ("max_tokens=" + "9" * 5_000, "max_tokens"),
        ("overlap_tokens=-1", "overlap_tokens"),
        ("%FF%0A=1", "\\ufffd\\n"),
    ],
)
async def test_a_wrong_parameter_is_refused_with_its_name(api: RunningApp, query: str, param: str) -> None:
    status, error = await refused(api, line("a"), f"{PATH}?{query}")
    assert (status, error["param"], error["type"]) == (422, param, "invalid_request_error")


async def test_a_query_string_holds_where_a_json_body_says_nothing(api: RunningApp) -> None:
    name = api.runtime.config.rag.default_collection
    for body, collection in (({}, f"{name}-q"), ({"collection": name}, name)):
        said = {**body, "documents": [{"text": "a"}]}
        async with api.session.post(f"{api.url}{PATH}?collection={name}-q&max_tokens=64", json=said) as response:
            assert (response.status, (await response.json())["collection"]) == (200, collection)
    await api.delete(f"/rag/collections/{name}-q")
    async with api.session.post(f"{api.url}{PATH}?chunks=x", json={"documents": [{"text": "a"}]}) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (422, "chunks")


async def test_an_overlap_of_more_than_half_counts_as_half(api: RunningApp) -> None:
    text = " ".join(f"word{number}" for number in range(200))
    answers = []
    for overlap in (8, 16, 4_096):
        body = {"documents": [{"id": "a", "text": text}], "chunking": {"max_tokens": 16, "overlap_tokens": overlap}}
        async with api.session.post(f"{api.url}{PATH}", json=body) as response:
            assert response.status == 200
            answers.append((await response.json())["documents"][0]["status"])
    assert answers == ["created", "unchanged", "unchanged"]


async def test_a_compressed_stream_is_415(api: RunningApp) -> None:
    status, error = await refused(api, b"x", **{"Content-Encoding": "gzip"})
    assert (status, error["code"]) == (415, "unsupported_media_type")
