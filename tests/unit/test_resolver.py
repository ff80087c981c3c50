"""The last good address of a name: when it serves, for how long, and what a lookup that hangs holds up."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hartonomous.clients import resolver
from hartonomous.clients.resolver import GOOD_FOR_S, Names, Resolver
from hartonomous.log import logger
from tests.service.application import WAIT_S, eventually

HOST = "backend.invalid"


class System:
    """The system's resolver: answers, fails, or hangs until it is released."""

    def __init__(self) -> None:
        self.addresses = ["192.0.2.1"]
        self.asked = 0
        self.error: Exception | None = None
        self.running = threading.Event()
        self.running.set()

    def getaddrinfo(self, host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        self.asked += 1
        self.running.wait(60)
        if self.error is not None:
            raise self.error
        kind, protocol = socket.SOCK_STREAM, socket.IPPROTO_TCP
        return [
            (socket.AF_INET6, kind, protocol, "", (address, port, 0, 2))
            if ":" in address
            else (socket.AF_INET, kind, protocol, "", (address, port))
            for address in self.addresses
        ]


class Clock:
    """A monotonic clock that can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    made = System()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    yield made
    made.running.set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def names(clock: Clock) -> Names:
    return Names(clock)


@pytest.fixture
def said() -> Iterator[list[str]]:
    found: list[str] = []
    handle = logger.add(lambda message: found.append(message.record["message"]), level="INFO")
    yield found
    logger.remove(handle)


async def addresses(names: Names, host: str = HOST, timeout_s: float = 2.0) -> list[str]:
    return [found["host"] for found in await Resolver(timeout_s, names).resolve(host, 80, socket.AF_UNSPEC)]


def failing() -> socket.gaierror:
    return socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


async def test_an_answer_of_the_system_is_passed_on(system: System, names: Names) -> None:
    system.addresses = ["192.0.2.1", "fe80::1", "192.0.2.2"]
    assert await addresses(names) == ["192.0.2.1", "fe80::1%2", "192.0.2.2"]
    (first, *_) = await Resolver(2.0, names).resolve(HOST, 8080, socket.AF_UNSPEC)
    assert (first["hostname"], first["port"], first["family"]) == (HOST, 8080, socket.AF_INET)


async def test_the_last_good_address_serves_and_begin_and_end_are_one_line_each(
    system: System, names: Names, said: list[str]
) -> None:
    await addresses(names)
    system.error = failing()
    assert [await addresses(names) for _ in range(3)] == [["192.0.2.1"]] * 3
    system.error, system.addresses = None, ["192.0.2.9"]
    assert [await addresses(names) for _ in range(2)] == [["192.0.2.9"]] * 2
    assert said == ["name is not resolved, its last good address serves", "name is resolved again"]


async def test_the_last_good_address_serves_for_a_bounded_time_since_the_system_gave_it(
    system: System, names: Names, clock: Clock, said: list[str]
) -> None:
    await addresses(names)
    clock.ahead = GOOD_FOR_S / 2
    await addresses(names)
    system.error = failing()
    clock.ahead += GOOD_FOR_S - 1
    assert await addresses(names) == ["192.0.2.1"]
    clock.ahead += 2
    for _ in range(2):
        with pytest.raises(socket.gaierror, match="Temporary"):
            await addresses(names)
    assert len(said) == 2
    assert said[1] == "name is not resolved, and its last good address is too old"
    system.error = None
    assert await addresses(names) == ["192.0.2.1"]


@pytest.mark.parametrize("error", [failing(), UnicodeError("label too long"), ValueError("embedded null character")])
async def test_a_name_that_was_never_resolved_is_an_oserror(system: System, names: Names, error: Exception) -> None:
    system.error = error
    with pytest.raises(OSError, match=str(error.args[-1])):
        await addresses(names)


async def test_a_name_without_addresses_is_an_oserror(system: System, names: Names) -> None:
    system.addresses = []
    with pytest.raises(OSError, match="no address"):
        await addresses(names)


async def test_a_port_and_a_name_are_each_their_own(system: System, names: Names) -> None:
    await addresses(names)
    system.error = failing()
    with pytest.raises(OSError, match="Temporary"):
        await addresses(names, "another.invalid")
    with pytest.raises(OSError, match="Temporary"):
        await Resolver(2.0, names).resolve(HOST, 81, socket.AF_UNSPEC)


async def test_a_lookup_that_hangs_is_one_thread_and_holds_nobody_longer_than_his_time_to_connect(
    system: System, names: Names
) -> None:
    system.running.clear()
    async with asyncio.timeout(WAIT_S):
        found = await asyncio.gather(*(addresses(names, timeout_s=0.1) for _ in range(20)), return_exceptions=True)
        assert {type(error) for error in found} == {socket.gaierror}
        with pytest.raises(socket.gaierror, match="No name server"):
            await addresses(names, timeout_s=0.1)
    assert (system.asked, _lookups()) == (1, 1)
    system.running.set()
    await eventually(lambda: not _lookups())
    assert await addresses(names, timeout_s=0.1) == ["192.0.2.1"]


def _lookups() -> int:
    """Return how many threads look names up; those of other tests' executors come and go."""
    return sum(thread.name.startswith("lookup-") for thread in threading.enumerate())


async def test_with_an_address_from_before_nobody_waits_long_for_a_lookup_that_hangs(
    system: System, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "_PATIENCE_S", 0.05)
    await addresses(names)
    system.running.clear()
    async with asyncio.timeout(WAIT_S):
        assert await addresses(names, timeout_s=2 * WAIT_S) == ["192.0.2.1"]


async def test_an_answer_that_comes_when_nobody_waits_any_more_is_kept(system: System, names: Names) -> None:
    system.running.clear()
    waiting = asyncio.create_task(addresses(names))
    await eventually(lambda: system.asked == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    system.running.set()
    assert await addresses(names) == ["192.0.2.1"]
    assert system.asked <= 2
    system.error = failing()
    assert await addresses(names) == ["192.0.2.1"]


async def test_no_more_threads_is_an_oserror(system: System, names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(OSError, match="new thread"):
            await addresses(names)
    assert await addresses(names) == ["192.0.2.1"]


def test_a_loop_does_not_wait_for_a_lookup_that_hangs(system: System) -> None:
    system.running.clear()

    async def ask() -> None:
        with pytest.raises(socket.gaierror):
            await Resolver(0.01).resolve(HOST, 80)

    asyncio.run(ask())
    assert _lookups() == 1  # still


async def test_the_names_of_long_ago_make_room(system: System, names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "_MOST_NAMES", 2)
    for host in ("a.invalid", "b.invalid", "a.invalid", "c.invalid"):
        await addresses(names, host)
    system.error = failing()
    assert await addresses(names, "a.invalid") == await addresses(names, "c.invalid") == ["192.0.2.1"]
    with pytest.raises(OSError, match="Temporary"):
        await addresses(names, "b.invalid")


async def test_all_connections_of_a_loop_share_what_is_known(system: System) -> None:
    assert await Resolver(2.0).resolve(HOST, 80)
    system.error = failing()
    assert await Resolver(1.0).resolve(HOST, 80)
