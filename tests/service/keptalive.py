"""Clients that keep their connections and send nothing a second time, so that whatever a server loses is seen."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.service import fault_backend as fault
from tests.service.application import eventually
from tests.service.rag import CHAT
from tests.service.sockets import get, post

WHOLE = b'{"whole":true}'
_ONE = post(CHAT, b'{"messages": []}')
_STREAM = post(CHAT, b'{"messages": [], "stream": true}')
_HEALTH = get("/health")
# The longest that a client thinks before it asks again.
_THINKS_S = 0.1
_WAIT_S = 30.0


class Load:
    """What several clients were answered, by the kind of their requests, and what went `wrong`."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.connections = 0
        self.longest_s = 0.0
        self._address = address
        self._ends = asyncio.Event()

    def end(self) -> None:
        """Let each client have its answer, and ask nothing more."""
        self._ends.set()

    async def client(self, kind: str) -> None:
        """Ask one after the other over a connection as long as it is kept."""
        while not self._ends.is_set():
            try:
                reader, writer = await self._connect()
            except OSError as error:
                self.wrong.append(f"{kind}: not connected: {error}")
                return
            self.connections += 1
            try:
                while await self._ask(kind, reader, writer) and not await self._thought() and not reader.at_eof():
                    continue
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.wrong.append(f"{kind}: {error!r}")
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def more(self, answers: int = 100) -> None:
        """Wait until there are so many more answers."""
        enough = self.answers.total() + answers
        await eventually(lambda: self.answers.total() >= enough or self.wrong, "many answers")

    async def _thought(self) -> bool:
        """Think; return whether it was the end."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ends.wait(), random.uniform(0, _THINKS_S))
        return self._ends.is_set()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._address, str):
            return await asyncio.open_unix_connection(self._address)
        return await asyncio.open_connection(*self._address)

    async def _ask(self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Send a request and read its whole answer; return whether the connection is kept."""
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(_WAIT_S):
            writer.write({"post": _ONE, "stream": _STREAM, "get": _HEALTH}[kind])
            head = await reader.readuntil(b"\r\n\r\n")
            body = await _body(head.lower(), reader)
        self.longest_s = max(self.longest_s, asyncio.get_running_loop().time() - began)
        is_right = (
            b" 200 " in head.split(b"\r\n")[0]
            and {
                "post": body == WHOLE,
                "stream": body.endswith(b"data: [DONE]\n\n") and b"error" not in body,
                "get": b'"version"' in body,
            }[kind]
        )
        if is_right:
            self.answers[kind] += 1
        else:
            self.wrong.append(f"{kind}: {head!r} {body[-200:]!r}")
        return b"connection: close" not in head.lower()


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    if b"transfer-encoding: chunked" not in head:
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        return await reader.readexactly(int(fields[b"content-length"]))
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body


@asynccontextmanager
async def load(address: tuple[str, int] | str, each: int = 3) -> AsyncIterator[Load]:
    """Let so many clients of each kind ask until the block ends, and then have their last answers."""
    clients = Load(address)
    tasks = [asyncio.create_task(clients.client(kind)) for kind in ("post", "stream", "get") for _ in range(each)]
    try:
        yield clients
    finally:
        clients.end()
        await asyncio.gather(*tasks)


def behaviour() -> fault.Behaviour:
    """Return how a model service answers them."""
    whole, events = fault.reply(200, WHOLE), fault.stream(fault.sse(fault.TOKENS), gap_s=0.01)

    async def behave(exchange: fault.Exchange) -> None:
        await (events if exchange.request.json.get("stream") else whole)(exchange)

    return behave
