"""Who is local: nobody from another host, whatever the request says of itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from hartonomous.errors import PermissionDeniedError
from hartonomous.keys import STATE
from hartonomous.middleware.local import check_local, is_local


def _request(remote: str | None, host: str = "127.0.0.1:8700", **headers: str) -> web.Request:
    current = SimpleNamespace(config=SimpleNamespace(server=SimpleNamespace(cors=SimpleNamespace(origins=()))))
    request: Any = SimpleNamespace(remote=remote, host=host, raw_path="/v1/models", app={STATE: SimpleNamespace()})
    request.app[STATE].current = current
    request.headers = CIMultiDictProxy(CIMultiDict({"Host": host} | headers))
    return cast("web.Request", request)


@pytest.mark.parametrize("remote", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "", None])
def test_this_host_is_let_in(remote: str | None) -> None:
    check_local(_request(remote))
    assert is_local(_request(remote, "localhost:1"))


@pytest.mark.parametrize("remote", ["10.0.0.7", "fe80::1%eth0", "::ffff:10.0.0.7", "2001:db8::1", "nonsense"])
def test_another_host_is_not_whatever_it_says_of_itself(remote: str) -> None:
    with pytest.raises(PermissionDeniedError, match="came from another host"):
        check_local(_request(remote))
    assert not is_local(_request(remote))


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1", ""),
        *("localhost:80.evil.example", "localhost:80:80", "[::1]evil.example", "[::1", "localhost:", "a@localhost"),
    ],
)
def test_another_name_is_not(host: str) -> None:
    assert not is_local(_request("127.0.0.1", host))


@pytest.mark.parametrize("host", ["LOCALHOST", "[::1]:8700", "[::ffff:127.0.0.1]", "127.1.2.3:1"])
def test_any_name_of_this_host_is(host: str) -> None:
    assert is_local(_request("127.0.0.1", host))


def test_a_target_that_is_a_whole_url_names_this_host_as_well() -> None:
    for name, is_here in (("127.0.0.1", True), ("evil.example", False)):
        request: Any = _request("127.0.0.1")
        request.raw_path, request.url = f"http://{name}/v1/models", SimpleNamespace(host=name)
        assert is_local(request) == is_here


@pytest.mark.parametrize(
    "name",
    ["Forwarded", "Via", "X-Forwarded-For", "x-forwarded-port", "X-Forwarded", "X-Real-IP", "True-Client-IP"],
)
def test_what_a_proxy_adds_is_refused(name: str) -> None:
    with pytest.raises(PermissionDeniedError, match="came through a proxy"):
        check_local(_request("127.0.0.1", **{name: "1"}))
