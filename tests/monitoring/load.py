"""The load: everything that a server counts happens again and again, its failures as well."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp

from tests.faults.kinds import Faults, latency, refuse
from tests.monitoring.stack import ALICE, BOB, COLLECTION, OPERATOR, Stack
from tests.parsing.pdf_writer import text_pdf
from tests.service.keyed import Key

_TEXT = "The Aurora is a reading lamp. Its battery lasts {0} hours. It comes in white, in green and in colour {0}."
_HTML = "<html><body><article><h1>Lamp {0}</h1><p>Lamp {0} is cleaned with a dry cloth.</p></article></body></html>"
_FAULT_S = 1.5
_WELL_S = 1.5
_PAUSE_S = 0.05


class Load:
    """Callers of a stack; each does one kind of thing, over and over, until `ended` is set."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._numbers = itertools.count()
        self.ended = asyncio.Event()

    async def run(self) -> None:
        """Load the stack; what is under way at the end is finished."""
        connector = aiohttp.TCPConnector(ssl=self._stack.tls, limit=0)
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(self._stack.url, connector=connector, timeout=timeout) as self._session:
            await self.ingest()
            async with asyncio.TaskGroup() as group:
                for action in (
                    self.query,
                    self.same_query,
                    self.stream,
                    self.leave,
                    self.follow_up,
                    self.relay,
                    self.search,
                    self.batch,
                    self.ingest,
                    self.refused,
                    self.tenant,
                    self.reload,
                    self.faults,
                ):
                    group.create_task(self._repeat(action))

    async def _repeat(self, action: Callable[[], Awaitable[None]]) -> None:
        while not self.ended.is_set():
            with suppress(aiohttp.ClientError):
                await action()
            await asyncio.sleep(_PAUSE_S)

    async def _post(self, path: str, body: Any, key: Key = ALICE, **options: Any) -> int:
        options = {"json": body} | options
        async with self._session.post(path, headers=key.headers, **options) as response:
            await response.read()
            return response.status

    async def _get(self, path: str, headers: dict[str, str] | None = None) -> int:
        async with self._session.get(path, headers=ALICE.headers if headers is None else headers) as response:
            await response.read()
            return response.status

    async def query(self) -> None:
        """Ask something new; in pieces, with sources where the model is away, and what finds nothing."""
        question = f"How long does the battery of lamp {next(self._numbers)} last?"
        await self._post("/rag/query", {"query": question})
        await self._post("/rag/query", {"query": question, "on_failure": "sources", "max_tokens": 8})
        nothing = {"must": [{"key": "metadata.there", "match": {"value": "not"}}]}
        await self._post("/rag/query", {"query": question, "filter": nothing})

    async def same_query(self) -> None:
        """Ask what was asked before."""
        await self._post("/rag/query", {"query": "What is the Aurora?"})

    async def stream(self) -> None:
        """Read streams of both kinds."""
        question = f"Which colours does lamp {next(self._numbers)} have?"
        await self._post("/rag/query", {"query": question, "stream": True})
        messages = [{"role": "user", "content": question}]
        await self._post("/v1/chat/completions", {"model": f"rag:{COLLECTION}", "messages": messages, "stream": True})

    async def leave(self) -> None:
        """Leave an answer while it is made."""
        with suppress(TimeoutError):
            async with asyncio.timeout(0.15):
                body = {"query": f"And {next(self._numbers)}?", "max_tokens": 500, "stream": True}
                await self._post("/rag/query", body)

    async def follow_up(self) -> None:
        """Ask something that does not stand alone."""
        said = [
            {"role": "user", "content": "What is the Aurora?"},
            {"role": "assistant", "content": f"The Aurora is reading lamp {next(self._numbers)}."},
        ]
        await self._post("/rag/query", {"query": "Which colours does it have?", "messages": said})

    async def relay(self) -> None:
        """Ask the models directly."""
        chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        await self._post("/v1/chat/completions", {**chat, "stream": True, "stream_options": {"include_usage": True}})
        await self._post("/v1/embeddings", {"input": ["a lamp", "a cloth"], "model": "any"})
        await self._post("/v1/rerank", {"query": "lamp", "documents": ["a lamp", "a cloth"]})
        await self._get("/v1/models")

    async def search(self) -> None:
        """Search, with feedback too."""
        query = f"lamp {next(self._numbers)}"
        await self._post("/rag/search", {"query": query, "feedback": True})
        await self._post("/rag/search", {"query": query, "mode": "sparse", "rerank": False})

    async def batch(self) -> None:
        """Ask several things at once: more than the model takes."""
        queries = [{"query": f"lamp {next(self._numbers)}?"} for _ in range(4)]
        await self._post("/rag/batch-query", {"queries": queries})

    async def ingest(self) -> None:
        """Send documents of every kind: new ones, the same again, files, what cannot be taken; and delete some."""
        number = next(self._numbers)
        new = {"id": f"lamp-{number % 50}", "text": _TEXT.format(number)}
        await self._post("/rag/ingest", {"documents": [new, {"id": "same", "text": "Wipe it with a dry cloth."}]})
        await self._post("/rag/ingest", {"documents": [{"id": "empty", "text": " "}, new]})
        await self._post("/rag/ingest", {"documents": [{"text": _HTML.format(number), "format": "html"}]})
        with aiohttp.MultipartWriter("form-data") as form:
            for name, data in (("lamp.pdf", text_pdf(f"The lamp {number}.")), ("broken.pdf", b"%PDF-1.7 no more")):
                part = form.append(data)
                part.set_content_disposition("form-data", name="file", filename=name)
            await self._post("/rag/ingest", None, json=None, data=form)
        path = f"/rag/collections/{COLLECTION}/documents/lamp-{number % 50}"
        async with self._session.delete(path, headers=ALICE.headers) as response:
            await response.read()

    async def refused(self) -> None:
        """Do what is refused: wrong keys, wrong scopes, wrong paths, wrong bodies."""
        for _ in range(2):
            await self._get("/rag/collections", {"Authorization": "Bearer wrong"})
        await self._get("/admin/logs")
        await self._get("/nowhere")
        await self._post("/rag/query", {"nothing": 1})
        await self._get("/ready")

    async def tenant(self) -> None:
        """Ask more than a tenant may."""
        await self._post("/rag/search", {"query": "lamp"}, BOB)

    async def reload(self) -> None:
        """Reload a configuration that has changed, and one that is wrong."""
        for change in ("log: {kept_records: 1000}", "nonsense: 1", "log: {kept_records: 2000}"):
            self._stack.reconfigure(change)
            await self._post("/admin/config/reload", {}, OPERATOR)
            await asyncio.sleep(_WELL_S)

    async def faults(self) -> None:
        """Spoil the models, one after the other."""
        proxies = self._stack.proxies
        faults: tuple[tuple[str, Faults], ...] = (
            ("embedding-b", latency(0.8, way="down")),
            ("reranking", refuse()),
            ("embedding-b", refuse()),
            ("generative", refuse()),
        )
        for name, fault in faults:
            await proxies[name].set(fault)
            await asyncio.sleep(_FAULT_S)
            await proxies[name].set()
            await asyncio.sleep(_WELL_S)
