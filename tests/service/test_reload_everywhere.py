"""Processes of a host that serve one configuration file: a reload through any of them reaches all within a second."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.forked import PIPE, Forked, hartonomous
from tests.service.application import eventually, merged
from tests.service.fault_backend import FaultBackend
from tests.service.keyed import Key, auth_section
from tests.service.rag import CHAT
from tests.service.serving import Served, backends

RELOADING = "/admin/config/reload"
READ_AGAIN = "the configuration was read again"
# Within a second is what is promised; a busy machine may need longer for its answers alone.
SOON_S = 30.0

OPERATOR = Key("operator", ("admin", "metrics", "query"), ("*",))
OTHER = Key("other", ("metrics",))


class Host:
    """A host's processes, which serve the configuration file of one folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self.file = folder / "config.yaml"
        self.served: list[Served] = []
        self.session = aiohttp.ClientSession(headers=OPERATOR.headers)
        self._numbers = itertools.count()
        self._pumps: list[asyncio.Task[None]] = []
        self._base: dict[str, Any] = {
            "server": {"port": 0, "runtime_directory": str(folder.parent / "run")},
            "backends": backends(url),
            "health": {"ready": ["embedding"]},
        }

    def write(self, *keys: Key, **changes: Any) -> None:
        """Write the configuration anew: the operator's key and these, and changes of other sections."""
        auth = auth_section(OPERATOR, *keys)
        auth["keys"] = [
            {**entry, **{name: list(entry[name]) for name in ("scopes", "collections")}} for entry in auth["keys"]
        ]
        made = self.file.with_name("next.yaml")
        made.write_text(yaml.safe_dump(merged(self._base | {"auth": auth}, changes)), encoding="utf-8")
        made.replace(self.file)

    async def start(self) -> Served:
        """Start one more process."""
        log = self.file.with_name(f"{next(self._numbers)}.log")
        log.touch()
        process = await hartonomous("serve", "--config", self.file, stderr=PIPE)
        self._pumps.append(asyncio.create_task(_pump(process, log)))
        served = Served(process, log)  # type: ignore[arg-type]  # a forked process has the methods of one
        await eventually(lambda: served.told("listening") or process.returncode is not None, "it listens")
        self.served.append(served)
        return served

    async def stop(self) -> None:
        """End all processes at once."""
        for served in self.served:
            with suppress(ProcessLookupError):
                served.process.kill()
        await asyncio.gather(*(served.process.wait() for served in self.served), *self._pumps)
        await self.session.close()

    async def reload(self, served: Served) -> tuple[int, Any]:
        """Reload through this process."""
        async with self.session.post(served.url + RELOADING) as response:
            return response.status, await response.json()

    async def who_know(self, key: Key) -> list[bool]:
        """Return of each process whether it lets the key in."""
        return [await self._knows(served, key) for served in self.served]

    async def _knows(self, served: Served, key: Key) -> bool:
        async with self.session.get(served.url + "/metrics", headers=key.headers) as response:
            assert response.status in {200, 401}, await response.text()
            return response.status == 200


async def _pump(process: Forked, log: Path) -> None:
    assert process.stderr is not None
    with log.open("ab", buffering=0) as file:
        while data := await process.stderr.read(65_536):
            file.write(data)


async def soon(state: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it is so, for little longer than a reload may take to reach everybody."""
    async with asyncio.timeout(SOON_S):
        for pause_s in itertools.repeat(0.02):
            if await state():
                return
            await asyncio.sleep(pause_s)


HostMaker = Callable[..., Any]


@pytest.fixture
def hosts(tmp_path: Path, faulty: FaultBackend) -> HostMaker:
    """A maker of processes that serve one file; each call makes a file of its own."""

    @asynccontextmanager
    async def make(name: str = "one", count: int = 3) -> AsyncIterator[Host]:
        folder = tmp_path / name
        folder.mkdir()
        host = Host(folder, faulty.url)
        try:
            host.write(OTHER)
            await asyncio.gather(*(host.start() for _ in range(count)))
            yield host
        finally:
            await host.stop()

    return make


@pytest.mark.parametrize("way", ["the API", "a signal"])
async def test_a_key_revoked_through_one_process_is_dead_in_all(hosts: HostMaker, way: str) -> None:
    async with hosts() as host:
        assert await host.who_know(OTHER) == [True] * 3
        for served in host.served:  # through each of them
            host.write()
            if way == "the API":
                assert await host.reload(served) == (200, _reloaded("auth.keys"))
            else:
                served.process.send_signal(signal.SIGHUP)
            await soon(partial(_all, host, knows=False))
            host.write(OTHER)
            assert (await host.reload(served))[0] == 200
            await soon(partial(_all, host, knows=True))
        told = [line for served in host.served for line in served.lines if line["level"] in {"WARNING", "ERROR"}]
        assert {line["message"] for line in told} <= {"backend health changed"}  # there is no vector store


def _reloaded(*changed: str) -> dict[str, Any]:
    return {"status": "reloaded", "changed": list(changed), "restart_required": []}


async def _all(host: Host, *, knows: bool) -> bool:
    """Whether each process lets the key in that comes and goes, or none does."""
    return set(await host.who_know(OTHER)) == {knows}


async def test_a_broken_file_is_told_to_who_asks_and_to_nobody_else(hosts: HostMaker) -> None:
    async with hosts(count=2) as host:
        asked, other = host.served
        host.write(rag={"retrieval": {"top_k": "many"}})
        status, answer = await host.reload(asked)
        assert (status, answer["error"]["param"]) == (422, "rag.retrieval.top_k")
        host.write()
        assert (await host.reload(asked))[0] == 200
        await soon(partial(_all, host, knows=False))
        assert asked.told("the configuration is wrong: the old one serves on") == 1
        assert other.told("the configuration is wrong: the old one serves on") == 0


async def test_who_reload_at_the_same_time_all_end_with_the_last_configuration(hosts: HostMaker) -> None:
    async with hosts() as host:
        for _ in range(5):
            for keys in ((), (OTHER,)):
                host.write(*keys)
                answers = await asyncio.gather(*(host.reload(served) for served in host.served))
                assert {status for status, _ in answers} == {200}
            await soon(partial(_all, host, knows=True))
        before = [served.told(READ_AGAIN) for served in host.served]
        await eventually(lambda: _is_quiet(host, before), "nobody tells anybody any more")


def _is_quiet(host: Host, before: list[int]) -> bool:
    """Whether nobody has reloaded since this was asked for the last time."""
    now = [served.told(READ_AGAIN) for served in host.served]
    same, before[:] = now == before, now
    return same


async def test_200_reloads_under_load_fail_no_request_leak_nothing_and_a_revoked_key_is_dead_in_all(
    hosts: HostMaker,
) -> None:
    """One every 50 ms, through each process in turn, with keys that come and go."""
    async with hosts() as host, asyncio.TaskGroup() as group:
        stopped, failures = asyncio.Event(), list[Any]()
        for served in host.served:
            group.create_task(_load(host, served, stopped, failures))
        await _reloads(host, 40)
        before = [_uses(served) for served in host.served]
        await _reloads(host, 200)
        stopped.set()
        assert not failures
        host.write()
        assert (await host.reload(host.served[1]))[0] == 200
        await soon(partial(_all, host, knows=False))
        for served, (descriptors, resident) in zip(host.served, before, strict=True):
            await eventually(partial(_has_fewer, served, descriptors + 20), "the descriptors are closed")
            assert _uses(served)[1] - resident < 8 * 1024 * 1024


async def _reloads(host: Host, count: int) -> None:
    for number in range(count):
        host.write(*((OTHER,) if number % 2 else ()), rag={"retrieval": {"top_k": 1 + number % 7}})
        served = host.served[number % len(host.served)]
        pause = asyncio.create_task(asyncio.sleep(0.05))
        if number % 10 == 9:
            served.process.send_signal(signal.SIGHUP)
        else:
            assert (await host.reload(served))[0] == 200
        await pause


async def _load(host: Host, served: Served, stopped: asyncio.Event, failures: list[Any]) -> None:
    """Ask again and again with a key that is never revoked; keep what was not answered well."""
    while not stopped.is_set():
        for path, body in (("/metrics", None), (CHAT, {"messages": []})):
            method = "GET" if body is None else "POST"
            async with host.session.request(method, served.url + path, json=body) as response:
                if response.status != 200:
                    failures.append((path, response.status, await response.text()))
        await asyncio.sleep(0.02)


def _has_fewer(served: Served, descriptors: int) -> bool:
    return _uses(served)[0] < descriptors


def _uses(served: Served) -> tuple[int, int]:
    """Return how many descriptors the process has open, and how many bytes of memory."""
    folder = Path(f"/proc/{served.process.pid}")
    pages = int((folder / "statm").read_text().split()[1])
    return sum(1 for _ in (folder / "fd").iterdir()), pages * os.sysconf("SC_PAGE_SIZE")


async def test_a_process_that_is_killed_leaves_nothing_that_hurts_the_others(hosts: HostMaker) -> None:
    async with hosts() as host:
        killed = host.served.pop()
        killed.process.send_signal(signal.SIGHUP)
        killed.process.kill()
        await killed.process.wait()
        await host.start()
        host.write()
        assert (await host.reload(host.served[0]))[0] == 200
        await soon(partial(_all, host, knows=False))


async def test_processes_that_serve_another_file_are_left_alone(hosts: HostMaker) -> None:
    async with hosts("one", 2) as one, hosts("two", 1) as two:
        for number in range(3):
            one.write(*((OTHER,) if number % 2 else ()))
            assert (await one.reload(one.served[0]))[0] == 200
            await soon(partial(_all, one, knows=bool(number % 2)))
        assert two.served[0].told(READ_AGAIN) == 0
