"""`hartonomous export` and `hartonomous import`: a collection out as lines and in again, the same or embedded anew."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.application import eventually
from tests.service.commands import Commands, Points
from tests.service.fault_backend import DEFAULT, hang, reply
from tests.service.rag import EMBEDDINGS, Rig, ask, ingest, read
from tests.service.vector_store import drop_collection

LONG = "\n\n".join(
    f"## Part {part}\n\n" + " ".join(f"Word {part * 100 + word}." for word in range(60)) for part in range(6)
)
DOCUMENTS: list[dict[str, Any]] = [
    {"id": "plain", "text": "Limes are green and sour.\n"},
    {
        "id": "long/one",
        "text": LONG + "\n\n",
        "format": "markdown",
        "title": "Parts",
        "metadata": {"n": [1, {"a": None}]},
    },
    {"id": "naïve 🍋", "text": "  Blanks\tbefore,\n\n\n and inside \u2028 of it.", "source": "https://x/🍋"},
]


@pytest.fixture
def commands(rig: Rig, tmp_path: Path) -> Commands:
    return Commands(rig.config, tmp_path)


@pytest.fixture
def points(vector_url: str) -> Points:
    return Points(vector_url)


@pytest.fixture
async def other(vector_url: str, collection_name: str) -> AsyncIterator[str]:
    """The name of another collection, gone after the test."""
    yield f"other-{collection_name[:20]}"
    await drop_collection(vector_url, f"other-{collection_name[:20]}")


def parsed(export: str) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Return header, documents and end of an export."""
    header, *documents, end = map(json.loads, export.rstrip("\n").split("\n"))
    return header, documents, end


def files(folder: Path) -> list[str]:
    """Return the names of the files in a folder."""
    return sorted(path.name for path in folder.iterdir())


def counted(**counts: int) -> str:
    """Return how a summary begins."""
    words = {"created": 0, "updated": 0, "unchanged": 0, "failed": 0} | counts
    return ", ".join(f"{number} {word}" for word, number in words.items())


async def fill(rig: Rig) -> None:
    await ingest(rig.app, *DOCUMENTS, chunking={"max_tokens": 48, "overlap_tokens": 12})


async def test_with_vectors_a_collection_comes_back_point_by_point_without_an_embedding_call(
    rig: Rig, commands: Commands, points: Points, collection_name: str, other: str, tmp_path: Path
) -> None:
    await fill(rig)
    await commands.do("export", collection_name, "--vectors", "--output", tmp_path / "docs.ndjson")
    rig.embedding.requests.clear()
    told = await commands.do("import", tmp_path / "docs.ndjson", "--collection", other)
    assert told.startswith(counted(created=3))
    assert not rig.embedding.calls(EMBEDDINGS)
    exported, imported = await points.all(collection_name), await points.all(other)
    assert {point["payload"].pop("collection") for point in exported.values()} == {collection_name}
    assert {point["payload"].pop("collection") for point in imported.values()} == {other}
    assert imported == exported
    again = await ingest(rig.app, *DOCUMENTS, collection=other, chunking={"max_tokens": 48, "overlap_tokens": 12})
    assert again["counts"]["unchanged"] == 3
    assert not rig.embedding.calls(EMBEDDINGS)


async def test_a_collection_that_was_dropped_is_imported_under_its_own_name(
    rig: Rig, commands: Commands, points: Points, collection_name: str
) -> None:
    await fill(rig)
    export = await commands.do("export", collection_name, "--vectors")
    before = await points.all(collection_name)
    assert await rig.app.delete(f"/rag/collections/{collection_name}") == 204
    await commands.do("import", "-", stdin=export.encode())
    assert await points.all(collection_name) == before


async def test_without_vectors_an_export_is_plain_documents_between_header_and_end(
    rig: Rig, commands: Commands, collection_name: str
) -> None:
    await fill(rig)
    header, documents, end = parsed(await commands.do("export", collection_name))
    assert header["hartonomous_export"] == 1
    assert (header["collection"], header["language"], header["vectors"]) == (collection_name, "english", False)
    assert header["fingerprint"]["dimension"] == 32
    assert end == {"hartonomous_export_end": {"documents": 3, "chunks": await chunks_of(rig)}}
    given = {document["id"]: document for document in DOCUMENTS}
    for document in documents:
        assert set(document) == {"id", "title", "source", "metadata", "format", "text"}
        sent = {"title": None, "source": None, "metadata": {}, "format": "text"} | given[document["id"]]
        assert document == sent | {"text": sent["text"].rstrip()}
    again = await ingest(rig.app, *documents, chunking={"max_tokens": 48, "overlap_tokens": 12})
    assert again["counts"]["unchanged"] == 3


async def chunks_of(rig: Rig) -> int:
    status, answer = await read(rig.app, "/rag/collections", "/rag/collections")
    assert status == 200
    (view,) = [view for view in answer["collections"] if view["name"] == rig.config.rag.default_collection]
    chunks: int = view["chunks"]
    return chunks


async def test_documents_are_embedded_anew_and_imported_again_unchanged(
    rig: Rig, commands: Commands, points: Points, collection_name: str, other: str
) -> None:
    await fill(rig)
    export = (await commands.do("export", collection_name)).encode()
    cut = ("--collection", other, "--max-tokens", 48, "--overlap-tokens", 12)
    told = await commands.do("import", "-", *cut, stdin=export)
    assert told.startswith(counted(created=3))
    assert (await points.all(other)).keys() == (await points.all(collection_name)).keys()
    rig.embedding.requests.clear()
    told = await commands.do("import", "-", *cut, stdin=export)
    assert told.startswith(counted(unchanged=3))
    assert not rig.embedding.calls(EMBEDDINGS)


async def test_imported_vectors_are_left_out_where_they_are_not_wanted(
    rig: Rig, commands: Commands, collection_name: str, other: str
) -> None:
    await fill(rig)
    export = (await commands.do("export", collection_name, "--vectors")).encode()
    rig.embedding.requests.clear()
    await commands.do("import", "-", "--collection", other, "--no-vectors", stdin=export)
    assert rig.embedding.calls(EMBEDDINGS)


async def test_a_change_beside_the_text_alone_is_imported_as_one(
    rig: Rig, commands: Commands, points: Points, collection_name: str
) -> None:
    await fill(rig)
    export = (await commands.do("export", collection_name, "--vectors")).replace('"Parts"', '"Pieces"').encode()
    rig.embedding.requests.clear()
    told = await commands.do("import", "-", stdin=export)
    assert told.startswith(counted(updated=1, unchanged=2))
    assert not rig.embedding.calls(EMBEDDINGS)
    status, document = await rig.app.get(f"/rag/collections/{collection_name}/documents/long/one")
    assert (status, document["title"], document["text"]) == (200, "Pieces", DOCUMENTS[1]["text"].rstrip())


async def test_what_a_file_was_made_of_is_not_parsed_again(rig: Rig, commands: Commands, collection_name: str) -> None:
    lines: list[Any] = [
        {"id": "page", "text": "# A <b>page</b>\n\nnot parsed", "format": "html", "title": "Page"},
        {"id": "pdf", "text": "one\ntwo\nthree", "format": "pdf", "pages": [4, 8]},
    ]
    await commands.do("import", "-", stdin=made(collection_name, *lines))
    export = await commands.do("export", collection_name, "--vectors")
    _, documents, _ = parsed(export)
    by_id = {document["id"]: document for document in documents}
    assert by_id["page"]["text"] == lines[0]["text"]
    assert (by_id["pdf"]["text"], by_id["pdf"]["pages"]) == (lines[1]["text"], [4, 8])
    status, found = await ask(rig.app, "/rag/search", {"query": "three"})
    assert status == 200
    assert {hit["document_id"]: hit.get("page") for hit in found["results"]} == {"page": None, "pdf": 1}
    assert (await commands.do("import", "-", stdin=export.encode())).startswith(counted(unchanged=2))


FINGERPRINT = {"model": "tiny-embedding", "dimension": 32, "query_prefix": "", "document_prefix": ""}


def made(collection: str, *documents: Any, end: Any = None, **header: Any) -> bytes:
    """Return an export with these lines; `end` instead of the true counts."""
    head = {"hartonomous_export": 1, "collection": collection, "fingerprint": FINGERPRINT, "language": "english"}
    counts = {"documents": len(documents), "chunks": 0}
    last = [] if end == "missing" else [{"hartonomous_export_end": end or counts}]
    lines = [head | {"vectors": False} | header, *documents, *last]
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)


CHUNK = {"start": 0, "end": 1, "headings": [], "dense": [1.0] * 32, "sparse": {"indices": [1], "values": [1.0]}}
WITH = {"id": "a", "text": "a", "content_hash": "0" * 64}


async def test_bad_lines_are_told_with_their_numbers_and_the_others_are_stored(
    commands: Commands, collection_name: str
) -> None:
    chunks = [CHUNK, CHUNK | {"dense": [1.0]}]
    lines = [
        WITH | {"chunks": chunks[:1]},
        b"{nonsense",
        WITH | {"id": "b", "chunks": chunks[1:]},
        WITH | {"id": "c", "chunks": chunks[:1]},
    ]
    ended = await commands.run("import", "-", stdin=made(collection_name, *lines, vectors=True))
    assert ended.status == 1
    assert ended.out.startswith(counted(created=2, failed=2))
    told = ["The line is not valid JSON.", "chunks.0.dense must be 32 numbers that are not all zero."]
    assert ended.err.splitlines() == [
        f"line {number}: {sentence}" for number, sentence in zip((3, 4), told, strict=True)
    ]


async def test_what_is_no_export_is_refused_with_a_sentence(commands: Commands) -> None:
    ended = await commands.run("import", "-", stdin=b'{"id": "a", "text": "a"}\n')
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("hartonomous import: This is no export: its first line is not a header.")


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        ("missing", "The export was cut off: its last line is missing (1 documents read)."),
        ({"documents": 2, "chunks": 0}, "The export had 2 documents; 1 were in it."),
    ],
)
async def test_a_file_that_was_cut_off_is_told_and_what_was_there_is_stored(
    rig: Rig, commands: Commands, collection_name: str, end: Any, sentence: str
) -> None:
    export = made(collection_name, {"id": "one", "text": "Limes."}, end=end)
    ended = await commands.run("import", "-", stdin=export)
    assert ended.status == 1
    assert sentence in ended.err
    assert ended.out.startswith(counted(created=1))
    assert (await rig.app.get(f"/rag/collections/{collection_name}/documents/one"))[0] == 200


async def test_lines_behind_the_end_are_told(commands: Commands, collection_name: str) -> None:
    export = made(collection_name, {"id": "one", "text": "Limes."})
    ended = await commands.run("import", "-", stdin=export + b"\n" + export)
    assert ended.status == 1
    assert "Line 5: the export goes on behind its end." in ended.err


async def test_of_an_id_twice_the_later_line_counts(rig: Rig, commands: Commands, collection_name: str) -> None:
    lines = [{"id": "one", "text": f"Limes number {number}."} for number in range(20)]
    assert (await commands.do("import", "-", stdin=made(collection_name, *lines))).startswith(
        counted(created=1, updated=19)
    )
    _, document = await rig.app.get(f"/rag/collections/{collection_name}/documents/one")
    assert document["text"] == "Limes number 19."


async def test_vectors_of_another_model_are_refused_with_what_to_do(
    rig: Rig, commands: Commands, collection_name: str
) -> None:
    line = WITH | {"chunks": [CHUNK]}
    export = made(collection_name, line, vectors=True, fingerprint=FINGERPRINT | {"model": "strange"})
    ended = await commands.run("import", "-", stdin=export)
    assert ended.status == 1
    assert "made by the embedding model 'strange' (32 dimensions" in ended.err
    assert "configured is the embedding model 'tiny-embedding'" in ended.err
    assert "`--no-vectors` imports the documents and embeds them again." in ended.err
    assert collection_name not in [view["name"] for view in (await rig.app.get("/rag/collections"))[1]["collections"]]
    await commands.do("import", "-", "--no-vectors", stdin=export)


async def test_a_new_collection_gets_the_language_of_the_export(
    rig: Rig, commands: Commands, points: Points, collection_name: str
) -> None:
    await commands.do("import", "-", stdin=made(collection_name, {"id": "a", "text": "Limetten"}, language="german"))
    assert (await points.mark(await points.behind(collection_name)))["language"] == "german"
    ended = await commands.run("import", "-", stdin=made(collection_name, WITH | {"chunks": [CHUNK]}, vectors=True))
    assert ended.status == 1
    assert "has the language 'german', the export 'english'" in ended.err


async def test_an_export_that_fails_leaves_the_file_as_it_was(
    rig: Rig, commands: Commands, collection_name: str, tmp_path: Path
) -> None:
    file = tmp_path / "docs.ndjson"
    file.write_text("before")
    await fill(rig)
    rig.qdrant.on(f"/collections/{collection_name}/points/scroll", DEFAULT, reply(500, b"{}"))
    ended = await commands.run("export", collection_name, "--output", file)
    assert ended.status == 1
    assert ended.err.splitlines()[-1] == "hartonomous export: The qdrant service failed (status 500)."
    assert file.read_text() == "before"
    assert files(tmp_path) == ["docs.ndjson", "hartonomous.yaml"]
    rig.qdrant.on(f"/collections/{collection_name}/points/scroll", DEFAULT)
    await commands.do("export", collection_name, "--output", file)
    assert file.read_text().count("\n") == 5


async def test_an_interrupted_export_leaves_nothing(
    rig: Rig, commands: Commands, collection_name: str, tmp_path: Path
) -> None:
    await fill(rig)
    scroll = f"/collections/{collection_name}/points/scroll"
    rig.qdrant.on(scroll, DEFAULT, hang())
    rig.qdrant.requests.clear()
    process = await commands.start("export", collection_name, "--output", tmp_path / "docs.ndjson")
    await eventually(lambda: len(rig.qdrant.calls(scroll)) == 2)
    assert len(files(tmp_path)) == 2
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 130
    assert files(tmp_path) == ["hartonomous.yaml"]


async def test_what_is_not_there_and_what_cannot_be_written_is_one_sentence(
    rig: Rig, commands: Commands, collection_name: str, tmp_path: Path
) -> None:
    ended = await commands.run("export", "nothing-of-the-sort")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == "hartonomous export: There is no collection 'nothing-of-the-sort'.\n"
    await fill(rig)
    ended = await commands.run("export", collection_name, "--output", tmp_path / "no" / "docs.ndjson")
    assert (ended.status, ended.err.count("\n")) == (1, 1)
    assert "No such file or directory" in ended.err
    ended = await commands.run("import", tmp_path / "no.ndjson")
    assert (ended.status, ended.err.count("\n")) == (1, 1)
    ended = await commands.run("import", "-", "--max-tokens", 20, "--overlap-tokens", 11)
    assert ended.status == 2


async def test_while_others_write_every_document_is_exported_once_and_whole(
    rig: Rig, commands: Commands, collection_name: str
) -> None:
    def version(number: int) -> list[dict[str, Any]]:
        words = " ".join(f"version{number}" for _ in range(40))
        return [{"id": f"document-{name}", "text": f"{words} of {name}"} for name in range(40)]

    chunking = {"max_tokens": 64, "overlap_tokens": 0}
    await ingest(rig.app, *version(0), chunking=chunking)
    process = asyncio.create_task(_exports(commands, collection_name))
    number = 0
    while not process.done():
        number += 1
        await ingest(rig.app, *version(number), chunking=chunking)
    known = {document["text"] for one in range(number + 1) for document in version(one)}
    for export in await process:
        _, documents, _ = parsed(export)
        assert sorted(document["id"] for document in documents) == sorted(document["id"] for document in version(0))
        assert {document["text"] for document in documents} <= known


async def _exports(commands: Commands, collection: str) -> list[str]:
    return [await commands.do("export", collection, *options) for options in [(), ("--vectors",), ()]]
