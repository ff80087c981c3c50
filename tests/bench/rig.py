"""Everything that a run needs: backends, bare programs, the application with everything on, the loads."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from hartonomous.core import apikey
from tests.bench import nginx, rankings
from tests.bench.processes import Maker, Program
from tests.bench.recording import Recorded, record
from tests.bench.texts import question
from tests.bench.wrk import Load
from tests.service.vector_store import Engine, free_port, free_ports

YAML = Path(__file__).with_name("hartonomous.yaml")
_PEPPER = "pepper-of-the-bench-0123456789"
KEY = apikey.make("bench", hashlib.sha256(b"bench").digest())
HEADERS: Mapping[str, str] = {"Authorization": f"Bearer {KEY}", "X-Request-Timeout-Ms": "30000"}
CHAT_PATH, QUERY_PATH = "/v1/chat/completions", "/rag/query"


@dataclass(slots=True)
class Rig:
    """What is running: nginx (`models`, also the store; `streaming`, where a chat is a stream; `wide`, where there
    are many rankings; `proxy` before it), the
    embedding service, the engine that the store passes to."""

    maker: Maker
    recorded: Recorded
    models: str
    streaming: str
    wide: str
    proxy: str
    embedding: Program
    engine: str

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return self.maker.folder

    def application(
        self,
        addresses: Mapping[str, str] | None = None,
        *,
        slots: int | None = None,
        bound: bool = True,
        name: str = "application",
    ) -> Program:
        """Return the application, before these backends in place of the standing ones; `slots` are the chat's.

        Those that run at the same time need different names.
        """
        environ = self.environment(port := free_port(), addresses or {}, slots, name)
        return self.maker.measured(
            "hartonomous", "serve", "--config", str(YAML), name=name, environ=environ, port=port, bound=bound
        )

    def environment(
        self, port: int, addresses: Mapping[str, str], slots: int | None = None, name: str = "application"
    ) -> dict[str, str]:
        """Return what the application's configuration takes from its environment."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        environ = {
            "BENCH_PORT": str(port),
            "BENCH_PEPPER": _PEPPER,
            "BENCH_KEY_HASH": apikey.hashed(KEY, _PEPPER.encode()),
            "BENCH_FOLDER": str(folder),
            "BENCH_EMBEDDING": self.embedding.url,
            "XDG_RUNTIME_DIR": str(folder),
        }
        # An installed server's modules are compiled, which is a quarter of a second of each start where they are not.
        environ |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode")}
        environ |= dict.fromkeys(("BENCH_GENERATIVE", "BENCH_RERANKING", "BENCH_STORE"), self.models)
        environ |= {f"BENCH_{name.upper()}": url for name, url in addresses.items()}
        return environ if slots is None else {**environ, "BENCH_SLOTS": str(slots)}

    def gateway_floor(self, backend: str = "") -> Program:
        """Return the bare pass-through."""
        return self.maker.measured("tests.bench.floors.gateway", "{port}", backend or self.models, name="gateway-floor")

    def rag_floor(self) -> Program:
        """Return the four bare calls."""
        urls = (self.embedding.url, self.models, self.models, self.models)
        return self.maker.measured("tests.bench.floors.rag", "{port}", *urls, name="rag-floor")

    def beside(self, paces: Mapping[str, Any], name: str = "paced") -> Program:
        """Return backends whose calls take their time."""
        command = self.maker.python("tests.bench.backend", "{port}", json.dumps(paces), str(self.folder / "found.json"))
        return self.maker.beside(*command, name=name, ready="/health")

    def chat(self, url: str) -> Load:
        """Return a load of chats, each the same."""
        return Load(url + CHAT_PATH, self._body("chat", chat_body()), HEADERS)

    def questions(self, url: str) -> Load:
        """Return a load of questions, each another one."""
        body = orjson.dumps({"query": question(0).replace("station 0", "station %d")})
        return Load(url + QUERY_PATH, self._body("question", body), HEADERS)

    def calls(self) -> list[Load]:
        """Return the four calls that a question makes, each as a load of its own."""
        urls = dict.fromkeys(self.recorded.asked, self.models) | {"/v1/embeddings": self.embedding.url}
        return [
            Load(urls[path] + path, self._body(path.replace("/", "-"), body), {})
            for path, body in self.recorded.asked.items()
        ]

    def _body(self, name: str, body: bytes) -> Path:
        path = self.folder / f"{name}.body"
        path.write_bytes(body)
        return path


def chat_body(*, stream: bool = False) -> bytes:
    """Return a chat as people send it."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant who answers briefly."},
        {"role": "user", "content": "How often is the filter of a pump cleaned, and with what? " * 3},
    ]
    return orjson.dumps({"model": "any", "messages": messages, "max_tokens": 100, "stream": stream})


def plain_backend(maker: Maker, *arguments: str) -> Program:
    """Return backends in one process that answer at once."""
    command = maker.python("tests.bench.backend", "{port}", "{}", *arguments)
    return maker.beside(*command, name="embedding", ready="/health")


def recorded_before(maker: Maker, models: str, engine: str) -> Recorded:
    """Record what is asked and answered, and leave it where backends of our own find it."""
    recorded = asyncio.run(record(models, engine))
    (maker.folder / "found.json").write_text(json.dumps(recorded.found), encoding="utf-8")
    return recorded


@contextmanager
def rig(maker: Maker) -> Iterator[Rig]:
    """Start the backends, and let them answer what the application is answered."""
    folder = maker.folder
    with ExitStack() as stack:
        engine = stack.enter_context(Engine(folder / "vectors"))
        embedding = stack.enter_context(plain_backend(maker))
        recorded = recorded_before(maker, embedding.url, engine.url)
        static = nginx.Static(*free_ports(4))
        answers = [*recorded.static.items(), *rankings.files(recorded.static)]
        config = nginx.write_config(folder, answers, engine.url, static)
        server = maker.beside(*nginx.command(config), name="nginx", ready="/health", port=static.port)
        models = stack.enter_context(server).url
        streaming, wide, proxy = (
            f"http://127.0.0.1:{port}" for port in (static.stream_port, static.wide_port, static.proxy_port)
        )
        yield Rig(maker, recorded, models, streaming, wide, proxy, embedding, engine.url)
