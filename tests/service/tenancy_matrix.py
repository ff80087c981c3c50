"""Every way in which a request can name a collection, by route: what the tests of tenancy walk.

A route that is new to `hartonomous.app.OPERATIONS` needs an entry here: the requests that name a collection, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from hartonomous import codec
from tests.service.application import RunningApp

Named = Callable[[str, str], dict[str, Any]]
"""What `aiohttp` sends for a collection and a document's id: `path`, and its own options."""


@dataclass(slots=True, frozen=True)
class Way:
    """One way to name a collection. `names` False: it is left out, and the default one is meant."""

    label: str
    make: Named
    names: bool = True


@dataclass(slots=True, frozen=True)
class Answered:
    """What came back: `refusals` are the status and the error of each thing that was asked for."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    request_id: str

    @property
    def shape(self) -> tuple[int, Mapping[str, str], bytes]:
        """All of it but for the time and the request's id, which is of one length."""
        headers = {name: value for name, value in self.headers.items() if name not in {"Date", "X-Request-ID"}}
        return self.status, headers, self.body.replace(self.request_id.encode(), b"ID")

    @property
    def refusals(self) -> list[tuple[int, str]]:
        """Status and code of each refusal: of the whole, or of every item of a batch."""
        is_json = self.headers.get("Content-Type", "").startswith(codec.JSON)
        body = codec.loads(self.body) if is_json else {}
        items = body["results"] if self.status == 200 and "counts" in body and "results" in body else [body]
        return [(item.get("status", self.status), (item.get("error") or {}).get("code", "")) for item in items]


def _json(path: str, body: Callable[[str, str], Any]) -> Named:
    return lambda collection, document: {"path": path, "json": body(collection, document)}


def _in_body(path: str, **fields: Any) -> Sequence[Way]:
    """Return the ways of a body with the field `collection`."""
    return (
        Way("body", _json(path, lambda collection, _: {**fields, "collection": collection})),
        Way("left out", _json(path, lambda *_: fields), names=False),
    )


def _ndjson(collection: str, document: str) -> dict[str, Any]:
    line = codec.dumps({"id": document, "text": "A stolen place."}) + b"\n"
    params = {"collection": collection} if collection else {}
    return {"path": "/rag/ingest", "data": line, "params": params, "headers": {"Content-Type": codec.NDJSON}}


def _by_query(collection: str, body: Any) -> dict[str, Any]:
    return {"path": "/rag/ingest", "params": {"collection": collection}, "json": body}


def _form(collection: str, _: str, *, first: bool = True) -> dict[str, Any]:
    def make() -> aiohttp.FormData:
        form = aiohttp.FormData()
        if collection and first:
            form.add_field("collection", collection)
        form.add_field("file", b"A stolen place.", filename="a.txt")
        if collection and not first:
            form.add_field("collection", collection)
        return form

    return {"path": "/rag/ingest", "data": make()}


def _chat(collection: str, _: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "What is stored here?"}]
    return {
        "path": "/v1/chat/completions",
        "json": {"model": f"rag:{collection}", "messages": messages, "max_tokens": 4, **fields},
    }


def _path(template: str) -> Named:
    return lambda collection, document: {"path": template.format(name=collection, id=document)}


_QUESTION = {"query": "What is stored here?"}
_DOCUMENTS = "/rag/collections/{name}/documents"

MATRIX: Mapping[tuple[str, str], Sequence[Way]] = {
    ("POST", "/rag/ingest"): (
        *_in_body("/rag/ingest", documents=[{"text": "A stolen place."}]),
        Way("query string", lambda name, _: _by_query(name, {"documents": [{"text": "A stolen place."}]})),
        Way("query string before a bad body", lambda name, _: _by_query(name, {})),
        Way("stream", _ndjson),
        Way("stream, left out", lambda _, document: _ndjson("", document), names=False),
        Way("form", _form),
        Way("form, collection last", lambda collection, document: _form(collection, document, first=False)),
        Way("form, left out", lambda _, document: _form("", document), names=False),
    ),
    ("POST", "/rag/search"): (
        *_in_body("/rag/search", **_QUESTION),
        Way("bad filter", _json("/rag/search", lambda name, _: {**_QUESTION, "collection": name, "filter": {"x": 1}})),
        Way("words", _json("/rag/search", lambda name, _: {**_QUESTION, "collection": name, "mode": "sparse"})),
    ),
    ("POST", "/rag/query"): (
        *_in_body("/rag/query", **_QUESTION, max_tokens=4),
        Way("stream", _json("/rag/query", lambda name, _: {**_QUESTION, "collection": name, "stream": True})),
        Way(
            "follow-up",
            _json(
                "/rag/query",
                lambda name, _: {
                    "query": "And what else?",
                    "messages": [{"role": "user", "content": "What is stored here?"}],
                    "collection": name,
                },
            ),
        ),
    ),
    ("POST", "/rag/batch-query"): (
        Way("items", _json("/rag/batch-query", lambda name, _: {"queries": [{**_QUESTION, "collection": name}] * 2})),
        Way("left out", _json("/rag/batch-query", lambda *_: {"queries": [_QUESTION]}), names=False),
    ),
    ("GET", "/rag/collections"): (),
    ("DELETE", "/rag/collections/{name}"): (Way("path", _path("/rag/collections/{name}")),),
    ("GET", "/rag/collections/{name}/documents"): (
        Way("path", _path(_DOCUMENTS)),
        Way("bad cursor", _path(_DOCUMENTS + "?cursor=nonsense&limit=0")),
    ),
    ("GET", "/rag/collections/{name}/documents/{id}"): (Way("path", _path(_DOCUMENTS + "/{id}")),),
    ("DELETE", "/rag/collections/{name}/documents/{id}"): (Way("path", _path(_DOCUMENTS + "/{id}")),),
    ("POST", "/v1/chat/completions"): (
        Way("model", _chat),
        Way("model, streamed", lambda name, _: _chat(name, "", stream=True)),
    ),
    ("POST", "/v1/embeddings"): (),
    ("POST", "/v1/rerank"): (),
    ("POST", "/rerank"): (),
    ("POST", "/v2/rerank"): (),
    ("GET", "/v1/models"): (),
    ("GET", "/v1/models/{id}"): (Way("model", _path("/v1/models/rag:{name}")),),
    ("POST", "/admin/config/reload"): (),
    ("POST", "/admin/sweep"): (Way("body", _json("/admin/sweep", lambda name, _: {"collection": name})),),
    ("GET", "/admin/logs"): (),
    ("GET", "/health"): (),
    ("GET", "/ready"): (),
    ("GET", "/metrics"): (),
    ("GET", "/openapi.json"): (),
}
"""The ways of each route; none where it is about no collection."""

WAYS = [(method, path, way) for (method, path), ways in MATRIX.items() for way in ways]


@dataclass(slots=True)
class Asker:
    """Asks as one key, each time under another request id."""

    app: RunningApp
    name: str
    asked: list[str] = field(default_factory=list)

    async def ask(self, method: str, way: Way, collection: str, document: str = "one") -> Answered:
        """Ask in this way about a collection, and a document in it where the way names one."""
        options = way.make(collection, document)
        request_id = f"{self.name}-{len(self.asked):06}"
        self.asked.append(request_id)
        headers = {**options.pop("headers", {}), "X-Request-ID": request_id}
        url = self.app.url + options.pop("path")
        async with self.app.session.request(method, url, headers=headers, **options) as response:
            return Answered(response.status, response.headers, await response.read(), request_id)
