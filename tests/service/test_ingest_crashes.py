"""An ingest killed at random moments, again and again: readers see whole versions, and sending again mends everything.

The server is killed on whatever store the tests run against, the embedded engine in runs of its own. While that goes on
a reader asks a second server, which is never killed. `HARTONOMOUS_TEST_KILLS` says how often, default 4;
`HARTONOMOUS_TEST_SEED` repeats a run.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import yaml

from tests.forked import Forked, hartonomous
from tests.service.application import ConfigMaker, RunningApp, running
from tests.service.vector_store import Engine, free_port

DOCUMENTS = 300
KILLS = int(os.environ.get("HARTONOMOUS_TEST_KILLS", "4"))
SEED = int(os.environ.get("HARTONOMOUS_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
CHUNKING = {"max_tokens": 48, "overlap_tokens": 0}
_MARK = re.compile(r"in round (\d+)")


def text(name: int, version: int) -> str:
    """A document of several chunks, each of which names the version."""
    about = ("valve", "pump", "motor", "cable")
    return "\n\n".join(f"Part {part} of document {name}, its {about[part]}, in round {version}." for part in range(4))


def documents(version: int) -> list[dict[str, Any]]:
    return [{"id": f"d{name}", "text": text(name, version), "title": f"Title {version}"} for name in range(DOCUMENTS)]


class Server:
    """`hartonomous serve` on a port of its own, to be killed."""

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._path = folder / "config.yaml"
        self._path.write_text(yaml.safe_dump({**config, "server": {"port": self.port}}), encoding="utf-8")
        self._process: Forked | None = None

    async def start(self, session: aiohttp.ClientSession) -> None:
        self._process = await hartonomous("serve", "--config", self._path)
        for _ in range(3_000):
            assert self._process.returncode is None, "the server ended"
            with suppress(aiohttp.ClientError):
                async with session.get(self.url + "/ready") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.01)
        raise AssertionError("the server is not ready")

    async def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
            self._process = None


class Reader:
    """Asks for documents all the time and holds every answer to: one whole version, never none."""

    def __init__(self, app: RunningApp, collection: str) -> None:
        self.looks = 0
        self.unavailable = 0
        self.wrong: list[str] = []
        self._app = app
        self._collection = collection
        self._random = random.Random(SEED)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._read()) for _ in range(2)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(outcome, asyncio.CancelledError), outcome

    async def _read(self) -> None:
        while True:
            name = self._random.randrange(DOCUMENTS)
            await (self._look_at_text(name) if self._random.random() < 0.5 else self._search(name))
            self.looks += 1

    async def _look_at_text(self, name: int) -> None:
        status, answer = await self._app.get(f"/rag/collections/{self._collection}/documents/d{name}")
        if self._is_away(status, answer):
            return
        known = (
            status == 200
            and (version := _MARK.search(answer["text"]))
            and answer["text"] == text(name, int(version[1]))
        )
        if not known:
            self.wrong.append(f"document {name}: {status} {answer}")

    async def _search(self, name: int) -> None:
        wanted = {"must": [{"key": "document_id", "match": {"value": f"d{name}"}}]}
        mode = self._random.choice(["hybrid", "dense", "sparse"])
        body = {
            "query": "document part valve pump motor cable",
            "collection": self._collection,
            "filter": wanted,
            "mode": mode,
            "rerank": False,
            "top_k": 50,
        }
        status, answer = await self._app.post("/rag/search", body)
        if self._is_away(status, answer):
            return
        versions = [_MARK.findall(hit["text"]) for hit in answer.get("results", [])]
        seen = {version for found in versions for version in found}
        if status != 200 or len(seen) != 1 or sum(map(len, versions)) != 4:
            self.wrong.append(f"{mode} {name}: {status} {seen} {versions}")

    def _is_away(self, status: int, answer: Any) -> bool:
        """Whether the store was down at this moment, and the answer says so."""
        away = status in {502, 503} and answer["error"]["type"] in {"backend_unavailable", "backend_error"}
        self.unavailable += away
        return away


async def send(session: aiohttp.ClientSession, url: str, collection: str, version: int) -> dict[str, int]:
    """Send all documents; return what became of how many."""
    body = {"collection": collection, "documents": documents(version), "chunking": CHUNKING}
    async with session.post(url + "/rag/ingest", json=body) as response:
        answer = await response.json()
        counts: dict[str, int] = answer.get("counts") or {"refused": response.status}
        return counts


async def send_streamed(
    session: aiohttp.ClientSession, url: str, collection: str, version: int, stored: list[str]
) -> None:
    """Send all documents as lines; put the ids that are told as stored into `stored`, as far as one gets."""
    lines = b"".join(orjson.dumps(document) + b"\n" for document in documents(version))
    query = {"collection": collection, "max_tokens": "48", "overlap_tokens": "0"}
    headers = {"Content-Type": "application/x-ndjson"}
    with suppress(aiohttp.ClientError):
        async with session.post(url + "/rag/ingest", data=lines, params=query, headers=headers) as response:
            async for line in response.content:
                result = orjson.loads(line)
                if result.get("status") in {"created", "updated", "unchanged"}:
                    stored.append(result["id"])


async def until_a_moment(sending: asyncio.Task[None], stored: list[str], chance: random.Random) -> None:
    """Wait until some of the documents are told as stored, or less, or until all is sent."""
    count, wait_s = chance.randrange(DOCUMENTS), chance.uniform(0.0, 0.1)
    while len(stored) < count and not sending.done():
        await asyncio.wait({sending}, timeout=0.005)
    await asyncio.wait({sending}, timeout=wait_s)


async def points(session: aiohttp.ClientSession, store: str, collection: str) -> list[tuple[Any, ...]]:
    """Return every point, seen or not, but for its sequence and time; each says whose it is."""
    body = {"limit": 100_000, "with_payload": True, "with_vector": True}
    async with session.post(f"{store}/collections/{collection}/points/scroll", json=body) as response:
        found = (await response.json())["result"]["points"]
    for point in found:
        assert point["payload"].pop("collection") == collection
        del point["payload"]["sequence"], point["payload"]["updated_at"]
    return sorted((point["id"], point["payload"], point["vector"]) for point in found)


async def taken(session: aiohttp.ClientSession, store: str, collection: str) -> None:
    """Wait until the store has done what a dead server had sent: it may lie unread, and is done before these.

    A server that is started within milliseconds could otherwise be overtaken by it.
    """
    for _ in range(5):
        async with session.post(f"{store}/collections/{collection}/points/count", json={"exact": True}) as response:
            assert response.status == 200


def assert_same_points(one: list[tuple[Any, ...]], other: list[tuple[Any, ...]]) -> None:
    payloads, wanted_payloads = ({name: payload for name, payload, _ in found} for found in (one, other))
    left = {name: payload for name, payload in payloads.items() if payload != wanted_payloads.get(name)}
    assert not left, f"{len(left)} points that are not wanted, among them {dict(list(left.items())[:3])}"
    assert payloads.keys() == wanted_payloads.keys()
    for (_, _, vector), (_, _, wanted) in zip(one, other, strict=True):
        # A text's vector differs in its last digits with what stood beside it in a batch.
        assert vector["dense"] == pytest.approx(wanted["dense"], abs=1e-3)
        assert vector["sparse"] == wanted["sparse"]


async def test_a_server_killed_at_random_moments_leaves_whole_versions_and_is_mended_by_sending_again(
    make_config: ConfigMaker, vector_url: str, collection_name: str, tmp_path: Path
) -> None:
    print(f"HARTONOMOUS_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    config = make_config(rag={"chunking": CHUNKING}, health={"interval_s": 5.0})
    server = Server(config.model_dump(mode="json", include={"backends", "rag"}), tmp_path)
    async with running(config) as app, aiohttp.ClientSession() as session:
        try:
            assert (await send(session, app.url, collection_name, 0))["created"] == DOCUMENTS
            reader = Reader(app, collection_name)
            async with reader.reading():
                await server.start(session)
                for version in range(1, KILLS + 1):
                    await _killed_while_sending(session, server, vector_url, collection_name, version, chance)
                counts = await send(session, server.url, collection_name, KILLS)
                assert counts["failed"] == 0
            assert reader.wrong == []
            assert reader.looks > KILLS
            assert await send(session, server.url, collection_name, KILLS) == _all("unchanged")
            clean = f"{collection_name}-clean"
            assert await send(session, server.url, clean, KILLS) == _all("created")
            assert_same_points(
                await points(session, vector_url, collection_name), await points(session, vector_url, clean)
            )
            await app.delete(f"/rag/collections/{clean}")
        finally:
            await server.kill()
            await app.delete(f"/rag/collections/{collection_name}")


async def _killed_while_sending(
    session: aiohttp.ClientSession,
    server: Server,
    store: str,
    collection: str,
    version: int,
    chance: random.Random,
) -> None:
    """Send a version and kill the server in the middle; what was told as stored is there."""
    stored: list[str] = []
    sending = asyncio.create_task(send_streamed(session, server.url, collection, version, stored))
    await until_a_moment(sending, stored, chance)
    await server.kill()
    await sending
    await taken(session, store, collection)
    print(f"round {version}: {len(stored)} told as stored")
    await server.start(session)
    for name in stored:
        async with session.get(f"{server.url}/rag/collections/{collection}/documents/{name}") as response:
            assert f"in round {version}" in (await response.json())["text"]


async def _read_when_back(app: RunningApp, collection: str, name: str) -> tuple[int, Any]:
    """Return a document; the store's circuit may be open for a moment after its end."""
    async with asyncio.timeout(30):
        while True:
            found = await app.get(f"/rag/collections/{collection}/documents/{name}")
            if found[0] != 503:
                return found
            await asyncio.sleep(0.05)


def _all(status: str) -> dict[str, int]:
    return {"created": 0, "updated": 0, "unchanged": 0, "failed": 0} | {status: DOCUMENTS}


@pytest.mark.skipif("HARTONOMOUS_TEST_QDRANT_URL" in os.environ, reason="a Qdrant of somebody else is not killed")
async def test_an_engine_killed_at_random_moments_loses_nothing_that_was_told_as_stored(
    make_config: ConfigMaker, collection_name: str, tmp_path: Path
) -> None:
    print(f"HARTONOMOUS_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    engine = Engine(tmp_path / "engine")
    config = make_config(
        backends={"qdrant": {"url": engine.url}}, rag={"chunking": CHUNKING}, health={"interval_s": 0.1}
    )
    with engine:
        async with running(config) as app, aiohttp.ClientSession() as session:
            assert (await send(session, app.url, collection_name, 0))["created"] == DOCUMENTS
            reader = Reader(app, collection_name)
            async with reader.reading():
                for version in range(1, KILLS + 1):
                    stored: list[str] = []
                    sending = asyncio.create_task(send_streamed(session, app.url, collection_name, version, stored))
                    await until_a_moment(sending, stored, chance)
                    engine.kill()
                    await asyncio.to_thread(engine.start)
                    await sending
                    print(f"round {version}: {len(stored)} told as stored")
                    for name in stored:
                        status, answer = await _read_when_back(app, collection_name, name)
                        assert (status, f"in round {version}" in answer["text"]) == (200, True)
                counts = await send(session, app.url, collection_name, KILLS)
                assert counts["failed"] == 0
            assert reader.wrong == []
            assert await send(session, app.url, collection_name, KILLS) == _all("unchanged")
            clean = f"{collection_name}-clean"
            assert await send(session, app.url, clean, KILLS) == _all("created")
            assert_same_points(
                await points(session, engine.url, collection_name), await points(session, engine.url, clean)
            )
