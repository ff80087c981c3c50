"""Processes of a host that serve one configuration file: a reload through any of them reaches all within a second."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.forked import PIPE, Forked, hartonomous
from tests.service.application import eventually, merged
from tests.service.fault_backend import FaultBackend
from tests.service.keyed import Key, auth_section
from tests.service.serving import Served, backends

RELOADING = "/admin/config/reload"
READ_AGAIN = "the configuration was read again"
# Within a second is what is promised; a busy machine may need longer for its answers alone.
SOON_S = 5.0

OPERATOR = Key("operator", ("admin", "metrics"), ("*",))
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
            await soon(lambda: _is(host.who_know(OTHER), False))
            host.write(OTHER)
            assert (await host.reload(served))[0] == 200
            await soon(lambda: _is(host.who_know(OTHER), True))
        told = [line for served in host.served for line in served.lines if line["level"] in {"WARNING", "ERROR"}]
        assert {line["message"] for line in told} <= {"backend health changed"}  # there is no vector store


def _reloaded(*changed: str) -> dict[str, Any]:
    return {"status": "reloaded", "changed": list(changed), "restart_required": []}


async def _is(each: Awaitable[list[bool]], wanted: bool) -> bool:
    return set(await each) == {wanted}


async def test_a_broken_file_is_told_to_who_asks_and_to_nobody_else(hosts: HostMaker) -> None:
    async with hosts(count=2) as host:
        asked, other = host.served
        host.write(rag={"retrieval": {"top_k": "many"}})
        status, answer = await host.reload(asked)
        assert (status, answer["error"]["param"]) == (422, "rag.retrieval.top_k")
        host.write()
        assert (await host.reload(asked))[0] == 200
        await soon(lambda: _is(host.who_know(OTHER), False))
        assert asked.told("the configuration is wrong: the old one serves on") == 1
        assert other.told("the configuration is wrong: the old one serves on") == 0


async def test_who_reload_at_the_same_time_all_end_with_the_last_configuration(hosts: HostMaker) -> None:
    async with hosts() as host:
        for _ in range(5):
            for keys in ((), (OTHER,)):
                host.write(*keys)
                answers = await asyncio.gather(*(host.reload(served) for served in host.served))
                assert {status for status, _ in answers} == {200}
            await soon(lambda: _is(host.who_know(OTHER), True))
        before = [served.told(READ_AGAIN) for served in host.served]
        await eventually(lambda: _is_quiet(host, before), "nobody tells anybody any more")


def _is_quiet(host: Host, before: list[int]) -> bool:
    """Whether nobody has reloaded since this was asked for the last time."""
    now = [served.told(READ_AGAIN) for served in host.served]
    same, before[:] = now == before, now
    return same
