"""Load that does not wait: requests at a given rate, whatever becomes of those before:
`python -m tests.bench.flood PORT REQUEST RATE SECONDS DEADLINE_S`.

REQUEST is a file with a whole request; `%08d` in it is another number each time. Who has no answer when DEADLINE_S has
passed goes away. Prints as JSON how many were sent, and of what came of them in the second half of the time, when
everything that queues does: answers a second that were a success and in time, how many were refused, late, or broken.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections import Counter
from pathlib import Path

from tests.bench.backend import length

_MOST_CONNECTIONS = 4_000
_TICK_S = 0.002


class Connection(asyncio.Protocol):
    """A connection that asks one thing at a time."""

    def __init__(self, flood: Flood) -> None:
        self._flood = flood
        self._data = b""
        self._timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, request: bytes, due: float) -> None:
        """Send a request that is due since a time of the loop."""
        assert self.transport is not None
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(due + self._flood.deadline_s, self._late)
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Look whether the answer is whole."""
        self._data += data
        end = self._data.find(b"\r\n\r\n") + 4
        if end < 4 or len(self._data) < end + length(self._data[:end]):
            return
        status, closes = self._data[9:12], b"connection: close" in self._data[:end].lower()
        self._data = b""
        self._done("ok" if status == b"200" else "refused" if status in {b"429", b"503"} else "failed")
        if closes and self.transport is not None:
            self.transport.close()
        else:
            self._flood.idle.append(self)

    def connection_lost(self, _: Exception | None) -> None:
        """Whoever waits gets no answer any more."""
        self.transport = None
        self._flood.open -= 1
        if self._timer is not None:
            self._done("broken")

    def _late(self) -> None:
        self._done("late")
        assert self.transport is not None
        self.transport.abort()

    def _done(self, what: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._flood.count(what)


class Flood:
    """Requests at a rate, over as many connections as that takes."""

    def __init__(self, port: int, request: bytes, rate: float, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        self.idle: list[Connection] = []
        self.open = 0
        self._port = port
        self._request = request
        self._rate = rate
        self._counts: Counter[str] = Counter()
        self._counted_from = float("inf")
        self._tasks: set[asyncio.Task[None]] = set()

    def count(self, what: str) -> None:
        """Note how a request ended."""
        if time.monotonic() >= self._counted_from:
            self._counts[what] += 1

    async def run(self, seconds: float) -> dict[str, float]:
        """Send for so long; return what came of it."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._counted_from = began + seconds / 2
        sent = 0
        while (now := loop.time()) < began + seconds:
            while sent < (now - began) * self._rate:
                self._send(sent, began + sent / self._rate)
                sent += 1
            await asyncio.sleep(_TICK_S)
        counted_s = loop.time() - self._counted_from
        return {
            "sent": sent,
            "sent_per_s": sent / seconds,
            "good_per_s": self._counts["ok"] / counted_s,
            **self._counts,
        }

    def _send(self, number: int, due: float) -> None:
        request = self._request.replace(b"%08d", b"%08d" % number)
        while self.idle:
            connection = self.idle.pop()
            if connection.transport is not None and not connection.transport.is_closing():
                connection.ask(request, due)
                return
        if self.open >= _MOST_CONNECTIONS:
            self.count("unsent")
            return
        self.open += 1
        task = asyncio.get_running_loop().create_task(self._connect(request, due))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, request: bytes, due: float) -> None:
        try:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port)
        except OSError:
            self.open -= 1
            self.count("broken")
            return
        connection.ask(request, due)


def main(arguments: list[str]) -> None:
    """Send as the command line says."""
    port, request, rate, seconds, deadline_s = arguments
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    flood = Flood(int(port), Path(request).read_bytes(), float(rate), float(deadline_s))

    async def run() -> dict[str, float]:
        return await flood.run(float(seconds))

    print(json.dumps(asyncio.run(run())))


if __name__ == "__main__":
    main(sys.argv[1:])
