"""The balancers' files themselves: the programs find nothing to say of them, times and errors fit the servers."""

from __future__ import annotations

import asyncio
import re
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest

from hartonomous.config import Server
from tests.hosts import balancers

HAPROXY, NGINX = (
    (balancers.ETC / path).read_text("utf-8") for path in ("haproxy/haproxy.cfg", "nginx/hartonomous.conf")
)


def seconds(text: str, name: str) -> float:
    """Return the first time of this name."""
    found = re.search(rf"^\s*{name} (\d+)(m?s)", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1]) / (1000 if found[2] == "ms" else 1)


@pytest.mark.parametrize(
    ("name", "options", "file"), [("haproxy", ["-c", "-f"], "haproxy.cfg"), ("nginx", ["-t", "-c"], "nginx.conf")]
)
async def test_the_program_finds_nothing_to_say_of_its_file(
    tmp_path: Path, name: str, options: list[str], file: str
) -> None:
    async with balancers.needed(name)(tmp_path, [9, 9, 9]):
        program = str(balancers.PROGRAMS[name])
        process = await asyncio.create_subprocess_exec(
            program, *options, str(tmp_path / file), stdout=PIPE, stderr=STDOUT
        )
        told, _ = await process.communicate()
    assert process.returncode == 0, told
    assert b"warn" not in told.lower(), told


def test_no_balancer_gives_up_before_the_server_does() -> None:
    longest = Server().request_timeout_s
    waits = [("timeout server", HAPROXY), ("timeout client", HAPROXY), ("proxy_read_timeout", NGINX)]
    assert all(seconds(text, name) > longest for name, text in waits)


def test_a_balancer_closes_what_is_idle_before_the_server_does() -> None:
    assert seconds(NGINX, "keepalive_timeout") < Server().keepalive_s
    assert "pool-purge-delay 5s" in HAPROXY


def test_haproxy_sees_a_server_stop_while_that_still_takes_work() -> None:
    found = re.search(r"notice_s: ([0-9.]+).*check inter (\d)s fall (\d)", HAPROXY, re.DOTALL)
    assert found is not None
    notice, interval, fall = map(float, found.groups())
    assert interval * fall + seconds(HAPROXY, "timeout check") < notice
