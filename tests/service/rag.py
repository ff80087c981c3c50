"""What the tests of the RAG endpoints share: an application whose every backend can be broken, answers held to the API.

Each backend of a `Rig` is the real one behind a `FaultBackend` that passes everything on until a test says otherwise;
its `calls(path)` count what the backend was asked.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import pytest

from hartonomous.config import Config
from hartonomous.keys import METRICS
from tests.service.application import ConfigMaker, RunningApp, merged, running
from tests.service.fault_backend import Behaviour, Exchange, FaultBackend, completion, json_reply, sse, stream
from tests.service.vector_store import drop_collection

EMBEDDINGS = "/v1/embeddings"
CHAT = "/v1/chat/completions"


@dataclass(slots=True)
class Rig:
    """The application and its four backends."""

    app: RunningApp
    embedding: FaultBackend
    reranking: FaultBackend
    generative: FaultBackend
    qdrant: FaultBackend
    config: Config


class RigMaker:
    """Starts the application before breakable backends; an open `make(...)` is one `Rig`."""

    def __init__(self, make_config: ConfigMaker, urls: dict[str, str]) -> None:
        self._make_config = make_config
        self._urls = urls

    @asynccontextmanager
    async def make(self, path: Path | None = None, /, **changes: Any) -> AsyncIterator[Rig]:
        """Start a rig; sections given are put over the tests' configuration. A reload reads the file at `path`."""
        async with AsyncExitStack() as stack:
            backends = {
                name: await stack.enter_async_context(FaultBackend(upstream=url)) for name, url in self._urls.items()
            }
            # Server and backends share a loop here: one that is busy for seconds is no backend that cannot be reached.
            patient = {"connect_timeout_s": 30.0}
            names = ("embedding", "reranking", "generative")
            models = {name: {"urls": (backends[name].url,), **patient} for name in names}
            store = {"url": backends["qdrant"].url, **patient}
            base = {"backends": {**models, "qdrant": store}, "health": {"interval_s": 60.0}}
            config = self._make_config(**merged(base, changes))
            app = await stack.enter_async_context(running(config, path))
            yield Rig(app, config=config, **backends)


@pytest.fixture
async def rigs(
    make_config: ConfigMaker,
    embedding_url: str,
    reranking_url: str,
    generative_url: str,
    vector_url: str,
    collection_name: str,
) -> AsyncIterator[RigMaker]:
    """A maker of rigs; those of one test share their store and its default collection, dropped at the end."""
    urls = {"embedding": embedding_url, "reranking": reranking_url, "generative": generative_url, "qdrant": vector_url}
    yield RigMaker(make_config, urls)
    await drop_collection(vector_url, collection_name)


@pytest.fixture
async def rig(rigs: RigMaker) -> AsyncIterator[Rig]:
    """A rig with the tests' configuration."""
    async with rigs.make() as made:
        yield made


def passed_on(url: str) -> Behaviour:
    """Let the backend at `url` answer."""

    async def behave(exchange: Exchange) -> None:
        request = exchange.request
        headers = {"Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(request.method, url + request.path, data=request.body or None) as response,
        ):
            await exchange.answer(response.status, await response.read(), headers)

    return behave


def says(text: str) -> Behaviour:
    """Let the generative service answer this, a few characters at a time if it is streamed."""
    pieces = [text[start : start + 3] for start in range(0, len(text), 3)]

    async def behave(exchange: Exchange) -> None:
        streamed = exchange.request.json["stream"]
        await (stream(sse(pieces)) if streamed else json_reply(completion(pieces)))(exchange)

    return behave


async def ask(app: RunningApp, path: str, body: Any, **options: Any) -> tuple[int, Any]:
    """POST and hold the answer against what `/openapi.json` says of this path and status."""
    async with app.session.post(app.url + path, json=body, **options) as response:
        answer = await response.json()
        assert response.headers["X-Request-ID"] == answer["request_id"]
        check_answer(app, "post", path, response.status, answer)
        return response.status, answer


async def read(app: RunningApp, path: str, template: str) -> tuple[int, Any]:
    """GET and hold the answer against what `/openapi.json` says of this template and status."""
    status, answer = await app.get(path)
    check_answer(app, "get", template, status, answer)
    return status, answer


def check_answer(app: RunningApp, method: str, template: str, status: int, answer: Any) -> None:
    """Fail unless the answer has the described shape, with no field beside."""
    document = _strict(json.loads(app.runtime.openapi.both[0]))
    described = document["paths"][template][method]["responses"]
    assert str(status) in described, f"{status} is not described: {answer}"
    schema = described[str(status)]["content"]["application/json"]["schema"]
    if template == "/rag/ingest" and status != 200 and "documents" in answer:
        schema = document["paths"][template][method]["responses"]["200"]["content"]["application/json"]["schema"]
    check_schema(document, schema, answer)


def check_named(app: RunningApp, name: str, value: Any) -> None:
    """Hold a value against one of the document's named schemas."""
    document = _strict(json.loads(app.runtime.openapi.both[0]))
    check_schema(document, {"$ref": f"#/components/schemas/{name}"}, value)


def check_schema(document: Any, schema: Any, value: Any) -> None:
    """Hold a value against a schema of the document."""
    jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def _strict(document: Any) -> Any:
    """Let no object of the document have a field that is not described."""
    for schema in document["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return document


async def ingest(app: RunningApp, *documents: Any, **fields: Any) -> Any:
    """Ingest documents, all of which must be taken; return the answer. A string stands for its text."""
    bodies = [{"text": document} if isinstance(document, str) else document for document in documents]
    status, answer = await ask(app, "/rag/ingest", {"documents": bodies, **fields})
    assert status == 200, answer
    assert answer["counts"]["failed"] == 0, answer
    return answer


def sample(app: RunningApp, name: str, **labels: str) -> float:
    """Return the value of a metric of the application, 0 when it is not there."""
    return app.app[METRICS].registry.get_sample_value(name, labels) or 0.0


def events_of(text: str) -> list[tuple[str, Any]]:
    """Return the events of a stream: (name, parsed data)."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if fields:
            found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


async def ask_streamed(app: RunningApp, body: Any, **options: Any) -> tuple[int, list[tuple[str, Any]]]:
    """POST a streamed query; return the status and the events (or the error as one event)."""
    async with app.session.post(app.url + "/rag/query", json={**body, "stream": True}, **options) as response:
        if response.status != 200:
            return response.status, [("refused", await response.json())]
        assert response.content_type == "text/event-stream"
        return 200, events_of(await response.text())
