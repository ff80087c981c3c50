"""`hartonomous ingest` with the real application, its vector store and its embedding service."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
import yaml

from tests.service.application import ConfigMaker, RunningApp, eventually
from tests.service.ingest_cli import Cli, hurry, process
from tests.service.vector_store import free_port

TEXTS = 24


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, base_s=0.05)


@pytest.fixture
def cli(api: RunningApp, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(api.url, capsys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty files: texts, Markdown and HTML, a PDF and a DOCX; an empty one, a binary one, one that cannot be read."""
    made = tmp_path / "handbook"
    (made / "sub").mkdir(parents=True)
    for number in range(TEXTS):
        ending = ("md", "txt", "html")[number % 3]
        place = made / "sub" if number % 2 else made
        text = f"This is page {number} of the handbook, about the number {number}."
        (place / f"{number}.{ending}").write_text(
            f"<html><body><p>{text}</p></body></html>" if ending == "html" else text
        )
    (made / "latin.html").write_bytes(
        b"<html><head><meta charset=latin-1></head><body><p>\xc4rger im B\xfcro.</p></body>"
    )
    write_files_of_others(made)
    (made / "empty.txt").touch()
    (made / "binary.txt").write_bytes(bytes(range(256)))
    (made / "torn.md").symlink_to("/proc/self/mem")
    return made


def write_files_of_others(made: Path) -> None:
    import docx

    from tests.parsing.pdf_writer import content, pages_pdf

    document = docx.Document()
    document.add_paragraph("A paragraph in a word processor's file.")
    document.save(str(made / "letter.docx"))
    (made / "paper.PDF").write_bytes(pages_pdf([content("A page on paper."), content("Another page.")]))


STORED = TEXTS + 3
EMBEDDED = 'hartonomous_tokens_total{direction="in",service="embedding"}'


async def listed(app: RunningApp, collection: str) -> dict[str, str]:
    """Return the source of every document by its id."""
    status, answer = await app.get(f"/rag/collections/{collection}/documents?limit=1000")
    assert status == 200, answer
    return {document["id"]: document["source"] for document in answer["documents"]}


async def test_a_folder_of_mixed_files_is_stored_and_kept_like_the_disk(
    api: RunningApp, collection_name: str, cli: Cli, folder: Path
) -> None:
    first = await cli("--metadata", "team=ops", folder)
    assert first.status == 1
    assert first.summary.startswith(f"{STORED} created, 0 updated, 0 unchanged, 3 failed in "), first
    complaints = sorted(first.err.splitlines()[-3:])
    assert complaints[0] == "handbook/binary.txt: is not UTF-8 text"
    assert complaints[1].startswith("handbook/empty.txt: ")
    assert complaints[2] == "handbook/torn.md: cannot be read: input/output error"
    stored = await listed(api, collection_name)
    assert len(stored) == STORED
    assert all(name == source for name, source in stored.items())

    tokens = await api.metric(EMBEDDED)
    assert tokens > 0
    again = await cli("--metadata", "team=ops", folder)
    assert again.summary.startswith(f"0 created, 0 updated, {STORED} unchanged, 3 failed in ")
    assert await api.metric(EMBEDDED) == tokens

    for name in ("empty.txt", "binary.txt", "torn.md", "paper.PDF"):
        (folder / name).unlink()
    (folder / "0.md").write_text("Something else altogether.")
    changed = await cli("--metadata", "team=ops", "--prune", folder)
    assert changed.status == 0, changed
    assert changed.summary.startswith(f"0 created, 1 updated, {STORED - 2} unchanged, 0 failed, 1 deleted in ")
    assert set(stored) - set(await listed(api, collection_name)) == {"handbook/paper.PDF"}
    _, document = await api.get(f"/rag/collections/{collection_name}/documents/handbook%2F0.md")
    assert (document["text"], document["metadata"]) == ("Something else altogether.", {"team": "ops"})


async def test_what_is_sent_is_found_by_its_text(api: RunningApp, collection_name: str, cli: Cli, folder: Path) -> None:
    await cli(folder)
    for words, name in (("Ärger Büro", "latin.html"), ("word processor", "letter.docx"), ("paper", "paper.PDF")):
        _, answer = await api.post("/rag/search", {"query": words, "mode": "sparse", "top_k": 1})
        assert answer["results"][0]["document_id"] == f"handbook/{name}"


async def test_ndjson_from_standard_input_is_passed_through(
    api: RunningApp, collection_name: str, tmp_path: Path
) -> None:
    lines = tmp_path / "documents.ndjson"
    lines.write_text('{"id": "a", "text": "One."}\n\n{"id": "b"}\n{"text": "Three.", "source": "s"}\n')
    program = [sys.executable, "-m", "hartonomous", "ingest", "--url", api.url, "-"]
    with lines.open("rb") as file:
        running = await asyncio.create_subprocess_exec(
            *program, stdin=file, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await running.communicate()
    assert running.returncode == 1
    assert err.decode() == "line 3 (b): text is required.\n"
    assert out.startswith(b"2 created, 0 updated, 0 unchanged, 1 failed in ")
    assert "a" in await listed(api, collection_name)


async def test_a_refused_parameter_is_told_in_the_servers_words(cli: Cli, folder: Path) -> None:
    outcome = await cli("--max-tokens", "8", folder / "sub")
    assert (outcome.status, outcome.err) == (1, "max_tokens must be at least 16.\n")
    outcome = await cli("--collection", "../x", folder / "sub")
    assert outcome.status == 1
    assert "collection must match" in outcome.err


async def test_watch_picks_up_a_change(api: RunningApp, collection_name: str, folder: Path) -> None:
    async with process("--url", api.url, "--watch", "--prune", "--exclude", "torn.md", folder) as running:
        await eventually(lambda: running.out, "the first pass")
        (folder / "new.md").write_text("A new page.")
        await eventually(lambda: "created handbook/new.md\n" in running.err, "the new page")
        (folder / "letter.docx").unlink()
        await eventually(lambda: "deleted handbook/letter.docx\n" in running.err, "the deletion")
        stored = await listed(api, collection_name)
        assert "handbook/new.md" in stored
        assert "handbook/letter.docx" not in stored
        running.interrupt()
        assert (await running.outcome()).status == 130


class Serve:
    """`hartonomous serve` as a process, to be killed and started again on the same port."""

    def __init__(self, config: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._config = config
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "hartonomous",
            "serve",
            "--config",
            str(self._config),
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            await self._process.wait()


@pytest.fixture
async def serve(make_config: ConfigMaker, tmp_path: Path) -> AsyncIterator[Serve]:
    port = free_port()
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(make_config(server={"port": port}).model_dump(mode="json", exclude_none=True)))
    made = Serve(path, port)
    yield made
    await made.kill()


async def stored_count(serve: Serve, collection: str) -> int:
    """Return how many documents the collection has, 0 while nobody knows."""
    url = f"{serve.url}/rag/collections/{collection}/documents?limit=1000"
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return len((await response.json()).get("documents", ()))
    except aiohttp.ClientError:
        return 0


async def reached(serve: Serve, collection: str, count: int) -> None:
    """Wait until the collection has so many documents."""
    for _ in range(1_000):
        if await stored_count(serve, collection) >= count:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"{count} documents were never stored")


async def test_a_server_killed_in_the_middle_and_started_again_gets_everything(
    serve: Serve, collection_name: str, tmp_path: Path
) -> None:
    made = tmp_path / "many"
    made.mkdir()
    for number in range(300):
        (made / f"{number}.txt").write_text(f"This is text {number}. " + f"It has some words, like {number}. " * 4)
    async with process("--url", serve.url, made) as running:
        await eventually(lambda: "connection refused" in "".join(running.err), "saying that nobody is there")
        for part in (30, 120):
            await serve.start()
            await reached(serve, collection_name, part)
            await serve.kill()
        await serve.start()
        outcome = await running.outcome()
    assert outcome.status == 0, outcome
    assert " 0 failed in " in outcome.summary
    assert await stored_count(serve, collection_name) == 300
