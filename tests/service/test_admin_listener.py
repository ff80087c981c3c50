"""The operator's own address: `/admin` and `/metrics` are found there alone, and however full the other one is."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import stat
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.service.application import eventually, merged
from tests.service.certificates import Files
from tests.service.fault_backend import FaultBackend, after, reply
from tests.service.keyed import Key, auth_section
from tests.service.rag import CHAT
from tests.service.serving import Served, backends, serving

OPERATOR = Key("operator", ("admin", "metrics"), ("*",))
TENANT = Key("tenant", ("query",), ("docs",))
OPERATORS = (("POST", "/admin/config/reload"), ("GET", "/metrics"))
PUBLIC = (
    *(("POST", "/rag/query"), ("GET", "/rag/collections"), ("GET", "/v1/models"), ("POST", CHAT)),
    # For an admin's key, and all the same a path of the main address.
    ("DELETE", "/rag/collections/docs"),
)
SHARED = (("GET", "/health"), ("GET", "/openapi.json"))


class Both:
    """A server with two addresses, and a session for each."""

    def __init__(self, served: Served, main: aiohttp.ClientSession, admin: aiohttp.ClientSession) -> None:
        self.served = served
        self.main = main
        self.admin = admin


def _auth(*keys: Key) -> dict[str, Any]:
    section = auth_section(*keys)
    lists = ("scopes", "collections")
    return section | {"keys": [entry | {name: list(entry[name]) for name in lists} for entry in section["keys"]]}


@asynccontextmanager
async def both(folder: Path, url: str, admin: str = "127.0.0.1:0", *keys: Key, **sections: Any) -> AsyncIterator[Both]:
    """Start a server with these keys, and yield it with sessions that have none."""
    sections["server"] = {"admin": admin} | sections.get("server", {})
    if keys:
        sections["auth"] = _auth(*keys)
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(serving(folder, **{"backends": backends(url)} | sections))
        told = next(line for line in served.lines if line["message"] == "listening")
        connector = aiohttp.UnixConnector(admin.removeprefix("unix:")) if admin.startswith("unix:") else None
        address = "http://localhost" if connector else f"http://{told['admin']}"
        main = await stack.enter_async_context(aiohttp.ClientSession(served.url))
        yield Both(served, main, await stack.enter_async_context(aiohttp.ClientSession(address, connector=connector)))


async def answered(session: aiohttp.ClientSession, method: str, path: str, key: Key | None) -> tuple[int, Any, Any]:
    """Return status, error code and `Allow` of an answer."""
    headers = {} if key is None else key.headers
    async with session.request(method, path, headers=headers) as response:
        data = await response.read()
        error = json.loads(data).get("error", {}) if response.status >= 400 else {}
        return response.status, error.get("code"), response.headers.get("Allow")


async def unknown(session: aiohttp.ClientSession, paths: Iterable[tuple[str, str]], *keys: Key | None) -> None:
    """Show that these paths are answered as one is that there is not, by any method and whoever asks."""
    for key in keys:
        expected = await answered(session, "GET", "/there/is/none", key)
        for method, path in paths:
            for asked in (method, "GET", "POST", "PUT"):
                assert await answered(session, asked, path, key) == expected, (asked, path, key)


async def test_each_address_has_its_own_paths_and_the_other_ones_are_unknown(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    async with both(tmp_path, faulty.url, "127.0.0.1:0", OPERATOR, TENANT) as it:
        assert await answered(it.main, "GET", "/there/is/none", OPERATOR) == (404, "path_not_found", None)
        assert (await answered(it.main, "GET", "/there/is/none", None))[0] == 401
        await unknown(it.main, OPERATORS, OPERATOR, TENANT, None)
        await unknown(it.admin, PUBLIC, OPERATOR, TENANT, None)
        for method, path in OPERATORS:
            assert (await answered(it.admin, method, path, OPERATOR))[0] == 200
            assert (await answered(it.admin, method, path, TENANT))[0] == 403
            assert (await answered(it.admin, method, path, None))[0] == 401
        for session in (it.main, it.admin):
            for method, path in SHARED:
                assert (await answered(session, method, path, None))[0] == 200
            assert (await answered(session, "GET", "/ready", None))[0] in {200, 503}
        assert (await answered(it.main, "GET", "/v1/models", TENANT))[0] == 200
        main, admin = await _described(it.main), await _described(it.admin)
        assert main & admin == {"/health", "/ready", "/openapi.json"}
        assert "/rag/collections/{name}" in main
        assert admin - main == {"/admin/config/reload", "/admin/logs", "/admin/sweep", "/metrics"}
        for key, status in ((OPERATOR, 503), (TENANT, 403), (None, 401)):  # the store is none
            assert (await answered(it.main, "DELETE", "/rag/collections/docs", key))[0] == status


async def test_without_keys_the_same_rules_hold_on_both(tmp_path: Path, faulty: FaultBackend) -> None:
    async with both(tmp_path, faulty.url) as it:
        assert (await answered(it.admin, "POST", "/admin/config/reload", None))[0] == 200
        async with it.admin.get("/metrics", headers={"Origin": "http://evil.example"}) as response:
            assert response.status == 403
        await unknown(it.main, OPERATORS, None)
        told = [line["message"] for line in it.served.lines]
        assert any("there are no keys" in message for message in told)


async def test_a_unix_socket_is_for_its_owner_and_group_and_goes_with_the_server(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    file = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(file))  # as one that was killed leaves it
    async with both(tmp_path, faulty.url, f"unix:{file}", OPERATOR) as it:
        assert stat.S_IMODE(file.stat().st_mode) == 0o660
        assert (await answered(it.admin, "GET", "/metrics", OPERATOR))[0] == 200
        assert (await answered(it.admin, "GET", "/metrics", None))[0] == 401
        assert (await answered(it.admin, "POST", "/admin/config/reload", OPERATOR))[0] == 200
        await unknown(it.admin, PUBLIC, OPERATOR)
        it.served.stop()
        assert await it.served.exit_code() == 0
        assert not file.exists()


async def test_the_address_speaks_tls_where_the_other_one_does_and_a_unix_socket_does_not(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    files = Files(tmp_path)
    file = tmp_path / "admin.sock"
    for folder, admin in ((tmp_path / "tcp", "127.0.0.1:0"), (tmp_path / "unix", f"unix:{file}")):
        folder.mkdir()
        server = {"admin": admin, "tls": files.section()}
        async with serving(folder, backends=backends(faulty.url), server=server) as served:
            told = next(line for line in served.lines if line["message"] == "listening")
            assert (told["tls"], told["keys"]) == (True, 0)
            if admin.startswith("unix:"):
                connector: aiohttp.BaseConnector = aiohttp.UnixConnector(str(file))
                url = "http://localhost"
            else:
                connector = aiohttp.TCPConnector(ssl=files.client())
                url = f"https://{told['admin']}"
            async with aiohttp.ClientSession(url, connector=connector) as session, session.get("/metrics") as response:
                assert response.status == 200


@pytest.mark.parametrize("kind", ["taken", "a file", "no folder", "too long"])
async def test_a_socket_that_cannot_be_had_fails_the_start_with_a_sentence(
    tmp_path: Path, faulty: FaultBackend, kind: str
) -> None:
    file = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as other:
        if kind == "taken":
            other.bind(str(file))
            other.listen()
        elif kind == "a file":
            file.write_text("precious")
        else:
            file = tmp_path / ("none/admin.sock" if kind == "no folder" else "x" * 108)
        sections: dict[str, Any] = {"backends": backends(faulty.url), "server": {"admin": f"unix:{file}"}}
        async with serving(tmp_path, **sections) as served:
            assert await served.exit_code() == 2
            last = served.log.read_text().splitlines()[-1]
    assert last.startswith(f"cannot listen on unix:{file}: ")
    assert "unknown" not in last
    assert kind != "a file" or file.read_text() == "precious"


async def test_a_full_server_has_room_for_its_operator(tmp_path: Path, faulty: FaultBackend) -> None:
    """More connections than there is room for, all at work: nobody else is let in, but the operator is."""
    released = asyncio.Event()
    faulty.on(CHAT, after(reply(200, b"{}"), released))
    services = backends(faulty.url, concurrency=64)
    async with both(tmp_path, faulty.url, backends=services) as it, AsyncExitStack() as stack:
        file = tmp_path / "config.yaml"
        written = yaml.safe_load(file.read_text())
        file.write_text(yaml.safe_dump(merged(written, {"server": {"max_connections": 16}})))
        async with it.admin.post("/admin/config/reload") as response:  # the limit needs no restart
            assert (await response.json())["changed"] == ["server.max_connections"]
        for _ in range(60):
            _, writer = await asyncio.open_connection("127.0.0.1", it.served.port)
            stack.callback(writer.close)
            body = b'{"messages": []}'
            writer.write(b"POST %s HTTP/1.1\r\nHost: localhost\r\n" % CHAT.encode())
            writer.write(b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await eventually(lambda: it.served.told("There are too many connections."), "it is full")
        for _ in range(3):
            async with it.admin.get("/metrics") as response:
                text = await response.text()
                assert (response.status, response.headers.get("Connection")) == (200, None)
            assert (await answered(it.admin, "POST", "/admin/config/reload", None))[0] == 200
        assert 'hartonomous_http_connections_limited_total{action="surplus"}' in text
        released.set()


async def test_while_the_server_drains_the_operator_sees_it(tmp_path: Path, faulty: FaultBackend) -> None:
    released = asyncio.Event()
    faulty.on(CHAT, after(reply(200, b'{"whole": true}'), released))
    async with both(tmp_path, faulty.url) as it:
        asking = asyncio.create_task(_ask(it.main))
        await eventually(lambda: faulty.calls(CHAT), "the backend is asked")
        it.served.process.send_signal(signal.SIGTERM)
        await eventually(lambda: it.served.told("draining"), "the drain")
        async with it.admin.get("/ready") as response:
            assert response.status == 503
            assert "the server is shutting down" in (await response.json())["reasons"]
        async with it.admin.get("/metrics") as response:
            assert "hartonomous_draining 1.0" in await response.text()
        assert (await answered(it.admin, "POST", "/admin/config/reload", None))[:2] == (503, "draining")
        released.set()
        assert await asking == (200, b'{"whole": true}')
        assert await it.served.exit_code() == 0


async def _described(session: aiohttp.ClientSession) -> set[str]:
    async with session.get("/openapi.json") as response:
        return set((await response.json())["paths"])


async def _ask(session: aiohttp.ClientSession) -> tuple[int, bytes]:
    async with session.post(CHAT, json={"messages": []}) as response:
        return response.status, await response.read()
