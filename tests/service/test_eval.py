"""`hartonomous eval`: a collection measured on the backends, and nothing left of it."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hartonomous.config import Config
from hartonomous.evaluation.runs import SCRATCH
from tests.service.application import WAIT_S, ConfigMaker
from tests.service.commands import Commands, Points
from tests.service.fault_backend import DEFAULT, FaultBackend, reply
from tests.service.gate import gate
from tests.service.rag import EMBEDDINGS
from tests.service.vector_store import drop_collection

WORDS = ("lime", "pump", "valve", "rotor", "wing", "cable", "lamp", "stone", "river", "glass", "copper", "wheat")
NAMES = ["dense", "sparse", "hybrid", "hybrid + feedback", "hybrid + reranking"]


def write_folder(root: Path) -> Path:
    """Each question's words are in one document, of several chunks, and nowhere else."""
    folder = root / "set"
    (folder / "qrels").mkdir(parents=True)
    filler = " ".join(f"Sentence {number} says nothing." for number in range(30))
    corpus = [{"_id": f"d{word}", "title": f"On {word}", "text": f"{filler} The {word} is here."} for word in WORDS]
    corpus.append({"_id": "empty", "title": "", "text": ""})
    queries = [{"_id": f"q{word}", "text": f"where is the {word}?"} for word in WORDS]
    qrels = ["query-id\tcorpus-id\tscore", *(f"q{word}\td{word}\t1" for word in WORDS)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels))
    return folder


@dataclass(slots=True)
class Rig:
    """Commands whose embedding service can be held up, and the store past them."""

    commands: Commands
    points: Points
    embedding: FaultBackend
    folder: Path
    store: str
    config: Config

    def behind(self, url: str, folder: Path) -> Commands:
        """Return commands whose store is reached at another address."""
        qdrant = self.config.backends.qdrant.model_copy(update={"url": url})
        backends = self.config.backends.model_copy(update={"qdrant": qdrant})
        (folder / "behind").mkdir()
        return Commands(self.config.model_copy(update={"backends": backends}), folder / "behind")

    async def scratch(self) -> list[str]:
        """Return the scratch collections that there are."""
        names = [entry["name"] for entry in (await self.points.ask("GET", "/collections"))["collections"]]
        return [name for name in names if name.startswith(SCRATCH)]


@pytest.fixture
async def rig(make_config: ConfigMaker, embedding_url: str, vector_url: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with FaultBackend(upstream=embedding_url) as embedding:
        config = make_config(backends={"embedding": {"urls": (embedding.url,)}})
        yield Rig(Commands(config, tmp_path), Points(vector_url), embedding, write_folder(tmp_path), vector_url, config)


async def test_every_kind_of_search_is_measured_and_the_scratch_collection_deleted(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    ended = await rig.commands.run("eval", rig.folder, "--json", file, "--max-tokens", 32, "--overlap-tokens", 0)
    assert ended.status == 0, ended
    report: dict[str, Any] = json.loads(file.read_text())
    assert [result["name"] for result in report["results"]] == NAMES
    assert report["feeding"]["documents"] == len(WORDS) == report["questions"]
    assert report["feeding"]["chunks"] > 2 * len(WORDS)
    assert report["left_out"]["empty_documents"] == 1
    for result in report["results"]:
        assert result["recall@100"] == 1.0, "every document is found by some chunk"
        assert result["latency_ms"]["p95"] >= result["latency_ms"]["median"] > 0
    assert report["results"][1]["nDCG@10"] == 1.0, "words find the one document that has them"
    rows = [line for line in ended.out.splitlines() if line.startswith(tuple(NAMES))]
    assert [row.split("  ")[0] for row in rows] == NAMES
    assert f"{report['results'][0]['nDCG@10']:.4f}" in rows[0]
    assert "1 documents have no text" in ended.out
    assert f"feeding: {len(WORDS)} of {len(WORDS)}" in ended.err
    assert await rig.scratch() == []


async def test_the_report_can_be_json_alone_and_says_that_there_is_no_reranker(
    make_config: ConfigMaker, vector_url: str, tmp_path: Path
) -> None:
    config = make_config().model_copy()
    backends = config.backends.model_copy(update={"reranking": None})
    commands = Commands(config.model_copy(update={"backends": backends}), tmp_path)
    folder = write_folder(tmp_path)
    report = json.loads(await commands.do("eval", folder, "--format", "json"))
    assert [result["name"] for result in report["results"]] == NAMES[:-1]
    assert "No reranking: " in await commands.do("eval", folder)


@pytest.mark.parametrize("moment", ["/points/query/batch", "/points/batch"], ids=["searching", "writing"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_nothing_is_left_of_an_interrupted_run(
    rig: Rig, moment: str, number: signal.Signals, status: int, tmp_path: Path
) -> None:
    """Not even by a write that was under way and would make the collection again."""
    async with gate(rig.store, lambda _, path, __: moment in path) as held:
        process = await rig.behind(held.url, tmp_path).start("eval", rig.folder)
        await asyncio.wait_for(held.reached.wait(), WAIT_S)
        assert len(await rig.scratch()) == 1
        process.send_signal(number)
        held.open()
        out, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert (process.returncode, out) == (status, b"")
    assert await rig.scratch() == []


async def test_what_a_kill_leaves_is_known_by_its_name_and_told(rig: Rig, tmp_path: Path) -> None:
    async with gate(rig.store, lambda _, path, __: "/points/query" in path) as held:
        process = await rig.behind(held.url, tmp_path).start("eval", rig.folder)
        await asyncio.wait_for(held.reached.wait(), WAIT_S)
        process.kill()
        await process.wait()
    (left,) = await rig.scratch()
    ended = await rig.commands.run("eval", rig.folder)
    assert ended.status == 0
    assert f"{left.partition('@')[0]} belongs to another eval, or was left behind by one that was killed" in ended.err
    assert await rig.scratch() == [left]
    await drop_collection(rig.store, left.partition("@")[0])


async def test_a_backend_that_fails_ends_it_with_a_sentence_and_leaves_nothing(rig: Rig) -> None:
    rig.embedding.on(EMBEDDINGS, *[DEFAULT] * 2, reply(500))
    ended = await rig.commands.run("eval", rig.folder)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.splitlines()[-1].startswith("hartonomous eval: ")
    assert "Traceback" not in ended.err
    assert await rig.scratch() == []


async def test_a_scratch_collection_can_be_kept(rig: Rig) -> None:
    ended = await rig.commands.run("eval", rig.folder, "--keep")
    (kept,) = await rig.scratch()
    assert f"kept: the collection {kept.partition('@')[0]}" in ended.err
    await drop_collection(rig.store, kept.partition("@")[0])


async def test_bad_folders_and_files_are_refused_before_anything_is_embedded(rig: Rig, tmp_path: Path) -> None:
    (rig.folder / "queries.jsonl").write_text("{}")
    for arguments, sentence in (
        (("eval", rig.folder), "queries.jsonl, line 1: no _id"),
        (("eval", tmp_path / "none"), "corpus.jsonl: cannot be read: No such file or directory"),
        (("eval", write_folder(tmp_path / "good"), "--json", tmp_path / "no" / "file"), "cannot be written"),
        (("eval", tmp_path / "good" / "set", "--max-tokens", 1), "chunks of 1 tokens"),
    ):
        ended = await rig.commands.run(*arguments)
        assert (ended.status, ended.out) == (2, ""), ended
        assert sentence in ended.err
        assert len(ended.err.splitlines()) == 1
    assert not rig.embedding.calls(EMBEDDINGS)
