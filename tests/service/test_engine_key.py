"""An engine with a key answers nobody else: other users of its host read nothing of what it keeps."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.service.application import ConfigMaker, eventually, running
from tests.service.rag import ingest
from tests.service.test_engine_process import run_engine
from tests.service.vector_store import Engine

KEY = "the-key-of-the-engine"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    file = tmp_path / "engine.key"
    file.write_text(f"{KEY}\n")
    with Engine(tmp_path / "data", "--api-key", f"file:{file}") as engine:
        yield engine


async def status(engine: Engine, path: str, **headers: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(engine.url + path, headers=headers) as response:
        return response.status


async def test_only_who_shows_the_key_is_answered_also_after_a_restart(engine: Engine) -> None:
    shown = [{"api-key": KEY}, {"Authorization": f"Bearer {KEY}"}]
    wrong = [{}, {"api-key": f"{KEY}x"}, {"api-key": ""}, {"Authorization": f"Basic {KEY}"}, {"api-key": "ü"}]
    for path in ("/collections", "/collections/any", "/no-such-path"):
        assert [await status(engine, path, **headers) for headers in wrong] == [401] * len(wrong)
    assert [await status(engine, "/collections", **headers) for headers in shown] == [200, 200]
    for path in ("/", "/healthz", "/livez", "/readyz"):
        assert await status(engine, path) == 200
    before = engine.worker
    os.kill(before, signal.SIGKILL)
    await eventually(lambda: engine.worker not in {0, before} and engine._listens(), "the engine is back")
    assert await status(engine, "/collections") == 401
    assert await status(engine, "/collections", **shown[0]) == 200


async def test_the_api_works_with_the_key_and_says_when_it_has_none(make_config: ConfigMaker, engine: Engine) -> None:
    async with running(make_config(backends={"qdrant": {"url": engine.url, "api_key": KEY}})) as app:
        await ingest(app, "Limes are green and sour.")
        code, answer = await app.post("/rag/search", {"query": "What are limes?"})
        assert (code, len(answer["results"])) == (200, 1)
    async with running(make_config(backends={"qdrant": {"url": engine.url}})) as app:
        code, answer = await app.post("/rag/search", {"query": "What are limes?"})
        assert (code, answer["error"]["message"]) == (502, "The qdrant service refused our credentials.")


def test_a_key_on_the_command_line_itself_is_refused_as_others_can_read_it(tmp_path: Path) -> None:
    for option, sentence in ((KEY, "expected file: and the path"), (f"file:{tmp_path}/none", "cannot be read")):
        ended = run_engine("--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0", "--api-key", option)
        assert ended.returncode == 1
        assert ended.stderr.startswith("--api-key: ")
        assert sentence in ended.stderr
        assert KEY not in ended.stderr
