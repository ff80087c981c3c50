"""`/rag/collections` and the documents in them: lists, pages, reading back, deleting, and what a restart leaves."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from tests.service.application import RunningApp, eventually
from tests.service.fault_backend import json_reply
from tests.service.rag import Rig, RigMaker, ask, ingest, read

COLLECTIONS = "/rag/collections"
DOCUMENTS = "/rag/collections/{name}/documents"
DOCUMENT = "/rag/collections/{name}/documents/{id}"


async def collections(app: RunningApp) -> dict[str, Any]:
    status, answer = await read(app, COLLECTIONS, COLLECTIONS)
    assert status == 200, answer
    names = [collection["name"] for collection in answer["collections"]]
    assert names == sorted(names)
    return {collection["name"]: collection for collection in answer["collections"]}


async def page(app: RunningApp, name: str, query: str = "") -> Any:
    status, answer = await read(app, f"{COLLECTIONS}/{name}/documents{query}", DOCUMENTS)
    assert status == 200, answer
    return answer


async def document(app: RunningApp, name: str, document_id: str) -> Any:
    """Return a document, None when there is none."""
    path = URL(f"{COLLECTIONS}/{name}/documents/{quote(document_id, safe='')}", encoded=True)
    async with app.session.get(URL(app.url + str(path), encoded=True)) as response:
        answer = await response.json()
        assert response.status in {200, 404}, answer
        return answer if response.status == 200 else None


async def delete(app: RunningApp, path: str) -> int:
    async with app.session.delete(URL(app.url + path, encoded=True)) as response:
        return response.status


async def test_a_collection_is_listed_with_its_counts_and_its_model(api: RunningApp, collection_name: str) -> None:
    assert collection_name not in await collections(api)
    text = "\n\n".join(f"Paragraph {number} tells of number {number}." for number in range(9))
    await ingest(api, {"id": "a", "text": "One chunk."})
    await ingest(api, {"id": "b", "text": text}, chunking={"max_tokens": 16, "overlap_tokens": 0})
    found = (await collections(api))[collection_name]
    chunks = len((await document(api, collection_name, "b"))["chunks"])
    assert chunks > 2
    assert found == {
        "name": collection_name,
        "documents": 2,
        "chunks": 1 + chunks,
        "dimension": 32,
        "embedding": {"model": "tiny-embedding", "dimension": 32, "query_prefix": "", "document_prefix": ""},
    }


async def test_a_foreign_collection_is_neither_listed_nor_touched(
    api: RunningApp, collection_name: str, vector_url: str
) -> None:
    foreign = f"{collection_name}-foreign"
    vectors = {"vectors": {"dense": {"size": 32, "distance": "Cosine"}}}
    async with aiohttp.ClientSession() as session:
        async with session.put(f"{vector_url}/collections/{foreign}", json=vectors) as response:
            assert response.status == 200
        assert foreign not in await collections(api)
        for path, body in (
            ("/rag/ingest", {"documents": [{"text": "x"}]}),
            ("/rag/search", {"query": "x"}),
            ("/rag/query", {"query": "x"}),
        ):
            status, answer = await ask(api, path, {**body, "collection": foreign})
            assert (status, answer["error"]["code"]) == (409, "foreign_collection")
        base = f"{COLLECTIONS}/{foreign}"
        assert (await read(api, f"{base}/documents", DOCUMENTS))[0] == 409
        assert (await read(api, f"{base}/documents/x", DOCUMENT))[0] == 409
        assert await delete(api, f"{base}/documents/x") == 409
        assert await delete(api, base) == 409
        async with session.delete(f"{vector_url}/collections/{foreign}") as response:
            assert (await response.json())["result"] is True


async def test_a_collection_deleted_while_they_are_listed_is_left_out(rig: Rig) -> None:
    name = rig.config.rag.default_collection
    await ingest(rig.app, "One text.")
    gone = {"status": {"error": f"Not found: Collection `{name}` doesn't exist!"}, "time": 0.0}
    rig.qdrant.on(f"/collections/{name}/points/count", json_reply(gone, 404))
    status, answer = await read(rig.app, COLLECTIONS, COLLECTIONS)
    assert status == 200, answer
    assert name not in {collection["name"] for collection in answer["collections"]}


async def test_documents_are_paged_each_once(api: RunningApp, collection_name: str) -> None:
    ids = {f"document {number}" for number in range(23)}
    await ingest(api, *({"id": name, "text": f"This is {name}.", "title": name} for name in ids))
    seen: list[str] = []
    cursor, pages = None, 0
    while pages == 0 or cursor is not None:
        answer = await page(api, collection_name, "?limit=5" + (f"&cursor={quote(cursor)}" if cursor else ""))
        assert len(answer["documents"]) <= 5
        seen += [found["id"] for found in answer["documents"]]
        cursor, pages = answer["next_cursor"], pages + 1
    assert pages == 5
    assert len(seen) == 23
    assert set(seen) == ids
    whole = await page(api, collection_name)
    assert whole["next_cursor"] is None
    assert [found["id"] for found in whole["documents"]] == seen


async def test_a_listed_document_tells_all_but_its_text(api: RunningApp, collection_name: str) -> None:
    body = {"id": "a", "text": "# T\n\nSome text.", "format": "markdown", "title": "T", "source": "https://x/a"}
    made = await ingest(api, {**body, "metadata": {"deep": {"er": [1, None, "ä"]}}})
    (found,) = (await page(api, collection_name))["documents"]
    assert found.pop("updated_at").endswith("Z")
    assert found == {
        "id": "a",
        "title": "T",
        "source": "https://x/a",
        "metadata": {"deep": {"er": [1, None, "ä"]}},
        "format": "markdown",
        "version": made["documents"][0]["version"],
        "chunks": 1,
    }


BAD_PAGES = [
    ("?limit=0", "limit"),
    ("?limit=-1", "limit"),
    ("?limit=1001", "limit"),
    ("?limit=ten", "limit"),
    ("?limit=", "limit"),
    ("?limit=1.0", "limit"),
    ("?limit=%D9%A3", "limit"),
    ("?limit=" + "9" * 5_000, "limit"),
    ("?cursor=", "cursor"),
    ("?cursor=abc", "cursor"),
    ("?cursor=" + "A" * 5_000, "cursor"),
    ("?cursor=%00", "cursor"),
    ("?cursor=MTIz", "cursor"),
    ("?cursor=%F0%9F%8D%8B", "cursor"),
]


async def test_a_bad_page_is_422(api: RunningApp, collection_name: str) -> None:
    await ingest(api, "One text.")
    for query, param in BAD_PAGES:
        status, answer = await read(api, f"{COLLECTIONS}/{collection_name}/documents{query}", DOCUMENTS)
        assert (status, answer["error"]["param"]) == (422, param), query


TEXTS = {
    "plain": "One sentence. Another one.  Two blanks before this.\tA tab.\r\nA Windows line.\n\n\n\nFour line ends.",
    "unicode": "Zażółć gęślą jaźń. 日本語の文章です。これは二つ目です。 🍋 émoji.  \u2028A line separator.",
    "markdown": "# One\n\nText below.\n\n```python\nx = 1\n\n\ny = 2\n```\n\n| a | b |\n| - | - |\n\n## Two\n\n- a\n",
    "leading": "\n\n   indented first line\n\nsecond paragraph with several more words in it than the first",
    "control": "form\x0cfeed \x1c separators \x85 next line \x0b vertical and more words to make it long enough",
    "long word": "x" * 3_000,
    "many words": "word " * 700,
    "no blanks": "これは長い日本語の文です" * 60,
}


@pytest.mark.parametrize("kind", ["text", "markdown"])
@pytest.mark.parametrize("sizes", [(16, 0), (16, 8), (64, 32)])
async def test_a_document_comes_back_as_it_was_sent(
    faulty_api: RunningApp, collection_name: str, kind: str, sizes: tuple[int, int]
) -> None:
    chunking = {"max_tokens": sizes[0], "overlap_tokens": sizes[1]}
    bodies = [{"id": name, "text": text, "format": kind} for name, text in TEXTS.items()]
    await ingest(faulty_api, *bodies, chunking=chunking)
    for name, text in TEXTS.items():
        found = await document(faulty_api, collection_name, name)
        assert found["text"] == text.rstrip(), name
        for chunk in found["chunks"]:
            assert chunk["text"] == found["text"][chunk["start"] : chunk["end"]]


@pytest.fixture
async def faulty_api(rigs: RigMaker) -> Any:
    """An application whose embedding service takes texts of any length."""
    async with rigs.make() as rig:
        rig.embedding.upstream = None
        yield rig.app


async def test_a_text_of_many_chunks_comes_back_whole(faulty_api: RunningApp, collection_name: str) -> None:
    text = "\n".join(f"Line {number}:  {'and ' * (number % 13)}so on. " for number in range(4_000))
    await ingest(faulty_api, {"id": "long", "text": text}, chunking={"max_tokens": 32, "overlap_tokens": 8})
    found = await document(faulty_api, collection_name, "long")
    assert len(found["chunks"]) > 1_000
    assert found["text"] == text.rstrip()


IDS = [
    "a/b",
    "/a",
    "a/",
    "a//b",
    "with space",
    " ",
    "ä 🍋",
    "100%",
    "%2F",
    "a?b#c",
    "a+b",
    "..",
    "../x",
    ".",
    "documents",
    "a&b=c;d",
    '"\\',
    "{id}",
    "x" * 256,
    "🍋" * 200,
]


async def test_any_id_can_be_read_and_deleted(api: RunningApp, collection_name: str) -> None:
    await ingest(api, *({"id": name, "text": f"Text of {name}."} for name in IDS))
    for number, name in enumerate(IDS):
        assert (await document(api, collection_name, name))["text"] == f"Text of {name}."
        path = f"{COLLECTIONS}/{collection_name}/documents/{quote(name, safe='')}"
        assert await delete(api, path) == 204
        assert await document(api, collection_name, name) is None
        assert (await collections(api))[collection_name]["documents"] == len(IDS) - number - 1


ABSENT = [
    ("nowhere/documents/a", 404),
    ("nowhere/documents", 404),
    ("..%2Fx/documents", 422),
    ("%2e%2e/documents", 422),
    ("a%2Fb/documents/c", 422),
    ("x%0A/documents", 422),
    ("x" * 64 + "/documents", 422),
    ("{name}/documents/absent", 404),
    ("{name}/documents/%00", 422),
    ("{name}/documents/a%0Ab", 422),
    ("{name}/documents/%ff", 404),
    ("{name}/documents/%zz", 404),
    ("{name}/documents/" + "x" * 257, 422),
]


async def test_what_is_not_there_or_cannot_be_is_told_apart(api: RunningApp, collection_name: str) -> None:
    await ingest(api, "Some text.")
    for path, status in ABSENT:
        url = URL(f"{api.url}{COLLECTIONS}/{path.replace('{name}', collection_name)}", encoded=True)
        async with api.session.get(url) as response:
            assert response.status == status, path
            assert (await response.json())["error"]["message"]


async def test_deleting_twice_is_no_error_for_a_document_and_404_for_a_collection(
    api: RunningApp, collection_name: str
) -> None:
    await ingest(api, {"id": "a", "text": "Some text."})
    base = f"{COLLECTIONS}/{collection_name}"
    assert [await delete(api, f"{base}/documents/a") for _ in range(2)] == [204, 204]
    assert (await collections(api))[collection_name]["documents"] == 0
    status, answer = await ask(api, "/rag/search", {"query": "text"})
    assert (status, answer["results"]) == (200, [])
    assert [await delete(api, base) for _ in range(2)] == [204, 404]
    assert collection_name not in await collections(api)
    assert await delete(api, f"{base}/documents/a") == 404
    status, answer = await ask(api, "/rag/search", {"query": "text"})
    assert (status, answer["error"]["code"]) == (404, "collection_not_found")
    assert (await ingest(api, {"id": "a", "text": "Some text."}))["counts"]["created"] == 1


async def test_a_deleted_document_is_created_anew(api: RunningApp, collection_name: str) -> None:
    await ingest(api, {"id": "a", "text": "Some text."})
    await delete(api, f"{COLLECTIONS}/{collection_name}/documents/a")
    assert (await ingest(api, {"id": "a", "text": "Some text."}))["counts"]["created"] == 1
    assert (await document(api, collection_name, "a"))["text"] == "Some text."


async def test_what_was_ingested_is_there_after_a_restart(rigs: RigMaker) -> None:
    async with rigs.make() as rig:
        await ingest(rig.app, {"id": "a", "text": "Limes are green."})
        before = await document(rig.app, rig.config.rag.default_collection, "a")
    async with rigs.make() as rig:
        after = await document(rig.app, rig.config.rag.default_collection, "a")
        assert {**after, "request_id": ""} == {**before, "request_id": ""}
        assert (await ingest(rig.app, {"id": "a", "text": "Limes are green."}))["counts"]["unchanged"] == 1
        status, found = await ask(rig.app, "/rag/search", {"query": "limes", "mode": "sparse"})
        assert status == 200
        assert found["results"][0]["document_id"] == "a"


async def test_with_the_store_down_everything_is_503(rig: Rig) -> None:
    await rig.qdrant.stop()
    base = f"{COLLECTIONS}/{rig.config.rag.default_collection}"
    for path, template in (
        (COLLECTIONS, COLLECTIONS),
        (f"{base}/documents", DOCUMENTS),
        (f"{base}/documents/a", DOCUMENT),
    ):
        status, answer = await read(rig.app, path, template)
        assert (status, answer["error"]["type"]) == (503, "backend_unavailable")
    assert await delete(rig.app, base) == 503
    assert await delete(rig.app, f"{base}/documents/a") == 503


async def test_readers_see_one_whole_version_while_it_is_replaced(rig: Rig) -> None:
    """A reader in a loop, a writer that replaces a document of several chunks twenty times."""
    name = rig.config.rag.default_collection
    texts = [" ".join(f"Version {turn} has sentence {number}." for number in range(8)) for turn in range(20)]
    chunking = {"max_tokens": 36, "overlap_tokens": 0}
    await ingest(rig.app, {"id": "a", "text": texts[0]}, chunking=chunking)
    done = False
    seen: set[str] = set()

    async def reader() -> None:
        while not done:
            seen.add((await document(rig.app, name, "a"))["text"])
            status, answer = await ask(
                rig.app, "/rag/search", {"query": "version sentence", "top_k": 100, "mode": "hybrid", "rerank": False}
            )
            assert status == 200
            (version,) = {hit["text"].split()[1] for hit in answer["results"]}
            assert len(answer["results"]) == 8, version

    reading = asyncio.create_task(reader())
    for text in texts[1:]:
        await ingest(rig.app, {"id": "a", "text": text}, chunking=chunking)
    done = True
    await reading
    assert seen <= set(texts)
    await eventually(lambda: not rig.app.runtime.ingestor.jobs.active_count)
