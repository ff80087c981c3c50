"""The readers: documents, searches, questions and listings, each held against what the ledger allows."""

from __future__ import annotations

from random import Random
from typing import Any

from hartonomous.core.template import NOTHING_FOUND
from tests.chaos.client import Client, Exchange, Wish
from tests.chaos.contract import wrong_with_object
from tests.chaos.ledger import Ledger, Value
from tests.chaos.streams import Events
from tests.chaos.texts import COLLECTIONS, QUESTIONS, Name, text_of, version_of
from tests.chaos.writing import some_names

_FOUND_NOTHING = frozenset({404})


class Reader:
    """Asks for what is stored, and judges what it sees."""

    def __init__(self, client: Client, ledger: Ledger) -> None:
        self._client = client
        self._ledger = ledger
        self.looks = 0

    async def document(self, chance: Random) -> None:
        """Read a document: one whole version, one that may be there."""
        (name,) = some_names(chance, 1)
        await self.read(name)

    async def read(self, name: Name) -> tuple[Exchange, Value]:
        """Read this document; return what was seen, None also where there was no answer."""
        exchange = await self._client.send("GET document", "GET", name.path, wish=Wish(also=_FOUND_NOTHING))
        seen = None
        if exchange.ok:
            seen = self._version(exchange, name, exchange.json)
            self._look(exchange, name, seen)
        elif exchange.whole and exchange.status == 404:
            self._look(exchange, name, None)
        return exchange, seen

    async def search(self, chance: Random) -> None:
        """Search a collection, or all chunks of one document."""
        (name,) = some_names(chance, 1)
        mode = chance.choice(("hybrid", "dense", "sparse"))
        if chance.random() < 0.4:
            await self.chunks(name, mode)
            return
        body = _question(chance) | {"mode": mode, "top_k": chance.randint(1, 30)}
        exchange = await self._client.send("search", "POST", "/rag/search", body, Wish(deadline_s=_deadline(chance)))
        if exchange.ok:
            self.judge_hits(exchange, body["collection"], exchange.json["results"])

    async def chunks(self, name: Name, mode: str = "hybrid") -> Exchange:
        """Search within one document for everything: the hits are all of one version, each chunk once."""
        only = {"must": [{"key": "document_id", "match": {"value": name.id}}]}
        body: dict[str, Any] = {
            "query": "part document round tells",
            "collection": name.collection,
            "filter": only,
            "mode": mode,
        }
        body |= {"top_k": 50, "rerank": False}
        exchange = await self._client.send("search one document", "POST", "/rag/search", body)
        if exchange.ok:
            hits = exchange.json["results"]
            self.judge_hits(exchange, name.collection, hits)
            if not hits:
                self._look(exchange, name, None)
            elif not _covers(name, hits):
                spans = [(hit["start"], hit["end"]) for hit in hits]
                self._client.wrong(exchange, f"{name}: {mode} found the spans {sorted(spans)}", "part of a version")
        return exchange

    async def query(self, chance: Random) -> None:
        """Ask a question and read the whole answer."""
        body = _question(chance)
        exchange = await self._client.send("query", "POST", "/rag/query", body, Wish(deadline_s=_deadline(chance)))
        if exchange.ok:
            self.judge_answer(exchange, body["collection"], exchange.json)

    async def query_streamed(self, chance: Random) -> None:
        """Ask a question and read the answer as it comes, or only some of it."""
        body = _question(chance) | {"stream": True}
        events = Events(leave_after=chance.randint(1, 6) if chance.random() < 0.25 else None)
        wish = Wish(read=events.read, deadline_s=_deadline(chance))
        exchange = await self._client.send("query, streamed", "POST", "/rag/query", body, wish)
        if exchange.ok and exchange.status == 200:
            if (fault := events.wrong_with_query(exchange.request_id)) is not None:
                self._client.wrong(exchange, fault, "half a stream")
            else:
                self._judge_events(exchange, body["collection"], events)

    async def batch(self, chance: Random) -> None:
        """Ask many questions at once."""
        questions = [_question(chance) for _ in range(chance.randint(2, 5))]
        body = {"queries": questions, "stream": chance.random() < 0.5}
        events = Events()
        wish = Wish(read=events.read_lines) if body["stream"] else Wish()
        route = "batch-query, streamed" if body["stream"] else "batch-query"
        exchange = await self._client.send(route, "POST", "/rag/batch-query", body, wish)
        if not exchange.ok:
            return
        results = events.lines[:-1] if body["stream"] else exchange.json["results"]
        end = events.lines[-1] if body["stream"] else exchange.json
        if len(results) != len(questions) or "counts" not in end or end["request_id"] != exchange.request_id:
            self._client.wrong(exchange, f"{len(results)} results of {len(questions)} queries: {end}", "half a stream")
        for result in results:
            self._judge_result(exchange, questions[result["index"]]["collection"], result)

    async def collections(self, chance: Random) -> None:
        """List the collections: both are there."""
        exchange = await self._client.send("GET collections", "GET", "/rag/collections")
        if exchange.ok:
            names = [collection["name"] for collection in exchange.json["collections"]]
            if len(names) != len(set(names)) or not set(names) >= set(COLLECTIONS):
                self._client.wrong(exchange, f"the collections are {names}")

    async def documents(self, chance: Random) -> None:
        """List the documents of a collection page by page: all that must be there, each once."""
        await self.listed(chance.choice(COLLECTIONS), chance.randint(5, 100))

    async def listed(self, collection: str, limit: int) -> set[Name] | None:
        """Return the documents that a collection lists, None where that failed."""
        first, cursor, seen = None, "", dict[str, Value]()
        while first is None or cursor:
            path = f"/rag/collections/{collection}/documents?limit={limit}{cursor and f'&cursor={cursor}'}"
            exchange = await self._client.send("GET documents", "GET", path)
            if not exchange.ok:
                return None
            first = first or exchange
            for document in exchange.json["documents"]:
                if document["id"] in seen:
                    self._client.wrong(exchange, f"{document['id']} is listed twice", "duplicate")
                seen[document["id"]] = None
            cursor = exchange.json["next_cursor"] or ""
        exchange.began = first.began
        for name in self._ledger.names:
            allowed = self._ledger.allowed(name, first.began, exchange.ended)
            if name.collection == collection and (None not in allowed) > (name.id in seen):
                self._client.wrong(exchange, f"{name} is not listed, but {allowed}", "reader saw")
        return {Name(collection, name) for name in seen}

    def judge_answer(self, exchange: Exchange, collection: str, answer: dict[str, Any]) -> None:
        """An answer has sources that may be there, or says honestly that there are none."""
        self.judge_hits(exchange, collection, answer["sources"])
        if not answer["sources"] and answer["answer"] != NOTHING_FOUND:
            self._client.wrong(exchange, f"an answer without sources: {answer['answer']!r}", "ungrounded")

    def judge_hits(self, exchange: Exchange, collection: str, hits: list[dict[str, Any]]) -> None:
        """Every hit is the text that it says, of a version that may be seen; of a document there is one text alone."""
        texts: dict[str, int] = {}
        chunks = [hit["chunk_id"] for hit in hits]
        if len(chunks) != len(set(chunks)):
            self._client.wrong(exchange, f"a chunk comes twice: {chunks}", "duplicate")
        for hit in hits:
            name = Name(collection, hit["document_id"])
            version = version_of(name, hit["text"], hit["title"], hit["metadata"])
            if version is None or text_of(name, version.text)[hit["start"] : hit["end"]] != hit["text"]:
                told = f"{name}: no chunk of a version: {hit}"
                self._client.wrong(exchange, told, "part of a version", (name, hit["text"]))
                continue
            if texts.setdefault(name.id, version.text) != version.text:
                self._client.wrong(exchange, f"{name}: hits of two versions", "two versions")
            self._look(exchange, name, version)

    def _judge_result(self, exchange: Exchange, collection: str, result: dict[str, Any]) -> None:
        if result["status"] == 200:
            self.judge_answer(exchange, collection, result["result"])
        elif (fault := wrong_with_object(result["error"], result["status"])) is not None:
            self._client.wrong(exchange, fault, "error body")

    def _judge_events(self, exchange: Exchange, collection: str, events: Events) -> None:
        self.judge_hits(exchange, collection, events.first("sources")["sources"])
        done = events.first("done")
        if done is not None:
            self.judge_answer(exchange, collection, done | events.first("sources"))

    def _version(self, exchange: Exchange, name: Name, answer: dict[str, Any]) -> Value:
        """Return which version a document is, whole in text and chunks."""
        version = version_of(name, answer["text"], answer["title"], answer["metadata"])
        chunks = answer["chunks"]
        whole = version is not None and answer["text"] == text_of(name, version.text)
        if not whole or any(answer["text"][one["start"] : one["end"]] != one["text"] for one in chunks):
            self._client.wrong(exchange, f"{name} is no whole version: {answer['text']!r}", "part of a version")
            return None
        assert version is not None
        if not self._ledger.told(name, version, answer["version"]):
            self._client.wrong(exchange, f"{name} {version} has the hash {answer['version']}")
        return version

    def _look(self, exchange: Exchange, name: Name, seen: Value) -> None:
        """Hold what was seen of a document against what may have been."""
        self.looks += 1
        allowed = self._ledger.allowed(name, exchange.began, exchange.ended)
        if seen not in allowed:
            told = f"{name} was {seen}, which nobody may see; known:{self._ledger.history(name, seen)}"
            self._client.wrong(exchange, told, "reader saw", (name, seen))


def _covers(name: Name, hits: list[dict[str, Any]]) -> bool:
    """Whether the hits are all chunks of a text, each once."""
    version = version_of(name, hits[0]["text"], hits[0]["title"], hits[0]["metadata"])
    text, at = "" if version is None else text_of(name, version.text), 0
    for hit in sorted(hits, key=lambda hit: int(hit["start"])):
        if hit["start"] < at or text[at : hit["start"]].strip():
            return False
        at = hit["end"]
    return at == len(text)


def _question(chance: Random) -> dict[str, Any]:
    body: dict[str, Any] = {"query": chance.choice(QUESTIONS), "collection": chance.choice(COLLECTIONS)}
    body["rerank"] = chance.random() < 0.6
    if chance.random() < 0.3:
        body["query"] += f" And number {chance.randint(1, 1_000)}?"  # another one than those that are kept
    return body


def _deadline(chance: Random) -> float | None:
    return chance.choice((None, None, None, 3.0, 6.0))
