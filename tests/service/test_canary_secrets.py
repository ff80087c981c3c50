"""A canary in every place where a secret can stand is found in no log, no trail, no metric and no error.

Every route is asked, with success and in every way in which it can fail: by the caller's fault, by backends that say
the request back in their errors, break off or talk nonsense, and by a bug. The log has all that there is.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from hartonomous import log
from hartonomous.__main__ import main
from hartonomous.config import Config
from hartonomous.core import apikey
from hartonomous.handlers import views
from tests.service.application import merged
from tests.service.fault_backend import Behaviour, Exchange, raw, reset
from tests.service.rag import Rig, RigMaker
from tests.service.secrets_kit import DOCUMENTS, Canaries, texts_of
from tests.service.vector_store import drop_collection

SERVICES = ("embedding", "reranking", "generative", "qdrant")


@dataclass(slots=True)
class Asking:
    """A server full of canaries, and everything that it has said."""

    rig: Rig
    canaries: Canaries
    key: str
    collection: str
    log: io.StringIO
    file: Path
    folder: Path
    said: list[tuple[str, int, str]] = field(default_factory=list)

    async def ask(self, method: str, path: str, body: Any = None, **options: Any) -> int:
        """Ask with the right key unless there are other headers; keep what is answered."""
        options.setdefault("headers", {"X-API-Key": self.key})
        options["headers"] = {"Cookie": f"session={self.canaries.word('cookie')}", **options["headers"]}
        if body is not None:
            options["json"] = body
        try:
            async with asyncio.timeout(20), aiohttp.request(method, self.rig.app.url + path, **options) as response:
                text = await response.text()
                self.said.append((f"{method} {path}", response.status, f"{response.headers} {text}"))
                return response.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

    def check(self) -> None:
        """Hold everything that came out against the canaries."""
        assert self.log.getvalue()
        assert not self.canaries.found(self.log.getvalue()), "in the log"
        trail = "".join(path.read_text() for path in self.folder.iterdir())
        assert trail
        assert not self.canaries.found(trail), "in the audit trail"
        for name, status, text in self.said:
            # Who asks with success gets the documents back, and models may repeat what they were told.
            but = self.allowed if status == 200 and "/admin" not in name and "/metrics" not in name else ()
            assert not self.canaries.found(text, but), f"in the answer to {name}: {status} {text}"

    @property
    def allowed(self) -> tuple[str, ...]:
        """What an answer may say that succeeded."""
        return (
            *DOCUMENTS,
            "query",
            "system",
            "earlier question",
            "earlier answer",
            "openai prompt",
            "embedded",
            "reranked",
        )


@pytest.fixture
def text() -> Iterator[io.StringIO]:
    """The log, with everything in it that there is."""
    stream = io.StringIO()
    log.configure("DEBUG", stream)
    yield stream
    log.logger.remove()


@pytest.fixture
async def talkative_redis() -> AsyncIterator[str]:
    """A Redis that says each command back in an error."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(b"-ERR wrong: " + b" ".join(data.split()) + b"\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    server.close()


def _sections(canaries: Canaries, key: str, folder: Path, redis: str) -> dict[str, Any]:
    pepper = canaries.word("pepper")
    entry = {
        "id": "operator",
        "hash": apikey.hashed(key, pepper.encode()),
        "scopes": ["query", "ingest", "metrics", "admin"],
        "collections": ["*"],
    }
    return {
        "auth": {"pepper": pepper, "keys": [entry]},
        "audit": {"directory": str(folder)},
        # No circuit opens, so that every call meets the fault.
        "backends": {
            name: {"api_key": canaries.word(f"key of {name}"), "breaker": {"failures": 1_000}} for name in SERVICES
        },
        "redis": {"url": redis, "password": canaries.word("redis password"), "username": "hartonomous"},
        "rag": {"cache": {"answers": {"enabled": True}}},
        "log": {"level": "DEBUG"},
    }


@asynccontextmanager
async def _asked(rigs: RigMaker, folder: Path, redis: str, text: io.StringIO) -> AsyncIterator[Asking]:
    canaries = Canaries()
    key = canaries.key("right key", "operator")
    sections = _sections(canaries, key, folder / "audit", redis)
    file = folder / "config.yaml"
    async with rigs.make(file, **_tuples(sections)) as rig:
        written = rig.config.model_dump(mode="json", exclude_none=True)
        file.write_text(yaml.safe_dump(merged(written, sections)))
        yield Asking(rig, canaries, key, rig.config.rag.default_collection, text, file, folder / "audit")


def _tuples(value: Any) -> Any:
    """Return what a YAML file says as the configuration takes it from Python."""
    if isinstance(value, dict):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value


async def _use(it: Asking) -> None:
    """Ask every route, rightly."""
    texts, word = texts_of(it.canaries), it.canaries.word
    question = {"query": texts["query"], "rerank": True}
    one = f"/rag/collections/{it.collection}/documents"
    await it.ask("POST", "/rag/ingest", {"documents": [texts["document"]]})
    form = aiohttp.FormData()
    form.add_field("file", texts["file text"], filename=texts["file"])
    await it.ask("POST", "/rag/ingest", data=form)
    lines = json.dumps({**texts["document"], "id": "line"}) + "\n"
    stream = {"X-API-Key": it.key, "Content-Type": "application/x-ndjson"}
    await it.ask("POST", "/rag/ingest", data=lines, headers=stream)
    for path in ("/rag/search", "/rag/query"):
        await it.ask("POST", path, question)
        await it.ask("POST", path, {**question, "filter": texts["filter"]})
    await it.ask("POST", "/rag/query", {**question, "system": texts["system"], "messages": texts["messages"]})
    await it.ask("POST", "/rag/query", {**question, "stream": True})
    await it.ask("POST", "/rag/batch-query", {"queries": [question, {**question, "filter": texts["filter"]}]})
    chat = [{"role": "user", "content": word("openai prompt")}]
    for model in ("any", f"rag:{it.collection}"):
        for streamed in (False, True):
            body = {"model": model, "messages": chat, "max_tokens": 4, "stream": streamed}
            await it.ask("POST", "/v1/chat/completions", body)
    await it.ask("POST", "/v1/embeddings", {"input": word("embedded"), "model": "any"})
    await it.ask("POST", "/v1/rerank", {"query": texts["query"], "documents": [word("reranked")], "model": "any"})
    for path in ("/rag/collections", one, f"{one}/lime", "/v1/models", "/openapi.json", "/health", "/ready"):
        await it.ask("GET", path)
    await it.ask("POST", "/admin/sweep", {})
    await it.ask("DELETE", f"{one}/lime")


async def _misuse(it: Asking) -> None:
    """Ask wrongly, in every way that there is."""
    texts, word = texts_of(it.canaries), it.canaries.word
    wrong = it.canaries.key("wrong key", "operator")
    unknown = it.canaries.key("unknown key", "nobody")
    for given in (wrong, unknown, word("no key at all")):
        for headers in (
            {"X-API-Key": given},
            {"Authorization": f"Bearer {given}"},
            {"Authorization": f"Basic {given}"},
        ):
            await it.ask("GET", "/rag/collections", headers=headers)
        await it.ask("GET", f"/rag/collections?api_key={given}", headers={})
        await it.ask("POST", f"/rag/ingest?key={given}", {"documents": []})
    await it.ask("GET", "/rag/collections", headers={"X-API-Key": it.key, "Authorization": f"Bearer {wrong}"})
    await it.ask("GET", "/rag/collections", headers={"X-API-Key": it.key, "X-Request-ID": f"a b {word('request id')}"})
    await it.ask("GET", "/rag/collections", headers={"X-API-Key": it.key, "X-Request-Timeout-Ms": word("timeout")})
    await it.ask("GET", "/health", headers={"Accept": word("accept"), "User-Agent": word("user agent")})
    await it.ask("POST", "/rag/search", {"query": texts["query"] * 1_000})
    await it.ask("POST", "/rag/search", {"query": {"x": texts["query"]}, "top_k": texts["query"]})
    await it.ask("POST", "/rag/search", {"query": "x", "filter": {"must": [{"key": word("filter key")}]}})
    await it.ask("POST", "/rag/search", {"query": "x", "mode": word("mode"), "collection": f"-{word('collection')}"})
    await it.ask("POST", "/rag/search", data=f'{{"query": "{texts["query"]}"', headers=_json(it))
    await it.ask("POST", "/rag/search", data=texts["query"], headers=_json(it))
    await it.ask("POST", "/rag/ingest", {"documents": [{**texts["document"], "format": word("format")}]})
    await it.ask("POST", "/rag/ingest", {"documents": [{**texts["document"], "text": [word("document text")]}]})
    await it.ask("POST", "/rag/ingest", {"documents": [{**texts["document"], "text": texts["query"] + "\0"}]})
    broken = f"{json.dumps(texts['document'])[:-2]}\n"
    await it.ask("POST", "/rag/ingest", data=broken, headers={**_json(it), "Content-Type": "application/x-ndjson"})
    form = aiohttp.FormData()
    form.add_field("file", texts["file text"], filename=f"{texts['file']}.pdf")
    form.add_field("metadata", texts["file text"])
    await it.ask("POST", "/rag/ingest", data=form)
    form = aiohttp.FormData()
    form.add_field("file", texts["file text"], filename=f"{texts['file']}.pdf", content_type="application/pdf")
    await it.ask("POST", "/rag/ingest", data=form)
    await it.ask("POST", "/v1/chat/completions", {"messages": word("openai prompt")})
    await it.ask("POST", "/v1/chat/completions", {"model": f"rag:{it.collection}", "messages": [word("openai prompt")]})
    await it.ask("GET", f"/rag/collections/{it.collection}/documents?cursor={word('cursor')}")
    await it.ask("GET", f"/{word('path')}")


def _json(it: Asking) -> dict[str, str]:
    return {"X-API-Key": it.key, "Content-Type": "application/json"}


async def _look(it: Asking) -> None:
    """Read what is said of everything."""
    for path in (
        "/metrics",
        "/admin/logs?limit=1000&level=DEBUG",
        "/admin/logs?kind=audit&limit=1000",
        "/openapi.json",
    ):
        assert await it.ask("GET", path) == 200
    config = it.rig.app.runtime.config
    for shown in (repr(config), str(config), repr(config.auth), f"{config.backends}", repr(it.rig.app.runtime)):
        assert not it.canaries.found(shown)


def _echo(status: int, *, with_headers: bool = True) -> Behaviour:
    """Say the whole request back in an error."""

    async def behave(exchange: Exchange) -> None:
        request = exchange.request
        text = request.body.decode(errors="replace")
        if with_headers:
            text += f" {request.path} {dict(request.headers)}"
        body = json.dumps({"error": {"message": text}, "status": {"error": text}}).encode()
        await exchange.answer(status, body, {"Content-Type": "application/json", "X-Echo": "yes"})

    return behave


_NONSENSE = raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n{no")

FAULTS: dict[str, Behaviour] = {
    "500": _echo(500),
    "401": _echo(401),
    "422": _echo(422, with_headers=False),  # which is passed on to who asked, on /v1
    "200": _echo(200, with_headers=False),
    "nonsense": _NONSENSE,
    "reset": reset(),
}


async def test_no_canary_comes_out_of_a_server_that_is_used_and_misused(
    rigs: RigMaker, tmp_path: Path, talkative_redis: str, text: io.StringIO
) -> None:
    async with _asked(rigs, tmp_path, talkative_redis, text) as it:
        await _use(it)
        succeeded = [name for name, status, _ in it.said if status in {200, 204}]
        assert len(succeeded) >= 25, [(name, status) for name, status, _ in it.said]
        await _misuse(it)
        await _look(it)
        it.check()


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_canary_comes_out_when_the_backends_fail(
    rigs: RigMaker, tmp_path: Path, talkative_redis: str, text: io.StringIO, fault: str
) -> None:
    async with _asked(rigs, tmp_path, talkative_redis, text) as it:
        await it.ask("POST", "/rag/ingest", {"documents": [texts_of(it.canaries)["document"]]})
        for name in SERVICES:
            backend = getattr(it.rig, name)
            backend.otherwise, before = FAULTS[fault], backend.otherwise
            await _use(it)
            backend.otherwise = before
        await _look(it)
        if fault in {"422", "200"}:  # passed on byte for byte to who had sent it
            it.said = [said for said in it.said if "/v1/" not in said[0]]
        it.check()


async def test_no_canary_comes_out_of_a_bug(
    rigs: RigMaker, tmp_path: Path, talkative_redis: str, text: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback names files and lines, and prints no variables."""

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    async with _asked(rigs, tmp_path, talkative_redis, text) as it:
        for name in ("search_answer", "query_answer", "ingest_answer", "batch_item"):
            monkeypatch.setattr(views, name, broken)
        await _use(it)
        await _look(it)
        assert "a bug" in text.getvalue()
        assert [status for _, status, _ in it.said].count(500) >= 4
        it.check()


async def test_no_canary_comes_out_of_a_reload_or_a_check_of_a_broken_file(
    rigs: RigMaker, tmp_path: Path, talkative_redis: str, text: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    async with _asked(rigs, tmp_path, talkative_redis, text) as it:
        right, word = yaml.safe_load(it.file.read_text()), it.canaries.word
        assert await it.ask("POST", "/admin/config/reload") == 200
        broken: list[dict[str, Any]] = [
            {"auth": {"pepper": word("short")[:8]}},
            {"auth": {"pepper": f"two {word('two words')}"}},
            {"auth": {"pepper": f"file:/nowhere/{word('file')}"}},
            {"auth": {"keys": [{"id": "operator", "hash": it.key}]}},
            {"auth": {"keys": [{"id": "operator", "hash": f"hmac-sha256:{word('hash')}"}]}},
            {"auth": {"keys": word("keys")}},
            {"backends": {"embedding": {"api_key": f"two {word('api key')}"}}},
            {"backends": {"embedding": {"api_key": [word("list")]}}},
            {"backends": {"embedding": {"urls": [f"http://user:{word('url')}@127.0.0.1:1"]}}},
            {"backends": {"qdrant": {"url": f"http://127.0.0.1:1/?key={word('query')}"}}},
            {"redis": {"url": f"redis://:{word('redis url')}@127.0.0.1/0"}},
            {"redis": {"password": {"secret": word("object")}}},
        ]
        texts = [yaml.safe_dump(merged(right, change)) for change in broken]
        texts.append(yaml.safe_dump(right) + f"\nauth: {word('twice')}\n")
        texts.append(yaml.safe_dump(right) + f"\n\t: [{word('no yaml')}")
        for content in texts:
            it.file.write_text(content)
            assert await it.ask("POST", "/admin/config/reload") == 422, content
            assert main(["check", str(it.file)]) == 2
            with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever is said of it is looked at
                Config.model_validate(yaml.safe_load(content))
            assert not it.canaries.found(f"{caught.value} {caught.value!r}") or "yaml" in type(caught.value).__module__
        await _look(it)
        it.check()
        captured = capsys.readouterr()
        assert not it.canaries.found(captured.out + captured.err)
        await drop_collection(it.rig.config.backends.qdrant.url, it.collection)
