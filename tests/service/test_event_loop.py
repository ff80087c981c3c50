"""The loop that serves is uvloop where it is installed, asyncio's own where it is not or is asked for."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
import yaml

from hartonomous import eventloop
from hartonomous.config import Server
from tests.service.serving import backends, serving

NOWHERE = backends("http://127.0.0.1:9")
# In place of the environment's packages: uvloop cannot be found.
HIDDEN = "import sys; sys.modules['uvloop'] = None"


@pytest.mark.parametrize(("asked", "told"), [({}, "uvloop"), ({"event_loop": "asyncio"}, "asyncio")])
async def test_a_server_says_on_which_loop_it_serves(tmp_path: Path, asked: dict[str, str], told: str) -> None:
    async with serving(tmp_path, server=asked, backends=NOWHERE) as served:
        assert [line["loop"] for line in served.lines if line["message"] == "listening"] == [told]
        served.stop()
        assert await served.exit_code() == 0


@pytest.mark.parametrize("command", [["serve", "--config"], ["check"]], ids=["serve", "check"])
async def test_a_loop_that_is_not_installed_is_refused_with_a_sentence(tmp_path: Path, command: list[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"server": {"port": 0, "event_loop": "uvloop"}, "backends": NOWHERE}))
    (tmp_path / "sitecustomize.py").write_text(HIDDEN)
    program = [sys.executable, "-m", "hartonomous", *command, str(config)]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(*program, stderr=asyncio.subprocess.PIPE, env=environ)
    async with asyncio.timeout(30):
        _, told = await process.communicate()
    assert process.returncode == 2
    assert told.startswith(b"server.event_loop: uvloop is not installed here: pip install 'hartonomous[uvloop]'")
    assert told.count(b"\n") == 1


def test_without_uvloop_asyncio_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert eventloop.factory(Server()) is not None
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert eventloop.factory(Server()) is None


@pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
async def test_the_running_loop_has_its_name() -> None:
    loop = asyncio.get_running_loop()
    assert eventloop.running() == ("asyncio" if isinstance(loop, asyncio.BaseEventLoop) else "uvloop")
