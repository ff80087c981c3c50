"""A server killed before each single backend call of an ingest: whole versions, and a clean state by sending again."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.service.application import ConfigMaker, RunningApp, running
from tests.service.fault_backend import Behaviour, Exchange, FaultBackend
from tests.service.rag import passed_on
from tests.service.test_ingest_crashes import CHUNKING, Server, assert_same_points, points, text

NAME = 7
COUNTED = {"X-Request-ID": "counted"}


class Killer:
    """Counts the backend calls of the requests whose id is `counted`, and kills the server before a certain one."""

    def __init__(self) -> None:
        self.killed = asyncio.Event()
        self._server: Server | None = None
        self._left = 0

    def arm(self, server: Server, before: int) -> None:
        """Let the server be killed when it makes this call, counted from 1."""
        self.killed.clear()
        self._server, self._left = server, before

    def disarm(self) -> None:
        """Let the server live."""
        self._server = None

    def in_front_of(self, url: str) -> Behaviour:
        """Pass calls on to the backend at `url` as long as the server lives."""

        async def behave(exchange: Exchange) -> None:
            counted = exchange.request.headers.get("X-Request-ID") == COUNTED["X-Request-ID"]
            self._left -= counted
            server = self._server
            if server is None or not counted or self._left != 0:
                await passed_on(url)(exchange)
                return
            await server.kill()
            self.killed.set()
            await exchange.hang()

        return behave


async def ingest(session: aiohttp.ClientSession, url: str, collection: str, version: int, **headers: str) -> int:
    """Send one version of the document; return the status, 0 where the server was killed."""
    document = {"id": "a", "text": text(NAME, version), "title": f"Title {version}"}
    body = {"documents": [document], "chunking": CHUNKING, "collection": collection}
    try:
        async with session.post(url + "/rag/ingest", json=body, headers=headers) as response:
            return response.status
    except aiohttp.ClientError:
        return 0


async def versions_read(app: RunningApp, collection: str) -> set[str]:
    """Return the texts of the document and of all its hits put together; none of a document that is not there."""
    status, answer = await app.get(f"/rag/collections/{collection}/documents/a")
    question = {"query": "valve pump motor cable", "collection": collection, "top_k": 50, "rerank": False}
    found, hits = await app.post("/rag/search", question)
    if status == 404:
        assert found == 404 or hits["results"] == []
        return set()
    chunks = sorted(hits["results"], key=lambda hit: hit["start"])
    return {answer["text"], "\n\n".join(hit["text"].strip() for hit in chunks)}


@pytest.mark.parametrize("first", [False, True], ids=["a new version", "the first document"])
async def test_row_21_killed_before_any_backend_call_of_an_ingest_versions_are_whole_and_the_next_ingest_mends_it(
    make_config: ConfigMaker,
    collection_name: str,
    embedding_url: str,
    vector_url: str,
    tmp_path: Path,
    first: bool,
) -> None:
    killer, clean = Killer(), f"{collection_name}-clean"
    config = make_config(rag={"chunking": CHUNKING}, health={"interval_s": 5.0})
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(running(config))
        embedding, qdrant = [
            await stack.enter_async_context(FaultBackend(upstream=url)) for url in (embedding_url, vector_url)
        ]
        embedding.otherwise, qdrant.otherwise = killer.in_front_of(embedding_url), killer.in_front_of(vector_url)
        sections: dict[str, Any] = config.model_dump(mode="json", include={"backends", "rag"})
        sections["backends"]["embedding"]["urls"] = [embedding.url]
        sections["backends"]["qdrant"]["url"] = qdrant.url
        server = Server(sections, tmp_path)
        stack.push_async_callback(server.kill)
        await ingest(app.session, app.url, collection_name, 0)
        await server.start(app.session)
        status, version = 0, 0
        while status == 0:
            version += 1
            if first:
                async with app.session.delete(f"{server.url}/rag/collections/{collection_name}") as response:
                    assert response.status == 204
            killer.arm(server, version)
            status = await ingest(app.session, server.url, collection_name, version, **COUNTED)
            if status == 0:
                await asyncio.wait_for(killer.killed.wait(), 10)
            killer.disarm()
            old = set() if first else {text(NAME, version - 1)}
            assert await versions_read(app, collection_name) in (old, {text(NAME, version)})
            if status == 0:
                await server.start(app.session)
            assert await ingest(app.session, server.url, collection_name, version) == 200
            assert await versions_read(app, collection_name) == {text(NAME, version)}
            await ingest(app.session, app.url, clean, version)
            assert_same_points(
                await points(app.session, vector_url, collection_name), await points(app.session, vector_url, clean)
            )
        assert (status, version > 4) == (200, True)  # it was killed before four calls at the least
        for name in (collection_name, clean):
            await app.delete(f"/rag/collections/{name}")
