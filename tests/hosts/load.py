"""Mixed load through a balancer: every document that was acknowledged is remembered, and every request that failed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp

from tests.service.application import eventually
from tests.service.keyed import Key

_LINES = 5
_PAUSE_S = 0.05
_PARTS = 6
_NDJSON = {"Content-Type": "application/x-ndjson"}


def text_of(name: str) -> str:
    """Return the text of a document, of several chunks."""
    return "\n\n".join(
        f"Part {part} of {name} tells how the valve {part * 7} is opened and closed again." * 3
        for part in range(_PARTS)
    )


@dataclass(slots=True)
class Failure:
    """A request that had no whole and right answer, and what is known of it."""

    request_id: str
    kind: str
    what: str


@dataclass(slots=True)
class Load:
    """Workers that ask until they are told to end. `acknowledged` are the names of documents that are stored."""

    url: str
    key: Key
    collection: str
    keep_alive: bool = True
    workers: int = 8
    acknowledged: set[str] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    newest: str = ""
    done: int = 0
    _ends: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Let the workers work; wait until the last of them has its answer."""
        kinds = (self._documents, self._lines, self._query, self._streamed, self._search, self._document)
        connector = aiohttp.TCPConnector(force_close=not self.keep_alive)
        async with aiohttp.ClientSession(self.url, headers=self.key.headers, connector=connector) as session:
            await self._documents(session, {})  # so that there is one to read
            tasks = [
                asyncio.create_task(self._work(session, kinds[number:] + kinds[:number]))
                for number in range(self.workers)
            ]
            try:
                yield
            finally:
                self._ends.set()
                await asyncio.gather(*tasks)

    async def more(self, count: int = 30) -> None:
        """Wait until so many more requests were answered."""
        wanted = self.done + count
        await eventually(lambda: self.done >= wanted, f"{wanted} answers")

    async def _work(self, session: aiohttp.ClientSession, kinds: tuple[Callable[..., Awaitable[None]], ...]) -> None:
        while not self._ends.is_set():
            for kind in kinds:
                await self._one(session, kind)
                await asyncio.sleep(_PAUSE_S)

    async def _one(self, session: aiohttp.ClientSession, kind: Callable[..., Awaitable[None]]) -> None:
        request_id = uuid4().hex
        try:
            async with asyncio.timeout(30):
                await kind(session, {"X-Request-ID": request_id})
        except (aiohttp.ClientError, AssertionError, TimeoutError) as error:
            self.failures.append(Failure(request_id, kind.__name__, f"{type(error).__name__} {error}"))
        self.done += 1

    async def _documents(self, session: aiohttp.ClientSession, headers: dict[str, str]) -> None:
        names = _names(2)
        body = {"collection": self.collection, "documents": [{"id": name, "text": text_of(name)} for name in names]}
        async with session.post("/rag/ingest", json=body, headers=headers) as response:
            answer = await _right(response)
        for result in answer["documents"]:
            self._take(result)

    async def _lines(self, session: aiohttp.ClientSession, headers: dict[str, str]) -> None:
        names = _names(_LINES)
        last: dict[str, Any] = {}
        async with session.post(
            "/rag/ingest", params={"collection": self.collection}, data=_sent(names), headers={**headers, **_NDJSON}
        ) as response:
            assert response.status == 200, f"{response.status} {await response.text()}"
            async for line in response.content:
                last = json.loads(line)
                if "line" in last:
                    self._take(last)
        assert last.get("counts", {}).get("created") == _LINES, f"the end is {last}"

    def _take(self, result: dict[str, Any]) -> None:
        assert result["status"] == "created", result
        self.newest = result["id"]
        self.acknowledged.add(self.newest)

    async def _query(self, session: aiohttp.ClientSession, headers: dict[str, str]) -> None:
        async with session.post("/rag/query", json=self._question(), headers=headers) as response:
            assert (await _right(response))["answer"]

    async def _streamed(self, session: aiohttp.ClientSession, headers: dict[str, str]) -> None:
        async with session.post("/rag/query", json=self._question() | {"stream": True}, headers=headers) as response:
            text = await response.text()
            assert response.status == 200, text
            assert "event: done" in text, text[-300:]

    async def _search(self, session: aiohttp.ClientSession, headers: dict[str, str]) -> None:
        async with session.post("/rag/search", json=self._question(), headers=headers) as response:
            assert "results" in await _right(response)

    async def _document(self, session: aiohttp.ClientSession, headers: dict[str, str]) -> None:
        """Read a document that was acknowledged a moment ago, of another worker as well as not."""
        name = self.newest
        path = f"/rag/collections/{self.collection}/documents/{name}"
        async with session.get(path, headers=headers) as response:
            assert (await _right(response))["text"] == text_of(name)

    def _question(self) -> dict[str, Any]:
        return {"query": f"How is the valve opened? {uuid4().hex}", "collection": self.collection}

    async def missing(self) -> list[str]:
        """Return the acknowledged documents that cannot be read back whole."""
        async with aiohttp.ClientSession(self.url, headers=self.key.headers) as session:
            return [name for name in sorted(self.acknowledged) if not await self._is_whole(session, name)]

    async def _is_whole(self, session: aiohttp.ClientSession, name: str) -> bool:
        async with session.get(f"/rag/collections/{self.collection}/documents/{name}") as response:
            return response.status == 200 and (await response.json())["text"] == text_of(name)


def _names(count: int) -> list[str]:
    return [uuid4().hex for _ in range(count)]


async def _sent(names: list[str]) -> AsyncIterator[bytes]:
    """Send the documents one by one, so that a stream of them lasts a while."""
    for name in names:
        yield json.dumps({"id": name, "text": text_of(name)}).encode() + b"\n"
        await asyncio.sleep(_PAUSE_S)


async def _right(response: aiohttp.ClientResponse) -> Any:
    answer = await response.json()
    assert response.status == 200, f"{response.status} {answer}"
    return answer
