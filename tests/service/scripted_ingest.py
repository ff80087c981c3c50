"""A server that speaks the contract of `/rag/ingest` over a dictionary, and breaks it when a test says so.

The client's behaviour under faults is what is tested with it; that the true application speaks the same contract is
shown where `hartonomous ingest` runs against it.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, web

Json = dict[str, Any]
PAGE = 3


@dataclass
class Trouble:
    """What happens to one request: a status at once, or an end of the stream after so many results."""

    status: int | None = None
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    after: int = 0
    end: str = ""  # abort, hang, fatal, early, garbage, endless


def error(kind: str, message: str, **fields: Any) -> Json:
    """Return an error object."""
    return {"message": message, "type": kind, "param": None, "code": kind, **fields}


class ScriptedServer:
    """Its documents by id, what it was sent, and the troubles of the next requests."""

    def __init__(self) -> None:
        self.url = ""
        self.documents: dict[str, Json] = {}
        self.requests: list[web.Request] = []
        self.streams: list[list[Json]] = []
        self.uploads: list[Json] = []
        self.deleted: list[str] = []
        self.troubles: deque[Trouble] = deque()
        self.upload_troubles: deque[Trouble] = deque()
        self.list_trouble: Trouble | None = None
        self.failures: dict[str, deque[Json]] = {}
        self.read_bytes = 0
        self.pause_s = 0.0
        self.released = asyncio.Event()

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=2**30)
        documents = "/rag/collections/{name}/documents"
        app.router.add_post("/rag/ingest", self._ingest)
        app.router.add_get(documents, self._list)
        app.router.add_delete(documents + "/{id}", self._delete)
        return app

    async def _ingest(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if request.content_type == "multipart/form-data":
            return await self._upload(request)
        assert request.content_type == "application/x-ndjson"
        trouble = self.troubles.popleft() if self.troubles else Trouble()
        if trouble.status is not None:
            return web.json_response(trouble.body, status=trouble.status, headers=trouble.headers)
        return await self._stream(request, trouble)

    async def _stream(self, request: web.Request, trouble: Trouble) -> web.StreamResponse:
        seen: list[Json] = []
        self.streams.append(seen)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        tokens = number = 0
        if trouble.end == "early":
            await self._line(response, self._summary(0))
            return response
        while raw := await request.content.readline():
            self.read_bytes += len(raw)
            number += 1
            if not raw.strip():
                continue
            document = json.loads(raw)
            seen.append(document)
            if trouble.end and len(seen) > trouble.after:
                await self._end(request, response, trouble)
                return response
            await asyncio.sleep(self.pause_s)
            result = self._take(document["id"], document.get("source"), raw.decode())
            tokens += result["tokens"]
            await self._line(response, {"line": number, **result})
        await self._line(response, self._summary(tokens))
        return response

    async def _end(self, request: web.Request, response: web.StreamResponse, trouble: Trouble) -> None:
        if trouble.end == "abort":
            assert request.transport is not None
            request.transport.abort()
        elif trouble.end == "hang":
            await self.released.wait()
        elif trouble.end == "garbage":
            await response.write(b"<html>\n")
        elif trouble.end == "endless":
            await response.write(b"x" * 2**21)
        else:
            await self._line(response, {"error": trouble.body, "counts": {}, "request_id": "r"})

    @staticmethod
    async def _line(response: web.StreamResponse, value: Json) -> None:
        await response.write(json.dumps(value).encode() + b"\n")

    @staticmethod
    def _summary(tokens: int) -> Json:
        return {"collection": "docs", "counts": {}, "usage": {"embedding_tokens": tokens}, "request_id": "r"}

    def _take(self, name: str, source: str | None, content: str) -> Json:
        if self.failures.get(name):
            failed = self.failures[name].popleft()
            return {"id": name, "status": "failed", "version": None, "chunks": 0, "error": failed, "tokens": 0}
        old = self.documents.get(name)
        status = "created" if old is None else "unchanged" if old["content"] == content else "updated"
        self.documents[name] = {"id": name, "source": source, "content": content}
        tokens = 0 if status == "unchanged" else 10
        return {"id": name, "status": status, "version": "v", "chunks": 2, "error": None, "tokens": tokens}

    async def _upload(self, request: web.Request) -> web.Response:
        trouble = self.upload_troubles.popleft() if self.upload_troubles else Trouble()
        if trouble.status is not None:
            return web.json_response(trouble.body, status=trouble.status, headers=trouble.headers)
        fields: Json = {}
        content = b""
        async for part in await request.multipart():
            assert isinstance(part, BodyPartReader)
            if part.filename is None:
                fields[str(part.name)] = await part.text()
            else:
                fields["filename"], content = part.filename, bytes(await part.read())
        self.uploads.append({**fields, "size": len(content)})
        result = self._take(fields["id"], fields["filename"], repr(content))
        usage = {"embedding_tokens": result.pop("tokens")}
        answer: Json = {"collection": "docs", "documents": [result], "usage": usage, "request_id": "r"}
        if result["error"] is not None:
            answer["error"] = result["error"]
            return web.json_response(answer, status=422)
        return web.json_response(answer)

    async def _list(self, request: web.Request) -> web.Response:
        if self.list_trouble is not None:
            return web.json_response(self.list_trouble.body, status=self.list_trouble.status or 500)
        start = int(request.query.get("cursor", "0"))
        found = sorted(self.documents)
        page = [{"id": name, "source": self.documents[name]["source"]} for name in found[start : start + PAGE]]
        cursor = str(start + PAGE) if start + PAGE < len(found) else None
        return web.json_response({"documents": page, "next_cursor": cursor, "request_id": "r"})

    async def _delete(self, request: web.Request) -> web.Response:
        self.deleted.append(request.match_info["id"])
        self.documents.pop(request.match_info["id"], None)
        return web.Response(status=204)


@asynccontextmanager
async def scripted(server: ScriptedServer, port: int = 0) -> AsyncIterator[ScriptedServer]:
    """Serve on a port, a free one unless it is given."""
    runner = web.AppRunner(server.app(), access_log=None, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        server.released.set()
        await runner.cleanup()
