"""A fault proxy before an upstream that echoes, and nothing left of either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.proxy import FaultProxy
from tests.faults.rig import Upstream
from tests.service.application import eventually


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """An upstream whose connections have all ended when the test has."""
    up = Upstream()
    server = await asyncio.start_server(up.serve, "127.0.0.1", 0)
    up.port = server.sockets[0].getsockname()[1]
    yield up
    server.close()
    await eventually(lambda: not up.open, "no connection to the upstream")
    await server.wait_closed()


@pytest.fixture
async def proxy(upstream: Upstream) -> AsyncIterator[FaultProxy]:
    """A proxy before the upstream; it leaves no task and no socket."""
    tasks, sockets = len(asyncio.all_tasks()), _sockets()
    async with FaultProxy(f"127.0.0.1:{upstream.port}", seed=1) as made:
        yield made
    assert made.open == 0
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks, "no task left behind")
    await eventually(lambda: _sockets() <= sockets, "no socket left behind")


def _sockets() -> int:
    def of(entry: Path) -> str:
        try:
            return str(entry.readlink())
        except OSError:
            return ""

    return sum(of(entry).startswith("socket:") for entry in Path("/proc/self/fd").iterdir())
