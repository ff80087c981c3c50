"""`/rag/ingest` as `multipart/form-data`: files and fields, taken and refused, and nothing left on the disk."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hartonomous.core.fingerprint import document_id
from hartonomous.handlers import uploads as module
from tests.parsing.docx_writer import write_docx
from tests.parsing.pdf_writer import text_pdf
from tests.service.application import ConfigMaker, RunningApp, eventually, running
from tests.service.fault_backend import hang
from tests.service.ndjson import Raw, nobody_is_served
from tests.service.rag import EMBEDDINGS, Rig, check_answer

PATH = "/rag/ingest"
BOUNDARY = "a-boundary"
KIND = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where uploads are kept: nothing may be left there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def part(data: bytes | str, *, name: str = "file", filename: str | None = None, head: str = "") -> bytes:
    """Return a part of a form; `head` are further headers, each with its end."""
    disposition = f'form-data; name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
    content = data.encode() if isinstance(data, str) else data
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n{head}\r\n".encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


async def send(app: RunningApp, data: Any, **headers: str) -> tuple[int, Any]:
    """Send a form and hold the answer against what is described."""
    async with app.session.post(app.url + PATH, data=data, headers=KIND | headers) as response:
        answer = await response.json()
        assert response.headers["X-Request-ID"] == answer["request_id"]
        check_answer(app, "post", PATH, response.status, answer)
        return response.status, answer


async def refused(app: RunningApp, *parts: bytes, **headers: str) -> tuple[int, str, str | None]:
    """Send a form that is refused; return status, code and param."""
    status, answer = await send(app, form(*parts), **headers)
    assert "documents" not in answer
    assert len(answer["error"]["message"]) < 300
    return status, answer["error"]["code"], answer["error"]["param"]


async def stored(app: RunningApp, id: str, collection: str | None = None) -> Any:  # noqa: A002 - the API's own word
    name = collection or app.runtime.config.rag.default_collection
    status, answer = await app.get(f"/rag/collections/{name}/documents/{id}")
    return answer if status == 200 else status


LIMES = part("Limes are sour.", filename="limes.txt")


# What is taken.


async def test_files_are_documents_named_by_their_names(api: RunningApp) -> None:
    status, answer = await send(api, form(LIMES, part("# Lemons\n\nYellow.", name="x", filename="a/b/Lemons.MD")))
    assert status == 200
    assert [one["status"] for one in answer["documents"]] == ["created", "created"]
    assert [one["id"] for one in answer["documents"]] == [
        document_id(one, "") for one in ("limes.txt", "a/b/Lemons.MD")
    ]
    document = await stored(api, document_id("a/b/Lemons.MD", ""))
    assert (document["source"], document["format"]) == ("a/b/Lemons.MD", "markdown")
    assert "Yellow." in document["text"]
    assert (await send(api, form(LIMES)))[1]["counts"]["unchanged"] == 1
    changed = part("Limes are green.", filename="limes.txt")
    assert (await send(api, form(changed)))[1]["counts"]["updated"] == 1


async def test_fields_are_of_all_files_in_whatever_order(api: RunningApp) -> None:
    name = api.runtime.config.rag.default_collection + "-x"
    text = " ".join(f"Sentence number {number}." for number in range(40))
    status, answer = await send(
        api,
        form(
            part(name, name="collection"),
            part(text, filename="a.txt"),
            part('{"team": "ops"}', name="metadata", head="Content-Type: application/json\r\n"),
            part("32", name="max_tokens"),
            part("0", name="overlap_tokens"),
            part("mine", name="id"),
        ),
    )
    assert (status, answer["collection"]) == (200, name)
    assert answer["documents"][0]["id"] == "mine"
    assert answer["documents"][0]["chunks"] > 3
    assert (await stored(api, "mine", name))["metadata"] == {"team": "ops"}
    assert await api.delete(f"/rag/collections/{name}") == 204


async def test_a_form_of_a_real_client(api: RunningApp, folder: Path) -> None:
    data = aiohttp.FormData(quote_fields=False)
    data.add_field("metadata", json.dumps({"a": 1}))
    data.add_field("upload", b"Lemons are yellow.", filename="zitrone \u00e9\U0001f34b.txt", content_type="text/plain")
    async with api.session.post(api.url + PATH, data=data) as response:
        answer = await response.json()
    assert (response.status, answer["counts"]["created"]) == (200, 1)
    assert (await stored(api, answer["documents"][0]["id"]))["source"] == "zitrone \u00e9\U0001f34b.txt"


async def test_a_file_of_several_pieces_is_whole(api: RunningApp) -> None:
    text = "\n\n".join(f"Paragraph {number} tells of things." for number in range(1_000))
    data = form(part(text, filename="long.txt"), part("64", name="max_tokens"))

    async def pieces() -> AsyncIterator[bytes]:
        for place in range(0, len(data), 3_001):
            yield data[place : place + 3_001]

    status, answer = await send(api, pieces())
    assert status == 200, answer["documents"]
    assert (await stored(api, answer["documents"][0]["id"]))["text"] == text


async def test_of_one_name_twice_the_last_file_wins(api: RunningApp) -> None:
    status, answer = await send(api, form(LIMES, part("The second.", filename="limes.txt")))
    assert status == 200
    assert [one["status"] for one in answer["documents"]] == ["failed", "created"]
    error = answer["documents"][0]["error"]
    assert (error["code"], error["param"]) == ("duplicate_document_id", "files.0.id")
    assert (await stored(api, document_id("limes.txt", "")))["text"] == "The second."


NAMES = [
    ("../../etc/x.txt", "etc/x.txt"),
    ("/etc//./y.txt", "etc/y.txt"),
    (r"C:\\Users\\me\\x.txt", "Users/me/x.txt"),
    (r"C:\Users\me\y.txt", "Users/me/y.txt"),
    (r"..\..\x.txt", "x.txt"),
    ('a; b=\\"c\\".txt', 'a; b="c".txt'),
    ("a\u0085b.txt", "ab.txt"),
    ("%2e%2e%2fx.txt", "%2e%2e%2fx.txt"),
]


async def test_a_name_leads_nowhere(api: RunningApp) -> None:
    status, answer = await send(api, form(*(part(f"Limes: {name}", filename=name) for name, _ in NAMES)))
    assert status == 200
    sources = [(await stored(api, one["id"]))["source"] for one in answer["documents"]]
    assert sources == [source for _, source in NAMES]


async def test_an_extended_name_counts_before_the_plain_one(api: RunningApp) -> None:
    disposition = "form-data; name=f; filename=x.txt; filename*=utf-8''%e2%82%ac%2F..%0a%2Frates.txt"
    body = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\nLimes.\r\n".encode()
    status, answer = await send(api, form(body))
    assert status == 200
    assert (await stored(api, answer["documents"][0]["id"]))["source"] == "\u20ac/rates.txt"


async def test_every_kind_of_file_is_read(api: RunningApp) -> None:
    sentences = [f"Paragraph {number} tells at length what the people of the town do." for number in range(8)]
    page = "<html><head><title>Town</title></head><body><nav><a href='/'>Home</a></nav><main><h1>The town</h1>"
    html = page + "".join(f"<p>{one}</p>" for one in sentences) + "</main></body></html>"
    status, answer = await send(
        api,
        form(
            part(text_pdf("First page.", "Second page.", title="Two pages"), filename="two.pdf"),
            part(write_docx(lambda document: document.add_paragraph("A letter.")), filename="letter.docx"),
            part(html, filename="town.HTM"),
        ),
    )
    assert status == 200, answer["documents"]
    pdf, docx, town = [await stored(api, one["id"]) for one in answer["documents"]]
    assert (pdf["format"], pdf["title"]) == ("pdf", "Two pages")
    assert "Second page." in pdf["text"]
    assert (docx["format"], docx["text"]) == ("docx", "A letter.")
    assert (town["format"], town["title"], town["source"]) == ("html", "Town", "town.HTM")
    assert sentences[7] in town["text"]
    assert "Home" not in town["text"]
    assert (await send(api, form(part(html, filename="town.HTM"))))[1]["counts"]["unchanged"] == 1


# Files that fail alone.


async def test_a_file_of_another_type_or_size_fails_alone(make_config: ConfigMaker) -> None:
    config = make_config(server={"max_file_bytes": 2048})
    async with running(config) as app:
        status, answer = await send(
            app,
            form(
                part(b"x" * 5_000, filename="large.txt"),
                part(b"MZ" * 5_000, filename="setup.exe"),
                part(b"a " * 1_024, filename="exact.TEXT"),
                part("no type", filename="README"),
            ),
        )
        assert status == 200
        assert [one["status"] for one in answer["documents"]] == ["failed", "failed", "created", "failed"]
        errors = [(one["error"]["code"], one["error"]["param"]) for one in answer["documents"] if one["error"]]
        assert errors == [
            ("payload_too_large", "files.0"),
            ("unsupported_format", "files.1"),
            ("unsupported_format", "files.3"),
        ]
        assert answer["counts"]["failed"] == 3
        await app.delete(f"/rag/collections/{config.rag.default_collection}")


@pytest.mark.parametrize(
    ("filename", "data", "status", "code"),
    [
        ("setup.exe", b"MZ", 415, "unsupported_format"),
        ("large.txt", b"x" * 3_000, 413, "payload_too_large"),
        ("empty.txt", b"", 422, "no_text"),
        ("broken.pdf", b"%PDF-1.7 and no more", 422, "broken_file"),
    ],
)
async def test_when_no_file_can_be_taken_the_status_is_the_first_ones(
    make_config: ConfigMaker, filename: str, data: bytes, status: int, code: str
) -> None:
    async with running(make_config(server={"max_file_bytes": 2048})) as app:
        told, answer = await send(app, form(part(data, filename=filename)))
        assert (told, answer["error"]["code"], answer["counts"]["failed"]) == (status, code, 1)


# What is refused as a whole.


WRONG: list[tuple[list[bytes], int, str | None]] = [
    ([], 422, "files"),
    ([part("x", name="collection")], 422, "files"),
    ([LIMES, part("x", name="colour")], 422, "colour"),
    ([LIMES, part("x", name="")], 422, ""),
    ([LIMES, part("x", name="file")], 422, "file"),
    ([LIMES, part("a", name="id"), part("a", name="id")], 422, "id"),
    ([LIMES, part("", name="id")], 422, "id"),
    ([LIMES, LIMES, part("a", name="id")], 422, "id"),
    ([LIMES, part("../x", name="collection")], 422, "collection"),
    ([LIMES, part(b"\xff", name="collection")], 422, "collection"),
    ([LIMES, part("15", name="max_tokens")], 422, "max_tokens"),
    ([LIMES, part(" 64", name="max_tokens")], 422, "max_tokens"),
    ([LIMES, part("[]", name="metadata")], 422, "metadata"),
    ([LIMES, part("{", name="metadata")], 400, "metadata"),
    ([LIMES, part('{"a": NaN}', name="metadata")], 400, "metadata"),
    ([LIMES, part('{"a": "\\ud800"}', name="metadata")], 400, "metadata"),
    ([LIMES, part("[" * 5_000, name="metadata")], 400, "metadata"),
    ([LIMES, part("x" * 65_537, name="metadata")], 413, "metadata"),
    ([part("x", filename="")], 422, "files.0"),
    ([part("x", filename="../..")], 422, "files.0"),
    ([part("x", filename="a" * 1_021 + ".txt")], 422, "files.0"),
    ([part("eA==", filename="a.txt", head="Content-Transfer-Encoding: base64\r\n")], 422, "files.0"),
    ([part("x", filename="a.txt", head="Content-Encoding: gzip\r\n")], 422, "files.0"),
    ([part("x", filename="a.txt", head="Content-Type: multipart/mixed; boundary=b\r\n")], 422, "files.0"),
    ([part("1", name="id", head="Content-Transfer-Encoding: quoted-printable\r\n")], 422, "id"),
    ([LIMES.replace(b"form-data", b"attachment")], 400, None),
    ([LIMES.replace(b"Content-Disposition", b"Content-Disposed")], 400, None),
    ([LIMES.replace(b'name="file"', b'name="file')], 400, None),
    ([LIMES.replace(b"limes", b"l\x00mes")], 400, None),
    ([LIMES.replace(b"limes", b"l\xffmes")], 400, None),
]


async def test_a_wrong_form_is_refused_with_its_place(api: RunningApp) -> None:
    for parts, status, param in WRONG:
        told, _, place = await refused(api, *parts)
        assert (told, place) == (status, param), parts


async def test_broken_framing_is_a_400(api: RunningApp) -> None:
    whole = form(LIMES)
    for data in (
        b"",
        b"hello",
        whole[:-6],
        whole[:60],
        whole.replace(b"\r\n", b"\n"),
        whole.replace(BOUNDARY.encode(), b"another"),
    ):
        status, answer = await send(api, data)
        assert (status, answer["error"]["code"]) == (400, "bad_framing"), data


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=a b;c"]
)
async def test_a_form_without_a_boundary_is_a_400(api: RunningApp, kind: str) -> None:
    status, answer = await send(api, form(LIMES), **{"Content-Type": kind})
    assert (status, answer["error"]["code"]) == (400, "bad_framing")


@pytest.mark.parametrize("headers", [{"Content-Type": "multipart/mixed; boundary=a"}, {"Content-Encoding": "gzip"}])
async def test_another_multipart_or_a_compressed_body_is_415(api: RunningApp, headers: dict[str, str]) -> None:
    assert (await send(api, form(LIMES), **headers))[0] == 415


async def test_too_many_parts_are_refused_as_soon_as_they_are_seen(make_config: ConfigMaker) -> None:
    async with running(make_config(server={"max_files": 3})) as app:
        for parts, param in (([LIMES] * 4, "files"), ([part("", name="a")] * 10_000, "a"), ([LIMES] * 10_000, "files")):
            seen = 0

            async def pieces(parts: list[bytes] = parts) -> AsyncIterator[bytes]:
                nonlocal seen
                for one in parts:
                    yield one
                    seen += 1
                    await asyncio.sleep(0)
                yield form()

            status, answer = await send(app, pieces())
            assert (status, answer["error"]["param"]) == (422, param)


async def test_a_body_beyond_all_files_is_refused_unread(make_config: ConfigMaker) -> None:
    async with running(make_config(server={"max_files": 1, "max_file_bytes": 1024})) as app:
        kind = KIND["Content-Type"]
        lines = ("POST /rag/ingest HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}", "Content-Length: 1000000")
        port = int(app.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write("\r\n".join((*lines, "", "")).encode())
        assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 413 ")
        writer.close()

        async def endless() -> AsyncIterator[bytes]:
            yield part("x", filename="a.txt")[:-2]
            for _ in range(100):
                yield b"x" * 10_000

        status, answer = await send(app, endless())
        assert (status, answer["error"]["code"]) == (413, "payload_too_large")


async def test_a_form_that_does_not_come_is_408(make_config: ConfigMaker) -> None:
    async def never() -> AsyncIterator[bytes]:
        yield LIMES
        await asyncio.sleep(60)

    async with running(make_config(server={"body_timeout_s": 0.2})) as app:
        status, answer = await send(app, never())
    assert (status, answer["error"]["type"]) == (408, "timeout_error")


async def test_a_full_disk_is_507(api: RunningApp, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_append", full)
    status, answer = await send(api, form(LIMES))
    assert (status, answer["error"]["code"]) == (507, "insufficient_storage")


# Clients that leave: the fixture sees to it that no file stays.


async def test_files_are_removed_when_the_client_leaves_in_the_middle(api: RunningApp, folder: Path) -> None:
    async with Raw.opened(api, kind=KIND["Content-Type"]) as client:
        await client.send(part("x" * 100_000, filename="a.txt")[:-2])
        await eventually(lambda: any(folder.glob("*/0")), "the file")
    await eventually(lambda: nobody_is_served(api), "the end of the request")


async def test_files_are_removed_when_the_client_leaves_during_the_work(rig: Rig, folder: Path) -> None:
    rig.embedding.on(EMBEDDINGS, hang())
    sending = asyncio.create_task(send(rig.app, form(LIMES)))
    await eventually(lambda: bool(rig.embedding.calls(EMBEDDINGS)), "the service is asked")
    sending.cancel()
    await asyncio.wait({sending})
    await eventually(lambda: nobody_is_served(rig.app), "the end of the request")
