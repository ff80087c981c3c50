"""A write whose answer is lost, and two processes that write one document: each point once, and none lost."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hartonomous.clients.points import sequence_at
from hartonomous.pipelines import storing
from tests.service.application import ConfigMaker, RunningApp, eventually, running
from tests.service.fault_backend import Behaviour, Exchange, after, done_but_lost, reply
from tests.service.rag import Rig, RigMaker, ask, ingest, passed_on
from tests.service.test_ingest_crashes import CHUNKING, Server, assert_same_points, points, text
from tests.service.test_rows_answers import TOO_LARGE

ROUNDS = 6


def body(document: str, version: int, collection: str) -> dict[str, Any]:
    documents = [{"id": document, "text": text(7, version)}]
    return {"documents": documents, "chunking": CHUNKING, "collection": collection}


def written(rig: Rig, path: str) -> list[set[str]]:
    """Return the ids of the points of each write that came to the store."""
    steps = [
        [step["upsert"] for step in call.json["operations"] if "upsert" in step] for call in rig.qdrant.calls(path)
    ]
    return [{point["id"] for step in upserts for point in step["points"]} for upserts in steps if upserts]


@pytest.mark.parametrize("lost", [0, 1], ids=["writing", "publishing"])
@pytest.mark.parametrize("end", ["reset", "hang"])
async def test_row_20_a_write_that_was_applied_and_whose_answer_was_lost_is_written_again_under_the_same_ids(
    rigs: RigMaker, vector_url: str, end: Any, lost: int
) -> None:
    async with rigs.make(backends={"qdrant": {"timeout_s": 1.0}}) as rig:
        name, clean = rig.config.rag.default_collection, f"{rig.config.rag.default_collection}-clean"
        await ingest(rig.app, *body("a", 1, name)["documents"], chunking=CHUNKING)
        path = f"/collections/{name}/points/batch"
        rig.qdrant.requests.clear()
        as_ever = passed_on(vector_url)
        rig.qdrant.on(path, *[as_ever] * lost, done_but_lost(vector_url, end), as_ever)
        status, answer = await ask(rig.app, "/rag/ingest", body("a", 2, name))
        assert status == 200 or (end == "hang" and status == 504), answer
        status, answer = await ask(rig.app, "/rag/ingest", body("a", 2, name))
        assert (status, answer["counts"]["failed"]) == (200, 0)
        first, *others = written(rig, path)
        assert others or lost == 1
        assert all(ids == first for ids in others)
        await ask(rig.app, "/rag/ingest", body("a", 2, clean))
        async with aiohttp.ClientSession() as session:
            stored = await points(session, vector_url, name)
            assert_same_points(stored, await points(session, vector_url, clean))
        assert {point[0] for point in stored} == first
        outcome = {"reset": "2xx", "hang": "timeout"}[end]
        assert await rig.app.metric(f'hartonomous_backend_requests_total{{outcome="{outcome}",service="qdrant"}}') > 0
        await rig.app.delete(f"/rag/collections/{clean}")


def takes_short_texts(url: str) -> Behaviour:
    """Let the service at `url` answer, but for what is longer than half of a part."""

    async def behave(exchange: Exchange) -> None:
        is_long = max(map(len, exchange.request.json["input"])) > 30
        await (reply(500, TOO_LARGE) if is_long else passed_on(url))(exchange)

    return behave


async def test_a_text_that_two_cut_differently_at_the_same_time_stays_whole(rigs: RigMaker, embedding_url: str) -> None:
    async with rigs.make() as rig, rigs.make() as another:
        name, refused = rig.config.rag.default_collection, asyncio.Event()
        await ingest(rig.app, {"id": "b", "text": "The collection is there."})
        rig.embedding.requests.clear()
        refusing = takes_short_texts(embedding_url)
        rig.embedding.on("/v1/embeddings", after(refusing, refused), refusing)
        late = asyncio.create_task(ask(rig.app, "/rag/ingest", body("a", 1, name)))
        await eventually(lambda: rig.embedding.calls("/v1/embeddings"), "the first ingest embeds")
        status, whole = await ask(another.app, "/rag/ingest", body("a", 1, name))
        assert (status, whole["documents"][0]["status"]) == (200, "created")
        refused.set()
        status, smaller = await late
        assert status == 200
        assert smaller["documents"][0]["chunks"] > whole["documents"][0]["chunks"], "it was cut again"
        assert smaller["documents"][0]["version"] == whole["documents"][0]["version"]
        status, stored = await rig.app.get(f"/rag/collections/{name}/documents/a")
        assert (status, stored["text"]) == (200, text(7, 1))
        spans = [(chunk["start"], chunk["end"]) for chunk in stored["chunks"]]
        assert all(before[1] <= following[0] for before, following in pairwise(spans))
        found = {"must": [{"key": "document_id", "match": {"value": "a"}}]}
        search = {"query": "part", "collection": name, "filter": found, "mode": "dense", "rerank": False, "top_k": 50}
        status, hits = await ask(rig.app, "/rag/search", search)
        spans = sorted((hit["start"], hit["end"]) for hit in hits["results"])
        assert all(before[1] <= following[0] for before, following in pairwise(spans))
        _, again = await ask(another.app, "/rag/ingest", body("a", 1, name))
        assert again["documents"][0]["status"] == "unchanged"


@pytest.mark.parametrize("behind_s", [0.0, 3_600.0], ids=["clocks agree", "clocks are behind"])
async def test_row_28_of_two_processes_that_ingest_one_id_at_the_same_time_one_stays_whole(
    make_config: ConfigMaker,
    collection_name: str,
    vector_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    behind_s: float,
) -> None:
    """Behind what is stored the clocks of the two do not tell who is newer."""
    monkeypatch.setattr(storing, "next_sequence", lambda _: sequence_at(time.time() + behind_s))
    config = make_config(rag={"chunking": CHUNKING}, health={"interval_s": 5.0})
    sections = config.model_dump(mode="json", include={"backends", "rag"})
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(running(config))
        await ingest(app, *body("a", 0, collection_name)["documents"], chunking=CHUNKING)
        servers = []
        for number in range(2):
            (tmp_path / str(number)).mkdir()
            servers.append(Server(sections, tmp_path / str(number)))
            stack.push_async_callback(servers[-1].kill)
            await servers[-1].start(app.session)
        done = asyncio.Event()
        reader = asyncio.create_task(read(app, collection_name, done))
        for number in range(ROUNDS):
            versions = (2 * number + 1, 2 * number + 2)
            answers = await asyncio.gather(
                *(
                    app.session.post(server.url + "/rag/ingest", json=body("a", version, collection_name))
                    for server, version in zip(servers, versions, strict=True)
                )
            )
            assert [answer.status for answer in answers] == [200, 200]
            path = f"/rag/collections/{collection_name}/documents/a"
            status, answer = await app.get(path)
            assert status == 200, answer
            assert answer["text"] in {text(7, version) for version in versions}
        done.set()
        assert await reader > ROUNDS
        await eventually(lambda: not app.runtime.ingestor.jobs.active_count)
        stored = await points(app.session, vector_url, collection_name)
        assert len(stored) == 4
        assert len({payload["content_hash"] for _, payload, _ in stored}) == 1
        await app.delete(f"/rag/collections/{collection_name}")


async def read(app: RunningApp, collection: str, done: asyncio.Event) -> int:
    """Look at the document until `done`, and hold each look to one whole version; return how many there were."""
    looks = 0
    whole = {text(7, version) for version in range(2 * ROUNDS + 1)}
    question = {"query": "valve pump motor cable", "collection": collection, "top_k": 50, "rerank": False}
    while not done.is_set():
        status, answer = await app.get(f"/rag/collections/{collection}/documents/a")
        assert (status, answer["text"] in whole) == (200, True)
        status, answer = await app.post("/rag/search", question)
        assert status == 200
        hits = [hit["text"].rpartition("in round ")[2] for hit in answer["results"]]
        assert (len(hits), len(set(hits))) == (4, 1), hits
        looks += 1
    return looks
