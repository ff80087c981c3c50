"""The vector engine's process dies under an application that goes on: it comes back by itself, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.service.application import ConfigMaker, RunningApp, eventually, running
from tests.service.rag import ask, ingest, sample
from tests.service.vector_store import Engine

pytestmark = pytest.mark.skipif(
    "HARTONOMOUS_TEST_QDRANT_URL" in os.environ, reason="a Qdrant of somebody else is not killed"
)


class Load:
    """Ingests and queries, one after another each; an answer that none should be is noted in `wrong`."""

    def __init__(self, app: RunningApp) -> None:
        self.stored: list[str] = []
        self.answered: Counter[tuple[str, int]] = Counter()
        self.wrong: list[str] = []
        self._app = app
        self._sent = 0

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        jobs: tuple[Callable[[], Awaitable[None]], ...] = (self._ingest, self._ingest, self._search, self._query)
        tasks = [asyncio.create_task(_for_ever(job)) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(outcome, asyncio.CancelledError), outcome

    async def more(self) -> None:
        """Wait until each kind of request has been served three times more."""
        wanted = {kind: self.answered[kind, 200] + 3 for kind in ("ingest", "search", "query")}
        await eventually(lambda: all(self.answered[kind, 200] >= count for kind, count in wanted.items()))

    async def _ingest(self) -> None:
        self._sent += 1
        name = f"d{self._sent}"
        status, answer = await ask(self._app, "/rag/ingest", {"documents": [{"id": name, "text": text(name)}]})
        if self._served("ingest", status, answer):
            assert answer["documents"][0]["status"] == "created"
            self.stored.append(name)

    async def _search(self) -> None:
        status, answer = await ask(self._app, "/rag/search", {"query": "what number does it have"})
        if self._served("search", status, answer) and not answer["results"]:
            self.wrong.append("a search found nothing")

    async def _query(self) -> None:
        status, answer = await ask(self._app, "/rag/query", {"query": "what number does it have", "max_tokens": 2})
        if self._served("query", status, answer) and not answer["sources"]:
            self.wrong.append("an answer rests on nothing")

    def _served(self, kind: str, status: int, answer: Any) -> bool:
        self.answered[kind, status] += 1
        if status == 200:
            if answer.get("degraded"):
                self.wrong.append(f"{kind}: without {answer['degraded']}")
            return True
        if not (is_refused(status, answer) or is_broken_off(status, answer)):
            self.wrong.append(f"{kind}: {status} {answer}")
        return False


async def _for_ever(job: Callable[[], Awaitable[None]]) -> None:
    while True:
        await job()
        await asyncio.sleep(0.01)  # a refusal is quick, and the engine's start needs the processor


def text(name: str) -> str:
    return f"The valve {name} has a number."


def is_refused(status: int, answer: Any) -> bool:
    """Whether an answer says that the vector store is away."""
    error = answer["error"]
    return status == 503 and error["type"] == "backend_unavailable" and "qdrant service" in error["message"]


def is_broken_off(status: int, answer: Any) -> bool:
    """Whether an answer says that the vector store died while it was answering, and could not be asked again."""
    return (status, answer["error"]["message"]) == (502, "The qdrant service broke the connection off.")


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path / "engine")


@pytest.fixture
async def app(engine: Engine, make_config: ConfigMaker) -> AsyncIterator[RunningApp]:
    with engine:
        async with running(make_config(backends={"qdrant": {"url": engine.url}})) as app:
            await ingest(app, {"id": "d0", "text": text("d0")})
            yield app


async def test_row_29_the_engine_is_started_again_under_load_and_what_was_acknowledged_is_there(
    app: RunningApp, engine: Engine
) -> None:
    load = Load(app)
    async with load.going_on():
        for _ in range(2):
            await load.more()
            died = engine.worker
            os.kill(died, signal.SIGKILL)
            await eventually(lambda: engine.worker not in {0, died})  # noqa: B023 - awaited in this round
        await load.more()
    assert load.wrong == []
    for name in load.stored:
        status, answer = await app.get(f"/rag/collections/{app.runtime.config.rag.default_collection}/documents/{name}")
        assert (status, answer["text"]) == (200, text(name))


async def test_row_29_while_the_engine_is_down_queries_are_503_and_the_metrics_say_so(
    app: RunningApp, engine: Engine
) -> None:
    assert engine.process is not None
    await eventually(lambda: sample(app, "hartonomous_backend_up", service="qdrant") == 1)
    engine.process.send_signal(signal.SIGSTOP)  # nobody starts it again for now
    os.kill(engine.worker, signal.SIGKILL)
    try:
        await eventually(lambda: sample(app, "hartonomous_backend_up", service="qdrant") == 0)
        for path in ("/rag/search", "/rag/query"):
            status, answer = await ask(app, path, {"query": "what number does it have"})
            assert is_refused(status, answer), (status, answer)
        assert sample(app, "hartonomous_backend_requests_total", service="qdrant", outcome="unreachable") >= 1
    finally:
        engine.process.send_signal(signal.SIGCONT)
    await eventually(lambda: sample(app, "hartonomous_backend_up", service="qdrant") == 1)
    assert (await ask(app, "/rag/search", {"query": "what number does it have"}))[1]["results"]


def test_what_keeps_the_engine_alive_loads_nothing_heavy(engine: Engine) -> None:
    with engine:
        assert engine.process is not None
        home = Path(f"/proc/{engine.process.pid}")
        loaded = (home / "maps").read_text()
        assert not [name for name in ("qdrant_edge", "aiohttp", "pydantic_core", "orjson") if name in loaded]
        pages = int((home / "statm").read_text().split()[1])
        assert pages * os.sysconf("SC_PAGE_SIZE") < 20 * 2**20
        assert "qdrant_edge" in Path(f"/proc/{engine.worker}/maps").read_text()
