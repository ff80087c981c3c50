"""A server in production does not start where aiohttp would parse requests in Python."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
import yaml

from tests.service.application import eventually
from tests.service.serving import backends

WITHOUT = {**os.environ, "AIOHTTP_NO_EXTENSIONS": "1"}


def written(folder: Path, mode: str) -> str:
    """Write a configuration; return its path."""
    path = folder / "config.yaml"
    sections = {"server": {"port": 0, "mode": mode}, "backends": backends("http://127.0.0.1:9")}
    path.write_text(yaml.safe_dump(sections))
    return str(path)


@pytest.mark.parametrize("command", [["serve", "--config"], ["check"]], ids=["serve", "check"])
async def test_in_production_a_missing_c_parser_is_refused_with_a_sentence(tmp_path: Path, command: list[str]) -> None:
    program = [sys.executable, "-m", "hartonomous", *command, written(tmp_path, "production")]
    process = await asyncio.create_subprocess_exec(*program, stderr=asyncio.subprocess.PIPE, env=WITHOUT)
    async with asyncio.timeout(30):
        _, told = await process.communicate()
    assert process.returncode == 2
    assert told.startswith(b"server.mode: aiohttp runs without its C parser here")
    assert told.count(b"\n") == 1


async def test_in_development_it_serves_without_one(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "hartonomous", "serve", "--config", written(tmp_path, "development")]
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(*program, stderr=file, env=WITHOUT)
    try:
        await eventually(lambda: b'"listening"' in log.read_bytes(), "the server listens")
    finally:
        process.terminate()
        async with asyncio.timeout(30):
            assert await process.wait() == 0
