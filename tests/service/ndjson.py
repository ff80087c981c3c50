"""What the tests of streamed ingests share: lines, answers held to their shapes, a client on a bare socket."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from hartonomous.keys import STATE
from tests.service.application import RunningApp
from tests.service.rag import check_answer, check_named

NDJSON = {"Content-Type": "application/x-ndjson"}
PATH = "/rag/ingest"
_CHECKED = 100


def line(id: str, text: str = "Limes are sour.", **fields: Any) -> bytes:  # noqa: A002 - the API's own word
    return json.dumps({"id": id, "text": text, **fields}).encode() + b"\n"


def parsed(app: RunningApp, data: bytes) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the result lines in the order of the request, and the last line; they have the described shapes."""
    assert data.endswith(b"\n")
    *results, last = [json.loads(one) for one in data.splitlines()]
    for result in results[-_CHECKED:]:
        check_named(app, "IngestLine", result)
    check_named(app, "IngestBrokenOff" if "error" in last else "IngestSummary", last)
    assert sum(last["counts"].values()) == len(results)
    return sorted(results, key=lambda one: int(one["line"])), last


async def send(app: RunningApp, data: Any, path: str = PATH, **headers: str) -> tuple[list[dict[str, Any]], Any]:
    """Send a stream that must be answered."""
    async with app.session.post(app.url + path, data=data, headers=NDJSON | headers) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "application/x-ndjson"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.headers["Cache-Control"] == "no-cache"
        results, last = parsed(app, await response.read())
        assert last["request_id"] == response.headers["X-Request-ID"]
        return results, last


async def refused(app: RunningApp, data: Any, path: str = PATH, **headers: str) -> tuple[int, Any]:
    """Send a stream that must be refused with a status."""
    async with app.session.post(app.url + path, data=data, headers=NDJSON | headers) as response:
        answer = await response.json()
        check_answer(app, "post", PATH, response.status, answer)
        return response.status, answer["error"]


async def stored(app: RunningApp, id: str) -> Any:  # noqa: A002
    name = app.runtime.config.rag.default_collection
    status, answer = await app.get(f"/rag/collections/{name}/documents/{id}")
    return answer if status == 200 else status


class Raw:
    """A client on a bare socket, which reads nothing until it is asked to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, app: RunningApp, *headers: str, kind: str = NDJSON["Content-Type"], chunked: bool = True
    ) -> AsyncIterator[Raw]:
        """Connect and send the headers; the connection is broken off at the end."""
        connection = socket.socket()
        # Small buffers: each side feels soon that the other one does not read.
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            connection.setsockopt(socket.SOL_SOCKET, buffer, 65_536)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", urlsplit(app.url).port))
        reader, writer = await asyncio.open_connection(sock=connection, limit=4096)
        head = [f"POST {PATH} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}", *headers]
        head += ["Transfer-Encoding: chunked"] if chunked else []
        writer.write("\r\n".join((*head, "", "")).encode())
        client = cls(reader, writer)
        try:
            yield client
        finally:
            client.leave()

    async def send(self, data: bytes) -> None:
        """Send a chunk, as far as the server takes it."""
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self.writer.drain()

    async def end(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def head(self) -> bytes:
        """Read the headers of the answer."""
        lines = []
        while (one := await asyncio.wait_for(self.reader.readline(), 20)) not in {b"\r\n", b""}:
            lines.append(one)
        return b"".join(lines)

    async def chunk(self) -> bytes:
        """Read a chunk of the answer; nothing at its end."""
        size = int(await asyncio.wait_for(self.reader.readline(), 20), 16)
        data = await asyncio.wait_for(self.reader.readexactly(size + 2), 20)
        return data[:-2]

    async def answer(self) -> bytes:
        """Read the whole answer."""
        assert (await self.head()).startswith(b"HTTP/1.1 200 ")
        parts = []
        while part := await self.chunk():
            parts.append(part)
        return b"".join(parts)

    def leave(self) -> None:
        """Break the connection off."""
        self.writer.transport.abort()


def nobody_is_served(app: RunningApp) -> bool:
    return app.app[STATE].active == 0


async def settled(value: Callable[[], float]) -> float:
    """Return a value that has begun to grow and grows no more."""
    last, since = value(), time.monotonic()
    async with asyncio.timeout(30):
        while not last or time.monotonic() - since < 0.5:
            await asyncio.sleep(0.05)
            if value() != last:
                last, since = value(), time.monotonic()
    return last
