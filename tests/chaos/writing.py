"""The writers: documents new, changed, unchanged and deleted, one or many at once, the same ones at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from random import Random
from typing import Any

import aiohttp
import orjson

from tests.chaos.client import STREAM_S, Client, Exchange, Left, Wish
from tests.chaos.contract import wrong_with_object
from tests.chaos.ledger import GRACE_S, LOST_GRACE_S, Attempt, Ledger
from tests.chaos.texts import COLLECTIONS, Name, Version, body_of

DOCUMENTS = 40
"""How many documents a collection may have."""

_HOT = 4
_NDJSON = {"Content-Type": "application/x-ndjson"}

_Sent = list[tuple[Name, Version, Attempt]]


class Writer:
    """Writes documents and notes in the ledger what was promised."""

    def __init__(self, client: Client, ledger: Ledger) -> None:
        self._client = client
        self._ledger = ledger

    async def ingest(self, chance: Random) -> None:
        """Send some documents as JSON."""
        names = some_names(chance, chance.randint(1, 8))
        await self.send(names, [self._next(chance, name) for name in names], Wish(deadline_s=_deadline(chance)))

    async def ingest_and_leave(self, chance: Random) -> None:
        """Send some documents as JSON and do not wait for the answer."""
        names = some_names(chance, chance.randint(1, 8))
        versions = [self._next(chance, name) for name in names]
        await self.send(names, versions, Wish(leave_after_s=chance.uniform(0.005, 0.4)))

    async def ingest_twice(self, chance: Random) -> None:
        """Send two texts of the same documents at the same time."""
        names = some_names(chance, chance.randint(1, 3))
        twice = [[self._new_text() for _ in names] for _ in range(2)]
        await asyncio.gather(*(self.send(names, versions, Wish()) for versions in twice))

    async def delete(self, chance: Random) -> None:
        """Delete a document, which may be gone already."""
        (name,) = some_names(chance, 1)
        attempt = self._ledger.begin(name, None, time.monotonic())
        exchange = await self._client.send("DELETE document", "DELETE", name.path)
        if exchange.ok:
            self._ledger.succeeded(attempt, exchange.ended, str(exchange))
        else:
            self._ledger.failed(attempt, exchange.ended, str(exchange), grace_of(exchange))

    async def stream(self, chance: Random) -> None:
        """Send documents as lines; sometimes leave when a few results are there."""
        names = some_names(chance, chance.randint(2, 20))
        leave_after = chance.randint(1, len(names)) if chance.random() < 0.2 else None
        await self.send_lines(names, [self._next(chance, name) for name in names], leave_after)

    async def send(self, names: Sequence[Name], versions: Sequence[Version], wish: Wish) -> Exchange:
        """Send these documents of one collection as JSON."""
        collection = names[0].collection
        sent = self._begin(names, versions)
        body = {"collection": collection, "documents": [body_of(*one) for one in zip(names, versions, strict=True)]}
        route = "ingest JSON, leaving" if wish.leave_after_s else "ingest JSON"
        exchange = await self._client.send(route, "POST", "/rag/ingest", body, wish)
        answer = exchange.json if exchange.whole else None
        results = answer.get("documents", []) if isinstance(answer, dict) else []
        if exchange.ok and [result["id"] for result in results] != [name.id for name in names]:
            self._client.wrong(exchange, f"results of other documents: {results}")
        by_name = {result["id"]: result for result in results}
        for one in sent:
            self._settle(exchange, one, by_name.get(one[0].id))
        return exchange

    async def send_lines(
        self, names: Sequence[Name], versions: Sequence[Version], leave_after: int | None = None
    ) -> Exchange:
        """Send these documents of one collection as NDJSON; leave after so many results."""
        sent = self._begin(names, versions)
        waiting = dict(enumerate(sent, 1))
        last: dict[str, Any] = {}

        async def read(exchange: Exchange, content: aiohttp.StreamReader) -> None:
            async for line in content:
                last.clear()
                last.update(orjson.loads(line))
                if (one := waiting.pop(last.get("line", 0), None)) is not None:
                    self._settle(exchange, one, last)
                if leave_after is not None and len(sent) - len(waiting) >= leave_after:
                    raise Left

        lines = b"".join(orjson.dumps(body_of(*one)) + b"\n" for one in zip(names, versions, strict=True))
        options = {"data": lines, "params": {"collection": names[0].collection}, "headers": _NDJSON}
        route = "ingest NDJSON" if leave_after is None else "ingest NDJSON, leaving"
        wish = Wish(read=read, limit_s=STREAM_S)
        exchange = await self._client.send(route, "POST", "/rag/ingest", None, wish, **options)
        for one in waiting.values():
            self._settle(exchange, one, None)
        if exchange.ok:
            self._judge_end(exchange, last, len(waiting))
        return exchange

    def _judge_end(self, exchange: Exchange, last: dict[str, Any], waiting: int) -> None:
        """A stream that came to its end says how, and has a result for each line unless it broke off."""
        if "counts" not in last or last.get("request_id") != exchange.request_id:
            self._client.wrong(exchange, f"the last line is {last}", "half a stream")
        elif "error" in last:
            self._judge_error(exchange, last["error"])
        elif waiting:
            self._client.wrong(exchange, f"{waiting} lines have no result", "half a stream")

    def _begin(self, names: Sequence[Name], versions: Sequence[Version]) -> _Sent:
        now = time.monotonic()
        pairs = zip(names, versions, strict=True)
        return [(name, version, self._ledger.begin(name, version, now)) for name, version in pairs]

    def _settle(self, exchange: Exchange, one: tuple[Name, Version, Attempt], result: Any) -> None:
        """Note what a result says of a document; None: nothing was said of it."""
        name, version, attempt = one
        now = exchange.ended or time.monotonic()
        if result is None:
            self._ledger.failed(attempt, now, str(exchange), grace_of(exchange))
        elif result["status"] == "failed":
            self._ledger.failed(attempt, now, f"{exchange} {result['error']['code']}")
            self._judge_error(exchange, result["error"])
        else:
            self._ledger.succeeded(attempt, now, f"{exchange} {result['status']}")
            if not self._ledger.told(name, version, result["version"]):
                self._client.wrong(exchange, f"{name} has another hash than before: {result}")

    def _judge_error(self, exchange: Exchange, error: Any) -> None:
        if (fault := wrong_with_object(error)) is not None:
            self._client.wrong(exchange, fault, "error body")

    def _next(self, chance: Random, name: Name) -> Version:
        """Return what is sent of a document: a new text, a new title, or what it says already."""
        known, draw = self._ledger.last(name), chance.random()
        if known is None or draw < 0.6:
            return self._new_text()
        return known if draw < 0.8 else Version(known.text, self._ledger.number())

    def _new_text(self) -> Version:
        number = self._ledger.number()
        return Version(number, number)


def grace_of(exchange: Exchange) -> float:
    """Return how long after its end a request that failed may still have an effect."""
    return GRACE_S if exchange.whole else LOST_GRACE_S


def some_names(chance: Random, count: int) -> list[Name]:
    """Return different documents of one collection; some are written far more often than others."""
    collection = chance.choice(COLLECTIONS)
    numbers = range(_HOT if count <= _HOT and chance.random() < 0.2 else DOCUMENTS)
    return [Name(collection, f"d{number}") for number in chance.sample(numbers, count)]


def all_names() -> list[Name]:
    """Return every document that may be written."""
    return [Name(collection, f"d{number}") for collection in COLLECTIONS for number in range(DOCUMENTS)]


def _deadline(chance: Random) -> float | None:
    return chance.choice((None, None, 2.0, 5.0))
