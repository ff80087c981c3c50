"""The listening socket where the system is not as it should be, and the last connections of a server."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Any

import pytest
from aiohttp import web

from hartonomous.adopting import bind
from hartonomous.app import create_app
from hartonomous.errors import ConfigError
from hartonomous.listening import Listener
from tests.service.application import ConfigMaker, eventually, running
from tests.service.sockets import ask, connected, get, port_of

LARGE = "/openapi.json"


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Families of addresses that the system does not have, with what it says instead."""
    missing: dict[int, int] = {}
    create = socket.create_server

    def create_server(address: Any, *, family: int, **options: Any) -> socket.socket:
        if family in missing:
            raise OSError(missing[family], os.strerror(missing[family]))
        return create(address, family=family, **options)

    monkeypatch.setattr(socket, "create_server", create_server)
    return missing


async def _listening(config: Any) -> tuple[web.AppRunner, Listener]:
    runner = web.AppRunner(create_app(config), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    return runner, Listener(runner, config)


@pytest.mark.parametrize("reason", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
async def test_localhost_is_served_where_there_is_no_ipv6(
    make_config: ConfigMaker, without: dict[int, int], monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    async def both(*_: Any, **__: Any) -> list[Any]:
        return [
            (family, socket.SOCK_STREAM, 6, "", (host, 0))
            for family, host in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
        ]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
    runner, listener = await _listening(make_config())
    try:
        without[socket.AF_INET6] = reason
        listener.serve(*await bind("localhost", 0))
        [host, port] = listener.sockets[0].getsockname()[:2]
        assert host == "127.0.0.1"
        assert (await ask(port, get("/health")))[0] == 200
        without[socket.AF_INET] = reason
        with pytest.raises(ConfigError, match="cannot listen on localhost:0"):
            await bind("localhost", 0)
    finally:
        await listener.close(0)
        await runner.cleanup()


async def test_a_network_that_says_no_for_a_moment_ends_nothing(
    make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(make_config()) as app:
        failures = [errno.EPERM, errno.EPROTO, errno.ENETDOWN]
        accept = socket.socket.accept

        def failing(listening: socket.socket) -> Any:
            if failures and listening.getsockname()[1] == port_of(app.url):
                number = failures.pop()
                raise OSError(number, os.strerror(number))
            return accept(listening)

        monkeypatch.setattr(socket.socket, "accept", failing)
        assert (await ask(port_of(app.url), get("/health")))[0] == 200
        assert not failures
        assert await app.metric('hartonomous_http_connections_limited_total{action="failed"}') == 3


async def test_a_client_that_does_not_read_does_not_outlive_the_server(make_config: ConfigMaker) -> None:
    runner, listener = await _listening(make_config())
    listener.serve(*await bind("127.0.0.1", 0))
    _, port = listener.sockets[0].getsockname()
    async with connected(port, buffer_bytes=4_096) as client:
        client.pause()
        client.writer.write(get(LARGE) * 200)
        await eventually(lambda: any(not each.is_idle for each in listener._open), "it is answered")
        await listener.close(0.1)
        await runner.cleanup()
        await listener.wait_closed(0.1)
        await eventually(lambda: not listener._open, "its connection has ended")


async def test_who_waits_in_the_systems_queue_when_the_server_ends_is_answered(make_config: ConfigMaker) -> None:
    runner, listener = await _listening(make_config())
    listener.serve(*await bind("127.0.0.1", 0))
    address = listener.sockets[0].getsockname()
    waiting = [socket.create_connection(address) for _ in range(40)]  # the loop does not come round meanwhile
    try:
        for each in waiting:
            each.sendall(get("/health"))
        await listener.close(10.0)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        assert {each.recv(12) for each in waiting} == {b"HTTP/1.1 200"}
    finally:
        for each in waiting:
            each.close()
        await runner.cleanup()
        await listener.wait_closed(0.1)
