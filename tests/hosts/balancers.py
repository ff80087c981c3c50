"""HAProxy and nginx as processes of a test, with the files in `etc/` but for addresses, certificates and users.

What is replaced must stand in the file, so that a test does not go on with a file that says something else.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import pytest

from hartonomous.trial import child
from tests.service.application import eventually
from tests.service.certificates import Files
from tests.service.vector_store import free_port

ETC = Path(__file__).parents[2] / "etc"
_SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin"
_NOBODY = 9
_AS_IT_IS: Mapping[str, str] = MappingProxyType({})
PROGRAMS = {name: shutil.which(name, path=_SBIN) for name in ("haproxy", "nginx")}


class Balancer:
    """A balancer that runs: where it listens, plainly and over TLS; `lines` is its log, as far as it sends one.

    At `store_url` HAProxy stands before a Qdrant cluster.
    """

    def __init__(self, process: Process, port: int, tls_port: int, files: Files, store_port: int = 0) -> None:
        self.process = process
        self.port = port
        self.store_url = f"http://127.0.0.1:{store_port}"
        self.url = f"http://127.0.0.1:{port}"
        self.tls_url = f"https://127.0.0.1:{tls_port}"
        self.files = files
        self.lines: list[str] = []

    def server_of(self, request_id: str) -> str | None:
        """Return which server a request went to, by HAProxy's log; None while that tells nothing of it."""
        told = [line for line in self.lines if f"id={request_id}" in line]
        return told[-1].partition(" hartonomous/")[2].partition(" ")[0] if told else None

    def states(self) -> dict[str, str]:
        """Return which servers are up and down, as far as HAProxy's log has told of changes."""
        found: dict[str, str] = {}
        for line in self.lines:
            _, _, told = line.partition("Server hartonomous/")
            name, _, rest = told.partition(" is ")
            if rest:
                found[name] = rest.split()[0].strip(".,")
        return found


@asynccontextmanager
async def haproxy(
    folder: Path,
    ports: Sequence[int],
    stores: Sequence[int] = (_NOBODY, _NOBODY, _NOBODY),
    *,
    changes: Mapping[str, str] = _AS_IT_IS,
) -> AsyncIterator[Balancer]:
    """Run HAProxy before servers, and nodes of Qdrant, on these ports; it asks each of them ten times a second."""
    program = PROGRAMS["haproxy"]
    assert program is not None
    port, tls_port, store_port, files = free_port(), free_port(), free_port(), Files(folder)
    pem = folder / "hartonomous.pem"
    pem.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    with _log_socket() as log:
        text = _replaced(
            (ETC / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8"),
            {
                "log /dev/log local0": f"log 127.0.0.1:{log.getsockname()[1]} local0",
                "    chroot /var/lib/haproxy\n    user haproxy\n    group haproxy\n": "",
                "/run/haproxy/admin.sock": str(folder / "admin.sock"),
                "bind :443 ssl crt /etc/haproxy/hartonomous.pem": f"bind 127.0.0.1:{port}\n"
                f"    bind 127.0.0.1:{tls_port} ssl crt {pem}",
                "check inter 1s": "check inter 100ms",
                "127.0.0.1:6330": f"127.0.0.1:{store_port}",
                **{f"10.0.0.{number}:6333": f"127.0.0.1:{port}" for number, port in enumerate(stores, 1)},
                **{f"10.0.0.{number}:8700": f"127.0.0.1:{port}" for number, port in enumerate(ports, 1)},
                **changes,
            },
        )
        config = folder / "haproxy.cfg"
        config.write_text(text, encoding="utf-8")
        async with _running([program, "-db", "-q", "-f", str(config)], port) as process:
            balancer = Balancer(process, port, tls_port, files, store_port)
            asyncio.get_running_loop().add_reader(log, _read_log, log, balancer.lines)
            try:
                yield balancer
            finally:
                asyncio.get_running_loop().remove_reader(log)


@asynccontextmanager
async def nginx(
    folder: Path, ports: Sequence[int], *, changes: Mapping[str, str] = _AS_IT_IS
) -> AsyncIterator[Balancer]:
    """Run nginx before servers on these ports."""
    program = PROGRAMS["nginx"]
    assert program is not None
    port, tls_port, files = free_port(), free_port(), Files(folder)
    text = _replaced(
        (ETC / "nginx" / "hartonomous.conf").read_text(encoding="utf-8"),
        {
            "listen 443 ssl http2;": f"listen 127.0.0.1:{port}; listen 127.0.0.1:{tls_port} ssl http2;",
            "/etc/nginx/hartonomous.crt": str(files.certificate),
            "/etc/nginx/hartonomous.key": str(files.key),
            **{f"10.0.0.{number}:8700": f"127.0.0.1:{port}" for number, port in enumerate(ports, 1)},
            **changes,
        },
    )
    (folder / "hartonomous.conf").write_text(text, encoding="utf-8")
    main = folder / "nginx.conf"
    main.write_text(_nginx_main(folder), encoding="utf-8")
    command = [program, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(main)]
    async with _running(command, port) as process:
        yield Balancer(process, port, tls_port, files)


class Run(Protocol):
    """Runs a balancer before servers on these ports, with further changes of its file."""

    def __call__(
        self, folder: Path, ports: Sequence[int], *, changes: Mapping[str, str] = _AS_IT_IS
    ) -> AbstractAsyncContextManager[Balancer]: ...


def needed(name: str) -> Run:
    """Return what runs the balancer of this name; the test is skipped where it is not installed."""
    if PROGRAMS[name] is None:
        pytest.skip(f"{name} is not installed")
    runs: dict[str, Run] = {"haproxy": haproxy, "nginx": nginx}
    return runs[name]


def _nginx_main(folder: Path) -> str:
    user = f"user {pwd.getpwuid(os.getuid()).pw_name};" if os.getuid() == 0 else ""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder / kind};" for kind in kinds)
    return (
        f"{user} daemon off; pid {folder / 'nginx.pid'}; worker_processes 2; events {{}}\n"
        f"http {{ access_log off; {paths} include {folder / 'hartonomous.conf'}; }}\n"
    )


def _replaced(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, f"the file does not say {old!r}"
        text = text.replace(old, new)
    return text


@asynccontextmanager
async def _running(command: Sequence[str], port: int) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(*child.command(*command), stderr=DEVNULL)
    try:
        await eventually(lambda: process.returncode is not None or listens(port), f"{command[0]} listens")
        assert process.returncode is None, f"{command[0]} ended with {process.returncode}"
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


def listens(port: int) -> bool:
    """Whether somebody listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _log_socket() -> socket.socket:
    log = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    log.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
    log.bind(("127.0.0.1", 0))
    log.setblocking(False)
    return log


def _read_log(log: socket.socket, lines: list[str]) -> None:
    try:
        while True:
            lines.append(log.recv(65_536).decode(errors="replace"))
    except BlockingIOError:
        return
