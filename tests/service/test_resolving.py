"""Row 25: a backend's host name is not resolved any more: its last good address serves on, for a bounded time."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hartonomous.clients import resolver, sessions
from hartonomous.clients.resolver import GOOD_FOR_S, Names
from tests.service.application import WAIT_S, ConfigMaker, RunningApp, eventually, running
from tests.service.fault_backend import FaultBackend
from tests.service.rag import sample

HOST = "models.invalid"
CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "Hello"}]}


class Lookups:
    """The system's lookups of one name: answered with the loopback address, refused, or never answered."""

    def __init__(self) -> None:
        self.asked = 0
        self.is_down = False
        self.answering = threading.Event()
        self.answering.set()
        self._ask = socket.getaddrinfo

    def getaddrinfo(self, host: Any, *args: Any, **options: Any) -> Any:
        if host != HOST:
            return self._ask(host, *args, **options)
        self.asked += 1
        self.answering.wait(30)
        if self.is_down:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self._ask("127.0.0.1", *args, **options)


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lookups]:
    """The lookups, made for each new connection; no answer is kept by aiohttp for its seconds."""
    made = Lookups()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    monkeypatch.setattr(sessions, "_RESOLVED_FOR_S", 0)
    yield made
    made.answering.set()


class Behind:
    """The application in front of a service that it knows by name; `ahead_s` puts the clock of names forward."""

    def __init__(self, app: RunningApp, faulty: FaultBackend) -> None:
        self.app = app
        self.faulty = faulty
        self.ahead_s = 0.0

    def clock(self) -> float:
        return time.monotonic() + self.ahead_s

    async def ask(self) -> tuple[int, Any]:
        """Return status and error code of a call over a connection of its own, which waits for no deadline."""
        await self.faulty.stop()
        await self.faulty.start()
        async with asyncio.timeout(WAIT_S):  # of the 300 that a request has
            status, answer = await self.app.post(CHAT, BODY)
        return status, answer.get("error", {}).get("code")

    async def poll(self) -> bool | None:
        """Poll the service's health once; return whether it is up."""
        pool = self.app.runtime.pools["generative"]
        await self.app.runtime.monitor._poll_service(pool)
        return {"up": True, "down": False}.get(pool.addresses.standing)


@pytest.fixture
async def behind(lookups: Lookups, make_config: ConfigMaker, faulty: FaultBackend) -> AsyncIterator[Behind]:
    """The application, which has not asked for the name yet but for its first health poll."""
    async with named(make_config, faulty) as made:
        yield made


@asynccontextmanager
async def named(make_config: ConfigMaker, faulty: FaultBackend) -> AsyncIterator[Behind]:
    port = faulty.url.rpartition(":")[2]
    service = {"urls": (f"http://{HOST}:{port}",), "connect_timeout_s": 0.3}
    config = make_config(backends={"generative": service}, health={"interval_s": 1000.0})
    ahead: list[Behind] = []
    names = Names(lambda: ahead[0].clock() if ahead else time.monotonic())
    resolver._BY_LOOP[asyncio.get_running_loop()] = names
    async with running(config) as app:
        await eventually(app.runtime.monitor.first_round.is_set, "the first poll")
        ahead.append(Behind(app, faulty))
        yield ahead[0]


async def test_row_25_while_names_are_not_resolved_the_last_good_address_serves_for_a_bounded_time(
    behind: Behind, lookups: Lookups
) -> None:
    assert await behind.ask() == (200, None)
    lookups.is_down = True
    before, asked = sample(behind.app, "hartonomous_dns_fallbacks_total", host=HOST), lookups.asked
    assert await behind.ask() == (200, None)
    assert await behind.poll() is True
    assert sample(behind.app, "hartonomous_dns_fallbacks_total", host=HOST) > before
    assert lookups.asked > asked  # the connection was a new one
    behind.ahead_s = GOOD_FOR_S + 1
    assert await behind.ask() == (503, "backend_unavailable")
    assert await behind.poll() is False
    lookups.is_down = False
    assert await behind.poll() is True
    assert await behind.ask() == (200, None)


async def test_row_25_a_name_that_was_never_resolved_is_503_before_any_deadline(
    lookups: Lookups, make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    lookups.is_down = True
    async with named(make_config, faulty) as behind:
        assert await behind.ask() == (503, "backend_unavailable")
        assert not faulty.requests


async def test_row_25_lookups_that_hang_hold_a_call_for_its_time_to_connect_and_no_more_than_one_thread(
    lookups: Lookups, make_config: ConfigMaker, faulty: FaultBackend
) -> None:
    lookups.answering.clear()
    async with named(make_config, faulty) as behind:
        found = await asyncio.gather(*(behind.app.post(CHAT, BODY) for _ in range(20)))
        assert {status for status, _ in found} == {503}
        assert (await behind.ask())[0] == 503
        assert (lookups.asked, _lookups()) == (1, 1)
        assert await behind.poll() is False
        lookups.answering.set()
        await eventually(lambda: not _lookups(), "the lookup's end")
        assert await behind.poll() is True
        assert await behind.ask() == (200, None)


async def test_row_25_when_lookups_begin_to_hang_the_last_good_address_serves(behind: Behind, lookups: Lookups) -> None:
    lookups.answering.clear()
    assert await behind.ask() == (200, None)
    assert _lookups() == 1  # still
    assert await behind.poll() is True


def _lookups() -> int:
    """Return how many threads look names up."""
    return sum(thread.name.startswith("lookup-") for thread in threading.enumerate())
