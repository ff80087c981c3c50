"""`server.reuse_port`: several processes on one port, of which any may stop."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from tests.service.fault_backend import FaultBackend
from tests.service.keptalive import behaviour, load
from tests.service.managed import Manager, managing
from tests.service.rag import CHAT
from tests.service.serving import backends

QUICK = {"interval_s": 0.2, "timeout_s": 1.0}


async def test_of_several_processes_on_one_port_any_may_stop_under_load(tmp_path: Path, faulty: FaultBackend) -> None:
    faulty.on(CHAT, behaviour())
    services = backends(faulty.url, concurrency=64)
    async with AsyncExitStack() as stack:
        server, managers = {"port": 0, "reuse_port": True}, list[Manager]()
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            managers.append(
                await stack.enter_async_context(
                    managing(tmp_path / name, backends=services, health=QUICK, server=server)
                )
            )
            served = await managers[-1].start()
            await managers[-1].ready()
            server["port"] = served.port
        async with load(("127.0.0.1", served.port)) as clients:
            for stopping in managers:
                await clients.more()
                await stopping.stop()
                await clients.more()
                stopping.configure(backends=services, health=QUICK, server=server)
                await stopping.start()
                await stopping.ready(2)
        assert clients.wrong == []
        assert min(clients.answers.values()) > 10
