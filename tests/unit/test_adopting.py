"""Sockets that were passed: what they are for, and what is refused; and those that are bound."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hartonomous.adopting import Adopted, adopt, bind, shown
from hartonomous.config import Config
from hartonomous.configfile import parse
from hartonomous.errors import ConfigError
from hartonomous.systemd import Given
from tests.service.keyed import Key, auth_section
from tests.service.serving import backends

LOCAL = "127.0.0.1"
EVERYWHERE = "0.0.0.0"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes the sockets of a test."""
    with ExitStack() as made:
        yield made


def _config(*keys: Key, **server: Any) -> Config:
    auth = {"auth": auth_section(*keys)} if keys else {}
    written = {"backends": backends("http://127.0.0.1:1"), "server": server, **auth}
    return parse(json.dumps(written), {})


def _adopted(config: Config, *passed: tuple[str, socket.socket]) -> Adopted:
    """Adopt sockets as they were passed: as descriptors, which are whose they were passed to."""
    return adopt(Given(tuple((name, each.detach()) for name, each in passed)), config)


@pytest.mark.parametrize(
    ("name", "door"),
    [
        *((name, "main") for name in ("main", "", "unknown", "connection", "hartonomous.socket")),
        *((name, "admin") for name in ("admin", "hartonomous-admin.socket")),
    ],
)
def test_a_socket_is_known_by_its_name_or_its_units(name: str, door: str) -> None:
    adopted = _adopted(_config(admin="127.0.0.1:8701"), (name, socket.create_server((LOCAL, 0))))
    assert {there: len(sockets) for there, sockets in adopted.lent.items()} == {"main": 0, "admin": 0} | {door: 1}
    adopted.close()


@pytest.mark.parametrize(
    ("kind", "name", "problem"),
    [
        ("datagram", "main", "what was passed as main is no stream socket that listens"),
        ("silent", "main", "what was passed as main is no stream socket that listens"),
        ("local", "other", "a socket named other was passed: main and admin are known"),
        ("local", "admin", "a socket named admin was passed, but server.admin is not set"),
        ("open", "main", "without keys only loopback addresses can be served: a socket was passed that listens on 0"),
        ("mapped", "main", "without keys only loopback addresses can be served: a socket was passed that listens on ["),
    ],
)
def test_a_socket_that_cannot_be_served_is_refused(kind: str, name: str, problem: str) -> None:
    makers: dict[str, Callable[[], socket.socket]] = {
        "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "silent": lambda: socket.socket(socket.AF_INET),
        "local": lambda: socket.create_server((LOCAL, 0)),
        "open": lambda: socket.create_server((EVERYWHERE, 0)),
        "mapped": lambda: socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True),
    }
    with pytest.raises(ConfigError) as refused:
        _adopted(_config(), (name, makers[kind]()))
    assert refused.value.message.startswith(problem)


def test_what_is_no_socket_is_refused(tmp_path: Path, stack: ExitStack) -> None:
    descriptor = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    stack.callback(os.close, descriptor)
    with pytest.raises(ConfigError, match="what was passed as main is none: socket operation on non-socket"):
        adopt(Given((("main", descriptor),)), _config())


def test_with_keys_other_hosts_are_served() -> None:
    passed = socket.create_server((EVERYWHERE, 0))
    [found] = _adopted(_config(Key("one", ("query",), ("*",))), ("main", passed)).lent["main"]
    assert shown(found).startswith("0.0.0.0:")
    found.close()


def test_a_unix_socket_is_of_this_host(tmp_path: Path) -> None:
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(tmp_path / "main.sock"))
    made.listen()
    [found] = _adopted(_config(), ("main", made)).lent["main"]
    assert shown(found) == f"unix:{tmp_path}/main.sock"
    found.close()


async def test_of_the_sockets_that_are_there_those_are_used_that_fit(stack: ExitStack) -> None:
    there = [stack.enter_context(socket.create_server((LOCAL, 0))) for _ in range(2)]
    port = there[1].getsockname()[1]
    [found] = await bind(LOCAL, port, there)
    assert found is there[1]
    [other] = await bind(LOCAL, 0, [])
    with other:
        assert other.getsockname()[1] != port


async def test_a_shared_address_can_be_had_twice_and_another_one_not(stack: ExitStack) -> None:
    first = stack.enter_context((await bind(LOCAL, 0, shared=True))[0])
    port = first.getsockname()[1]
    stack.enter_context((await bind(LOCAL, port, shared=True))[0])
    with pytest.raises(ConfigError, match="address already in use"):
        await bind(LOCAL, port)
