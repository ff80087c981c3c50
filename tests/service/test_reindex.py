"""`hartonomous reindex`: another model's vectors behind the same name, while the old one's server goes on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from hartonomous.config import Config
from tests.forked import Forked
from tests.service.application import ConfigMaker, RunningApp, running
from tests.service.commands import Commands, Ended, Points
from tests.service.fault_backend import FaultBackend, json_reply
from tests.service.gate import Moment, gate
from tests.service.rag import EMBEDDINGS, ask, ingest, passed_on
from tests.service.vector_store import drop_collection

SMALL = {"max_tokens": 48, "overlap_tokens": 12}
CUT = ("--max-tokens", 48, "--overlap-tokens", 12)
LONG = "\n\n".join(f"## Part {part}\n\n" + " ".join(f"Word {part}{word}." for word in range(40)) for part in range(4))
DOCUMENTS: list[dict[str, Any]] = [
    {"id": "plain", "text": "Limes are green and sour.\n"},
    {"id": "long/one", "text": LONG + "\n", "format": "markdown", "title": "Parts", "metadata": {"n": [1]}},
    {"id": "naïve 🍋", "text": "  Blanks\tbefore,\n\n and inside.", "source": "https://x/🍋"},
]


@dataclass(slots=True)
class Models:
    """Servers with the old and with the new model before one store, and commands of the new one."""

    old: RunningApp
    new: RunningApp
    config: Config
    commands: Commands
    points: Points
    embedding: FaultBackend
    collection: str
    folder: Path
    store: str

    def behind(self, url: str) -> Commands:
        """Return commands whose store is reached at another address."""
        qdrant = self.config.backends.qdrant.model_copy(update={"url": url})
        backends = self.config.backends.model_copy(update={"qdrant": qdrant})
        folder = self.folder / "behind"
        folder.mkdir(exist_ok=True)
        return Commands(self.config.model_copy(update={"backends": backends}), folder)

    async def documents(self, app: RunningApp) -> dict[str, Any]:
        """Return what a server lists, but for what a new model changes."""
        found: list[Any] = []
        cursor: str | None = ""
        while cursor is not None:
            status, page = await app.get(f"/rag/collections/{self.collection}/documents?limit=50{cursor}")
            assert status == 200, page
            found += page["documents"]
            cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"
        assert len({one["id"] for one in found}) == len(found)
        return {one["id"]: {key: one[key] for key in one if key not in {"version", "chunks"}} for one in found}

    async def texts(self, app: RunningApp) -> dict[str, str]:
        """Return the text of each document."""
        texts = {}
        for name in await self.documents(app):
            status, document = await app.get(f"/rag/collections/{self.collection}/documents/{name}")
            assert status == 200
            texts[name] = document["text"]
        return texts

    async def check_clean(self, *documents: dict[str, Any], chunking: dict[str, int] | None = None) -> None:
        """Fail unless the collection is what a clean ingest by the new model makes of these documents."""
        clean = f"clean-{self.collection[:20]}"
        try:
            await ingest(self.new, *documents, collection=clean, chunking=chunking or SMALL)
            found, wanted = await self.points.all(self.collection), await self.points.all(clean)
            check_names(found, self.collection)
            check_names(wanted, clean)
            check_alike(found, wanted)
        finally:
            await self.new.delete(f"/rag/collections/{clean}")
        target = await self.points.behind(self.collection)
        assert await self.points.physical(self.collection) == [target]
        metadata = (await self.points.ask("GET", f"/collections/{target}"))["config"]["metadata"]
        assert metadata.keys() == {"hartonomous"}
        assert "state" not in metadata["hartonomous"]

    async def search(self, app: RunningApp) -> tuple[int, Any]:
        """Ask a question."""
        status, answer = await ask(app, "/rag/search", {"query": "limes", "top_k": 20, "rerank": False})
        return status, {hit["document_id"] for hit in answer["results"]} if status == 200 else answer["error"]["code"]


def check_names(points: dict[str, Any], collection: str) -> None:
    """Fail unless each point says that it is of this collection; then take that away."""
    assert {point["payload"].pop("collection") for point in points.values()} == {collection}


def check_alike(found: dict[str, Any], clean: dict[str, Any]) -> None:
    """Compare points; a vector's last digits depend on what was embedded in the same call."""
    assert found.keys() == clean.keys()
    for name, point in found.items():
        assert point["payload"] == clean[name]["payload"]
        assert point["vector"]["sparse"] == clean[name]["vector"]["sparse"]
        assert point["vector"]["dense"] == pytest.approx(clean[name]["vector"]["dense"], abs=1e-3)


Maker = Callable[..., Any]


@pytest.fixture
def models(
    make_config: ConfigMaker, wide_embedding_url: str, vector_url: str, collection_name: str, tmp_path: Path
) -> Maker:
    """Return what starts the servers; `alike`: the new model has the dimension of the old one."""

    @asynccontextmanager
    async def make(*, alike: bool = False, **changes: Any) -> AsyncIterator[Models]:
        old = make_config(health={"interval_s": 60.0})
        upstream = old.backends.embedding.urls[0].url if alike else wide_embedding_url
        async with FaultBackend(upstream=upstream) as embedding:
            service = {"urls": (embedding.url,)} | ({"model": "another-model"} if alike else {})
            backends = {"embedding": service} | changes.pop("backends", {})
            new = make_config(health={"interval_s": 60.0}, backends=backends, **changes)
            async with running(old) as old_app, running(new) as new_app:
                commands, points = Commands(new, tmp_path), Points(vector_url)
                yield Models(old_app, new_app, new, commands, points, embedding, collection_name, tmp_path, vector_url)
        await drop_collection(vector_url, collection_name)

    return make


async def test_a_collection_is_embedded_by_another_model_and_nothing_else_of_it_changes(models: Maker) -> None:
    async with models() as rig:
        await ingest(rig.old, *DOCUMENTS, chunking=SMALL)
        documents, texts = await rig.documents(rig.old), await rig.texts(rig.old)
        assert await rig.search(rig.old) == (200, set(documents))
        assert await rig.search(rig.new) == (409, "embedding_model_mismatch")
        told = await rig.commands.do("reindex", rig.collection, *CUT)
        assert told.startswith(f"{rig.collection}: 3 documents, ")
        assert "by tiny-wide-embedding (" in told
        assert await rig.documents(rig.new) == documents
        assert await rig.texts(rig.new) == texts
        assert await rig.search(rig.new) == (200, set(documents))
        await eventually_refused(rig)
        await rig.check_clean(*DOCUMENTS)
        rig.embedding.requests.clear()
        again = await ingest(rig.new, *DOCUMENTS, chunking=SMALL)
        assert again["counts"]["unchanged"] == 3
        assert not rig.embedding.calls(EMBEDDINGS)


async def eventually_refused(rig: Models) -> None:
    """Wait until the old model's server has noticed the switch."""
    for _ in range(300):
        if await rig.search(rig.old) == (409, "embedding_model_mismatch"):
            return
        await asyncio.sleep(0.02)
    pytest.fail("the switch was not noticed")


async def test_pages_and_formats_of_files_are_kept(models: Maker) -> None:
    async with models() as rig:
        lines = [
            {"hartonomous_export": 1, "collection": rig.collection, "language": "german", "vectors": False},
            {"id": "pdf", "text": "one\ntwo\nthree", "format": "pdf", "pages": [4, 8]},
            {"id": "page", "text": "# Page\n\ntext", "format": "html", "title": "Page"},
            {"hartonomous_export_end": {"documents": 2, "chunks": 0}},
        ]
        (rig.folder / "old").mkdir()
        old = Commands(rig.old.runtime.config, rig.folder / "old")
        fingerprint = {"fingerprint": {"model": "m", "dimension": 1, "query_prefix": "", "document_prefix": ""}}
        await old.do("import", "-", stdin=ndjson(lines[0] | fingerprint, *lines[1:]))
        before = await old.do("export", rig.collection)
        await rig.commands.do("reindex", rig.collection)
        after = await rig.commands.do("export", rig.collection)
        assert before.split("\n")[1:] == after.split("\n")[1:]
        assert (await rig.points.mark(await rig.points.behind(rig.collection)))["language"] == "german"
        told = await rig.commands.do("reindex", rig.collection, "--language", "english")
        assert "nothing to do" not in told
        assert (await rig.points.mark(await rig.points.behind(rig.collection)))["language"] == "english"


def ndjson(*lines: Any) -> bytes:
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


async def test_what_is_as_configured_is_left_alone_unless_it_is_forced(models: Maker) -> None:
    async with models() as rig:
        await ingest(rig.new, *DOCUMENTS, chunking=SMALL)
        target = await rig.points.behind(rig.collection)
        rig.embedding.requests.clear()
        told = await rig.commands.do("reindex", rig.collection, *CUT)
        assert told == (
            f"{rig.collection}: nothing to do, it is as the configuration wants it (--force embeds it again)\n"
        )
        assert not rig.embedding.calls(EMBEDDINGS)
        assert await rig.points.behind(rig.collection) == target
        await rig.commands.do("reindex", rig.collection, *CUT, "--force")
        assert rig.embedding.calls(EMBEDDINGS)
        assert await rig.points.behind(rig.collection) != target
        await rig.check_clean(*DOCUMENTS)


async def test_another_chunking_or_other_settings_are_reason_enough(models: Maker) -> None:
    async with models(backends={"qdrant": {"collections": {"distance": "dot"}}}) as rig:
        await ingest(rig.new, *DOCUMENTS, chunking=SMALL)
        assert "nothing to do" in await rig.commands.do("reindex", rig.collection, *CUT)
        assert "nothing to do" not in await rig.commands.do("reindex", rig.collection, "--max-tokens", 24)
        await rig.check_clean(*DOCUMENTS, chunking={"max_tokens": 24, "overlap_tokens": 12})
    async with models() as rig:
        assert rig.config.backends.qdrant.collections.distance == "cosine"


async def test_what_others_write_and_delete_meanwhile_is_there_afterwards(models: Maker) -> None:
    async with models() as rig:
        writer = Writer(rig)
        await writer.write(*(f"d{number}" for number in range(30)))
        held = Held(rig.embedding)
        process = await rig.commands.start("reindex", rig.collection, *CUT)
        await held.reached.wait()
        await writer.write("d3", "d4", "new1", "new2")
        await writer.delete("d5", "d6", "new2")
        await writer.write("d6")
        held.open()
        await ended(process)
        await writer.check(rig.new)


@pytest.mark.parametrize("alike", [False, True])
async def test_a_writer_that_never_rests_loses_nothing_that_was_answered(models: Maker, alike: bool) -> None:
    """What the pipeline's text says may come back is not deleted here."""
    async with models(alike=alike) as rig:
        writer = Writer(rig, deletes=not alike)
        await writer.write(*(f"d{number}" for number in range(50)))
        process = await rig.commands.start("reindex", rig.collection, *CUT)
        running_command = asyncio.create_task(ended(process))
        steps = 0
        while await writer.step():
            steps += 1
        await running_command
        assert steps > 10
        await writer.check(rig.new)
        await rig.check_clean(*writer.documents())


async def test_searches_go_on_before_and_after_the_switch(models: Maker) -> None:
    async with models() as rig:
        await ingest(rig.old, *DOCUMENTS, chunking=SMALL)
        names = {document["id"] for document in DOCUMENTS}
        process = await rig.commands.start("reindex", rig.collection, *CUT)
        running_command = asyncio.create_task(ended(process))
        seen = []
        while not running_command.done():
            # One after the other: when the old one has seen the switch, so does the new one.
            answers = await rig.search(rig.old), await rig.search(rig.new)
            assert (200, names) in answers, answers
            seen.append(answers)
        await running_command
        assert seen[0][0] == (200, names)
        assert await rig.search(rig.new) == (200, names)


class Held:
    """Holds the embedding service back from its first call on."""

    def __init__(self, backend: FaultBackend) -> None:
        self.reached, self._opened = asyncio.Event(), asyncio.Event()

        async def behave(exchange: Any) -> None:
            self.reached.set()
            await self._opened.wait()
            await passed_on(str(backend.upstream))(exchange)

        backend.on(EMBEDDINGS, behave)

    def open(self) -> None:
        self._opened.set()


class Writer:
    """Writes and deletes documents through the old model's server, and knows what was answered.

    Without `deletes` its steps delete nothing.
    """

    def __init__(self, rig: Models, *, deletes: bool = True) -> None:
        self._rig = rig
        self._app = rig.old
        self._deletes = deletes
        self._random = random.Random(7)
        self._number = 0
        self._written: set[str] = set()
        self._refused: dict[str, str] = {}
        self.stored: dict[str, str] = {}

    def go_to(self, app: RunningApp) -> None:
        """Write through another server from now on."""
        self._app = app

    def documents(self) -> list[dict[str, Any]]:
        """Return what is stored."""
        return [{"id": name, "text": text} for name, text in self.stored.items()]

    async def write(self, *names: str) -> bool:
        """Write a new text under each id, and return whether it was taken; what is refused may be there or not."""
        self._number += 1
        texts = {name: f"Text {self._number} of {name}: " + " ".join(["lime"] * 40) for name in names}
        body = {"documents": [{"id": name, "text": text} for name, text in texts.items()], "chunking": SMALL}
        _, answer = await self._app.post("/rag/ingest", body)
        for document in answer.get("documents", ()):
            if document["status"] != "failed":
                self.stored[document["id"]] = texts[document["id"]]
        self._refused = {name: text for name, text in texts.items() if self.stored.get(name) != text}
        return not self._refused

    async def delete(self, *names: str) -> None:
        """Delete documents."""
        for name in names:
            if await self._app.delete(f"/rag/collections/{self._rig.collection}/documents/{name}") == 204:
                self.stored.pop(name, None)

    async def step(self) -> bool:
        """Write a document and perhaps delete one that no step has written; return whether the first was taken."""
        name = f"d{self._random.randrange(50)}"
        if not await self.write(name):
            return False
        self._written.add(name)
        old = sorted(self.stored.keys() - self._written)
        if self._deletes and old and self._random.random() < 0.4:
            await self.delete(self._random.choice(old))
        return True

    async def check(self, app: RunningApp) -> None:
        """Fail unless a server has exactly what was answered, and perhaps what was refused at last."""
        found = await self._rig.texts(app)
        self.stored |= {name: text for name, text in self._refused.items() if found.get(name) == text}
        assert found == self.stored


async def ended(process: Forked) -> Ended:
    """Wait for a command that must succeed."""
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return Ended(0, out.decode(), err.decode())


def changing(method: str, path: str, holds: bytes = b"", *, after: str | None = None) -> Moment:
    """Return the moment of such a request, if need be behind one whose path ends so."""
    passed = after is None

    def moment(called: str, where: str, body: bytes) -> bool:
        nonlocal passed
        found = passed and called == method and path in where and holds in body
        passed = passed or (after is not None and where.endswith(after))
        return found

    return moment


ALIASES = "/collections/aliases"
MOMENTS: dict[str, Callable[[], Moment]] = {
    "before the first chunk is written": partial(changing, "POST", "/points/batch"),
    "before the old one is marked": partial(changing, "PATCH", "/collections/", b'"replaced"'),
    "before the new one is complete": partial(changing, "PATCH", "/collections/", b'"complete"'),
    "before the alias is switched": partial(changing, "POST", ALIASES),
    "before the last comparison": partial(changing, "POST", "/points/scroll", after=ALIASES),
    "before the old one is deleted": partial(changing, "DELETE", "/collections/"),
    "before the mark is cleared": partial(changing, "PATCH", "/collections/", b'"hartonomous_reindex":null'),
}


async def killed(rig: Models, moment: Moment, cut: Sequence[object] = CUT) -> None:
    """Kill a reindex at a moment, as `kill -9` does."""
    async with gate(rig.store, moment) as made:
        process = await rig.behind(made.url).start("reindex", rig.collection, *cut)
        async with asyncio.timeout(60):
            await made.reached.wait()
        process.kill()
        await process.communicate()


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("when", MOMENTS)
async def test_killed_and_run_again_it_ends_the_same_with_what_was_written_in_between(
    models: Maker, when: str, alike: bool
) -> None:
    async with models(alike=alike) as rig:
        writer = Writer(rig)
        await writer.write(*(f"d{number}" for number in range(12)))
        await killed(rig, MOMENTS[when]())
        if not await writer.write("d1", "new"):
            writer.go_to(rig.new)
            assert await writer.write("d1", "new")
        await writer.delete("d2", "d3")
        await rig.commands.do("reindex", rig.collection, *CUT)
        await writer.check(rig.new)
        await rig.check_clean(*writer.documents())


async def own_name(rig: Models) -> None:
    """Make the collection as version 1 did, under its own name, with some documents."""
    vectors = {"dense": {"size": 32, "distance": "Cosine"}}
    fingerprint = {"model": "tiny-embedding", "dimension": 32, "query_prefix": "", "document_prefix": ""}
    mark = {"hartonomous": {"schema": 1, "fingerprint": fingerprint, "language": "english"}}
    body = {"vectors": vectors, "sparse_vectors": {"sparse": {"modifier": "idf"}}, "metadata": mark}
    await rig.points.ask("PUT", f"/collections/{rig.collection}", body)
    await ingest(rig.old, *DOCUMENTS, chunking=SMALL)
    await rig.points.ask("PATCH", f"/collections/{rig.collection}", {"metadata": mark})


async def test_a_collection_of_version_1_becomes_an_alias(models: Maker) -> None:
    async with models() as rig:
        await own_name(rig)
        ended = await rig.commands.run("reindex", rig.collection, *CUT, "--keep")
        assert (ended.status, await rig.points.physical(rig.collection)) == (1, [rig.collection])
        assert "cannot be kept" in ended.err
        await rig.commands.do("reindex", rig.collection, *CUT)
        await rig.check_clean(*DOCUMENTS)


@pytest.mark.parametrize(
    "when", ["before the new one is complete", "before the old one is deleted", "before the alias is switched"]
)
async def test_a_collection_of_version_1_is_not_lost_when_its_reindex_is_killed(models: Maker, when: str) -> None:
    async with models() as rig:
        await own_name(rig)
        await killed(rig, MOMENTS[when]())
        await rig.commands.do("reindex", rig.collection, *CUT)
        await rig.check_clean(*DOCUMENTS)


async def test_what_is_written_between_the_last_comparison_and_the_switch_is_not_lost(models: Maker) -> None:
    async with models() as rig:
        writer = Writer(rig)
        await writer.write(*(f"d{number}" for number in range(12)))
        async with gate(rig.store, changing("POST", ALIASES)) as made:
            process = await rig.behind(made.url).start("reindex", rig.collection, *CUT)
            await made.reached.wait()
            assert await writer.write("d1", "new")
            await writer.delete("d2", "d3")
            made.open()
            await ended(process)
        await writer.check(rig.new)
        await rig.check_clean(*writer.documents())


async def test_what_is_written_and_deleted_after_the_switch_is_not_undone(models: Maker) -> None:
    async with models() as rig:
        writer = Writer(rig)
        await writer.write(*(f"d{number}" for number in range(12)))
        async with gate(rig.store, changing("POST", "/points/scroll", after=ALIASES)) as made:
            process = await rig.behind(made.url).start("reindex", rig.collection, *CUT)
            await made.reached.wait()
            writer.go_to(rig.new)
            assert await writer.write("d1", "new", "d4")
            await writer.delete("d2", "d3", "d4")
            assert await writer.write("d3")
            made.open()
            await ended(process)
        await writer.check(rig.new)
        await rig.check_clean(*writer.documents())


async def test_what_was_embedded_before_a_kill_costs_no_embedding_call_again(models: Maker) -> None:
    async with models() as rig:
        writer = Writer(rig)
        await writer.write(*(f"d{number}" for number in range(40)))
        chunks = len(await rig.points.all(rig.collection))
        await killed(rig, second_publication())
        (target,) = set(await rig.points.physical(rig.collection)) - {await rig.points.behind(rig.collection)}
        points = await rig.points.all(target)
        kept = sum(point["payload"]["visible"] for point in points.values())
        assert 0 < kept < chunks
        rig.embedding.requests.clear()
        await rig.commands.do("reindex", rig.collection, *CUT)
        embedded = sum(len(call.json["input"]) for call in rig.embedding.calls(EMBEDDINGS))
        assert embedded == chunks - kept
        await rig.check_clean(*writer.documents())


def second_publication() -> Moment:
    """Return the moment at which documents are to be shown and others are already."""
    publications = 0

    def moment(method: str, path: str, body: bytes) -> bool:
        nonlocal publications
        publications += "/points/batch" in path and b'"payload":{"visible":true}' in body
        return publications == 2

    return moment


async def test_an_interrupted_reindex_that_cut_in_another_way_is_begun_anew(models: Maker) -> None:
    async with models() as rig:
        await ingest(rig.old, *DOCUMENTS, chunking=SMALL)
        for size in (48, 32):
            cut = ("--max-tokens", size, "--overlap-tokens", 0)
            await killed(rig, MOMENTS["before the old one is marked"](), cut)
        await rig.commands.do("reindex", rig.collection, "--max-tokens", 24, "--overlap-tokens", 0)
        await rig.check_clean(*DOCUMENTS, chunking={"max_tokens": 24, "overlap_tokens": 0})


async def test_the_old_collection_is_kept_where_that_is_wanted(models: Maker) -> None:
    async with models() as rig:
        await ingest(rig.old, *DOCUMENTS, chunking=SMALL)
        old = await rig.points.behind(rig.collection)
        before = await rig.points.all(old)
        told = await rig.commands.do("reindex", rig.collection, *CUT, "--keep")
        assert told.endswith(f"; the old one is kept as {old}\n")
        assert await rig.points.all(old) == before
        assert await rig.points.physical(rig.collection) == sorted([old, await rig.points.behind(rig.collection)])


async def test_when_documents_cannot_be_embedded_nothing_is_switched(models: Maker) -> None:
    async with models() as rig:
        await ingest(rig.old, *DOCUMENTS, chunking=SMALL)
        rig.embedding.on(EMBEDDINGS, json_reply({"data": []}))
        ended = await rig.commands.run("reindex", rig.collection, *CUT)
        assert (ended.status, ended.out) == (1, "")
        assert ended.err.startswith(("plain: ", "long/one: ", "naïve"))
        assert "hartonomous reindex: 3 documents could not be copied. Run this again" in ended.err
        assert await rig.search(rig.old) == (200, {document["id"] for document in DOCUMENTS})
        rig.embedding.on(EMBEDDINGS, passed_on(str(rig.embedding.upstream)))
        await rig.commands.do("reindex", rig.collection, *CUT)
        await rig.check_clean(*DOCUMENTS)


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("reindex", "no-such-collection"), 1, "hartonomous reindex: There is no collection 'no-such-collection'."),
        (("reindex", "../x"), 2, "'../x' is no name of a collection"),
        (("reindex", "docs", "--max-tokens", "5"), 2, "chunks of 5 tokens"),
        (("reindex", "docs", "--language", "klingon"), 2, "unknown language 'klingon'"),
    ],
)
async def test_what_cannot_be_done_is_said_in_a_sentence(
    models: Maker, arguments: Any, status: int, sentence: str
) -> None:
    async with models() as rig:
        ended = await rig.commands.run(*arguments)
        assert ended.status == status
        assert sentence in ended.err
        assert "Traceback" not in ended.err
