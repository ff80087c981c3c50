"""What is looked at when the faults are over: every document, every point, and that sending again mends everything."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tests.chaos.client import Client, Wish
from tests.chaos.ledger import Ledger, Value
from tests.chaos.reading import Reader
from tests.chaos.report import Report
from tests.chaos.texts import COLLECTIONS, Name, Version
from tests.chaos.writing import Writer
from tests.service.commands import Points

_TOGETHER = 20


class Checks:
    """Looks at what is there, through the application and past it."""

    def __init__(self, client: Client, ledger: Ledger, writer: Writer, reader: Reader, store_url: str) -> None:
        self._client = client
        self._ledger = ledger
        self._writer = writer
        self._reader = reader
        self._points = Points(store_url)

    @property
    def _report(self) -> Report:
        return self._client.report

    async def all(self) -> None:
        """Look at everything, send everything again, and look once more."""
        acknowledged = self._ledger.acknowledged
        await self._look("")
        self._report.figures["acknowledged writes"] = (
            f"{acknowledged}, missing {self._report.count('missing')}, duplicates {self._report.count('duplicate')}"
        )
        self._report.figures["writes with unknown outcome"] = str(self._ledger.unknown)
        await self._mend()
        await self._look(" after all was sent again", clean=True)

    async def _look(self, when: str, *, clean: bool = False) -> None:
        seen: dict[Name, Value] = {}
        for name in self._ledger.names:
            exchange, seen[name] = await self._reader.read(name)
            allowed = self._ledger.allowed(name, exchange.began, exchange.ended)
            if exchange.status not in {200, 404}:
                self._client.wrong(exchange, f"{name} cannot be read{when}", "status")
            elif seen[name] not in allowed:
                known = self._ledger.history(name, seen[name])
                self._report.violate("missing", f"{name} is {seen[name]}{when}; known:{known}")
            await self._reader.chunks(name)
        for collection in COLLECTIONS:
            await self._listed(collection, {name for name, value in seen.items() if value is not None}, when)
            await self._stored(collection, seen, when, clean=clean)

    async def _listed(self, collection: str, there: set[Name], when: str) -> None:
        """The list of documents is exactly what can be read one by one."""
        listed = await self._reader.listed(collection, 30)
        expected = {name for name in there if name.collection == collection}
        if listed != expected:
            wrong = "nothing" if listed is None else sorted(name.id for name in listed ^ expected)
            self._report.violate("wrong list", f"{collection}{when}: {wrong}")

    async def _stored(self, collection: str, seen: dict[Name, Value], when: str, *, clean: bool) -> None:
        """The store has the points of one version of each document that can be seen, and no chunk twice.

        What attempts of unknown outcome left beside it may be there until it is sent again or swept.
        """
        documents: dict[Name, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
        unseen = 0
        for point in (await self._points.all(collection, but=())).values():
            payload = point["payload"]
            unseen += not payload["visible"]
            if payload["visible"]:
                documents[Name(collection, payload["document_id"])][payload["content_hash"]].append(payload)
        outdated = [name for name, versions in documents.items() if len(versions) > 1]
        for name in outdated:
            if clean or self._ledger.settled(name):
                self._report.violate("duplicate", f"{name} has {len(documents[name])} versions in the store{when}")
        for name, versions in documents.items():
            self._whole(name, list(versions.values()), seen.get(name), when)
        if clean and unseen:
            self._report.violate("left behind", f"{collection}: {unseen} points that nobody sees{when}")
        self._report.figures[f"left in {collection}{when}"] = (
            f"{unseen} unseen points, {len(outdated)} documents with an older version beside the newest"
        )

    def _whole(self, name: Name, versions: Sequence[list[Any]], seen: Value, when: str) -> None:
        """Each visible version has all its chunks, and no chunk twice; a document that cannot be read has none."""
        for payloads in versions:
            indexes = sorted(payload["chunk_index"] for payload in payloads)
            if len(indexes) != len(set(indexes)):
                self._report.violate("duplicate", f"{name} has the chunks {indexes}{when}")
            elif len(versions) == 1 and indexes != list(range(payloads[0]["chunk_count"])):
                self._report.violate("part of a version", f"{name} has the chunks {indexes} in the store{when}")
        if seen is None:
            self._report.violate("left behind", f"{name} cannot be read, but has visible points{when}")

    async def _mend(self) -> None:
        """Send every document anew: without faults each must be taken."""
        for collection in COLLECTIONS:
            names = [name for name in self._ledger.names if name.collection == collection]
            for start in range(0, len(names), _TOGETHER):
                some = names[start : start + _TOGETHER]
                exchange = await self._writer.send(some, [self._new() for _ in some], Wish())
                answer = exchange.json
                if not exchange.ok or answer["counts"]["failed"]:
                    self._client.wrong(exchange, f"not taken without any fault: {exchange.body[:300]!r}", "not mended")
        exchange = await self._client.send("sweep", "POST", "/admin/sweep")
        if not exchange.ok:
            self._client.wrong(exchange, "cannot be swept", "not mended")

    def _new(self) -> Version:
        number = self._ledger.number()
        return Version(number, number)


async def filled(client: Client, writer: Writer, names: Sequence[Name], ledger: Ledger) -> None:
    """Write the first version of these documents, before anything is wrong. RuntimeError: they are not taken."""
    for collection in COLLECTIONS:
        some = [name for name in names if name.collection == collection]
        numbers = [ledger.number() for _ in some]
        exchange = await writer.send_lines(some, [Version(number, number) for number in numbers])
        if not exchange.ok or client.report.failed:
            raise RuntimeError(f"the first documents were not taken: {time.monotonic() - exchange.began:.1f} s")
