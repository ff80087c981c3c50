"""How a connection to a plain address is made on uvloop, and what is said when it is not."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, ClassVar

import pytest

from hartonomous.clients.pool import Pool
from hartonomous.errors import BackendUnavailableError
from hartonomous.metrics import Metrics
from hartonomous.services import Service
from tests.clients.test_exchange import OK, answering, call, served
from tests.service.vector_store import free_port

uvloop: Any = pytest.importorskip("uvloop")


class _Loop(uvloop.Loop):  # type: ignore[misc]  # it may not be installed, and has no type
    """uvloop's, which notes what its threads are asked."""

    __module__ = "uvloop"
    asked: ClassVar[list[object]] = []

    async def getaddrinfo(self, host: object, port: object, **options: Any) -> Any:
        self.asked.append(host)
        return await super().getaddrinfo(host, port, **options)


def test_an_address_is_connected_to_without_asking_what_it_means() -> None:
    async def ask() -> None:
        async with served(answering(OK)) as (pool, backend):
            _Loop.asked.clear()
            assert (await pool.request("POST", "/x", call(), b"{}")).body == b"ok"
            assert backend.connections == 1
            assert not _Loop.asked

    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(ask())


def test_who_does_not_listen_is_not_there() -> None:
    async def ask() -> None:
        pool = Pool("generative", (f"http://127.0.0.1:{free_port()}",), Service(), Metrics())
        try:
            await pool.request("POST", "/x", call(), b"{}")
        finally:
            await pool.close()

    with pytest.raises(BackendUnavailableError):
        uvloop.run(ask())


def test_who_does_not_accept_is_not_waited_for_longer_than_said() -> None:
    async def ask(port: int) -> None:
        pool = Pool("generative", (f"http://127.0.0.1:{port}",), Service(connect_timeout_s=0.2), Metrics())
        try:
            await pool.request("POST", "/x", call(), b"{}")
        finally:
            await pool.close()

    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        for one in (first, second):  # who fill its queue
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        with pytest.raises(BackendUnavailableError):
            uvloop.run(ask(port))
