"""An attempt to be followed by a new process that fails, by whatever fault."""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from aiohttp import web

from hartonomous import server, upgrade
from hartonomous.adopting import Adopted
from hartonomous.app import create_app
from hartonomous.configfile import parse
from hartonomous.doors import Doors
from hartonomous.keys import METRICS
from hartonomous.systemd import NOTHING
from hartonomous.telling import Telling
from hartonomous.upgrade import Successor, UpgradeError
from tests.service.serving import backends


@pytest.mark.parametrize("left", range(7))
def test_without_room_it_is_not_started_and_no_descriptor_is_lost(left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pair needs two, and each socket that is passed one more for a moment."""
    monkeypatch.setattr(os, "posix_spawn", _no_memory)
    with ExitStack() as stack:
        sockets = [("main", stack.enter_context(socket.create_server(("127.0.0.1", 0)))) for _ in range(3)]
        before = _descriptors()
        successor = Successor(NOTHING, sockets)
        with _only(left), pytest.raises(UpgradeError) as failed:
            successor.start()
        why = errno.EMFILE if left < 6 else errno.ENOMEM
        assert str(failed.value) == f"the program cannot be started ({os.strerror(why)})"
        successor.close()
        assert _descriptors() == before


async def test_a_fault_of_our_own_ends_the_attempt_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade, "program", _broken)
    config = parse(json.dumps({"backends": backends("http://127.0.0.1:9"), "server": {"port": 0}}), {})
    app = create_app(config)
    runner = web.AppRunner(app)
    await runner.setup()
    doors = Doors(runner, config, Adopted())
    try:
        await doors.bind()
        assert not await server._hand_over(app, doors, Telling(app, doors, NOTHING), NOTHING)
        assert app[METRICS].registry.get_sample_value("hartonomous_upgrades_failed_total") == 1
        assert not doors.are_handed_over
    finally:
        await runner.cleanup()
        await doors.wait_closed(0)


def _no_memory(*_: object, **__: object) -> int:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def _broken() -> list[str]:
    raise ValueError("a fault of our own")


def _descriptors() -> set[int]:
    with os.scandir("/proc/self/fd") as entries:
        found = [int(each.name) for each in entries]
    return {each for each in found if Path(f"/proc/self/fd/{each}").exists()}


@contextmanager
def _only(left: int) -> Iterator[None]:
    """Leave room for so many descriptors more."""
    used, limits = _descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE)
    end = max(used) + 1
    fillers = [os.dup(0) for _ in range(end - len(used))]
    resource.setrlimit(resource.RLIMIT_NOFILE, (end + left, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for each in fillers:
            os.close(each)
