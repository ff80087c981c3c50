"""SIGUSR2: a new process of the program takes the sockets, and nobody is refused; or it fails, and nothing happens."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.service import fault_backend as fault
from tests.service.application import eventually
from tests.service.fault_backend import FaultBackend, after, reply
from tests.service.keptalive import WHOLE, behaviour, load
from tests.service.managed import Manager, is_alive, listening, managing, strings, successors
from tests.service.rag import CHAT
from tests.service.serving import Served, backends
from tests.service.sockets import ask, connected, get, post

QUICK = {"interval_s": 0.2, "timeout_s": 1.0}
FAILED = "the upgrade failed: the old process serves on"
ASKED = post(CHAT, b'{"messages": []}')


async def upgraded(manager: Manager) -> int:
    """Let the main process be followed by another one; return its number."""
    old, ready = manager.main_pid, manager.has_told("READY")
    os.kill(old, signal.SIGUSR2)
    await eventually(lambda: manager.main_pid != old, "a new process")
    await manager.ready(ready + 1)
    return manager.main_pid


@pytest.mark.parametrize(("owner", "upgrades"), [("the process", 5), ("the manager", 2)])
async def test_upgrades_in_a_row_under_load_fail_no_request(
    tmp_path: Path, faulty: FaultBackend, owner: str, upgrades: int
) -> None:
    faulty.on(CHAT, behaviour())
    with listening() as passed:
        sockets = [("main", passed)] if owner == "the manager" else []
        server = {"admin": f"unix:{tmp_path}/admin.sock"}
        services = backends(faulty.url, concurrency=64)
        async with managing(tmp_path, sockets, backends=services, health=QUICK, server=server) as manager:
            served = await manager.start()
            await manager.ready()
            address = passed.getsockname() if sockets else ("127.0.0.1", served.port)
            async with load(address) as clients, load(f"{tmp_path}/admin.sock", 0) as operators:
                asking = asyncio.create_task(operators.client("get"))
                for _ in range(upgrades):
                    old = manager.main_pid
                    await clients.more()
                    await upgraded(manager)
                    await clients.more()
                    await manager.ended(old)
                operators.end()
                await asking
            assert (clients.wrong, operators.wrong) == ([], [])
            assert min(clients.answers.values()) > 10
            assert await served.exit_code() == 0
            assert len(set(manager.pids)) == upgrades + 1
            assert manager.unheard == []
            assert not manager.has_told("STOPPING")
            assert not [line for line in served.lines if line["level"] == "ERROR"]
            os.kill(manager.main_pid, signal.SIGTERM)
            await manager.ended(manager.main_pid)
            assert manager.has_told("STOPPING") == 1
            assert not (tmp_path / "admin.sock").exists()


async def test_the_old_process_finishes_what_is_under_way_while_the_new_one_serves(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    released, events = asyncio.Event(), fault.sse(fault.TOKENS)
    faulty.on(CHAT, held(events, released), reply(200, WHOLE))
    async with managing(tmp_path, backends=backends(faulty.url), health=QUICK) as manager:
        served = await manager.start()
        await manager.ready()
        port = served.port
        async with connected(port) as stream, connected(port) as idle:
            assert (await idle.ask(get("/health")))[0] == 200
            stream.writer.write(post(CHAT, b'{"messages": [], "stream": true}'))
            await stream.reader.readuntil(events[0])
            await upgraded(manager)
            assert (await ask(port, ASKED))[0] == 200
            status, said = await idle.ask(get("/ready"))
            assert (status, said["reasons"][0]) == (503, "the server is shutting down")
            assert await idle.rest() == b""
            assert served.process.returncode is None
            released.set()
            await stream.reader.readuntil(events[-1])
        assert await served.exit_code() == 0
        assert (await ask(port, get("/health")))[0] == 200


async def test_an_idle_connection_may_ask_once_more_as_long_as_the_old_process_lives(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    """Longer than a stop waits for it: the new process serves meanwhile."""
    async with managing(tmp_path, backends=backends(faulty.url), health=QUICK) as manager:
        served = await manager.start()
        await manager.ready()
        async with connected(served.port) as idle, connected(served.port) as closing:
            for each in (idle, closing):
                assert (await each.ask(get("/health")))[0] == 200
            await upgraded(manager)
            await asyncio.sleep(1.0)  # twice as long as a stop waits
            idle.writer.write(get("/health"))
            assert b"Connection: close" in await idle.head()
            assert served.process.returncode is None
            closing.writer.transport.abort()
            assert await served.exit_code() == 0


def _break(manager: Manager, kind: str) -> None:
    if kind == "configuration":
        (manager.folder / "config.yaml").write_text("nonsense: 1\n", encoding="utf-8")
    elif kind == "program gone":
        (manager.folder / "hartonomous").unlink()
    else:
        _install(manager.folder, "raise SystemExit(3)")


def _install(folder: Path, code: str) -> Path:
    """Install a program; return its path."""
    program = folder / "hartonomous"
    program.unlink(missing_ok=True)
    program.write_text(f"#!{sys.executable}\n{code}\n", encoding="utf-8")
    program.chmod(0o755)
    return program


RIGHT = "import sys; from hartonomous.__main__ import main; sys.exit(main())"


async def test_a_new_process_that_does_not_become_ready_changes_nothing(tmp_path: Path, faulty: FaultBackend) -> None:
    faulty.on(CHAT, reply(200, WHOLE))
    server = {"admin": f"unix:{tmp_path}/admin.sock"}
    async with managing(tmp_path, backends=backends(faulty.url), health=QUICK, server=server) as manager:
        manager.program = (str(_install(tmp_path, RIGHT)),)
        served = await manager.start()
        await manager.ready()
        for kind in ("configuration", "program gone", "dies"):
            failures = served.told(FAILED)
            _break(manager, kind)
            served.process.send_signal(signal.SIGUSR2)
            await eventually(partial(_fails_once_more, served, failures), f"the failure: {kind}")
            assert (await ask(served.port, ASKED))[0] == 200
        reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/admin.sock")
        writer.write(get("/metrics", b"Connection: close"))
        assert b"\nhartonomous_upgrades_failed_total 3.0\n" in await reader.read()
        writer.close()
        manager.configure(backends=backends(faulty.url), health=QUICK, server=server)
        _install(tmp_path, RIGHT)
        await upgraded(manager)
        assert await served.exit_code() == 0
        assert (await ask(served.port, ASKED))[0] == 200


async def test_an_upgrade_without_a_descriptor_left_changes_nothing(tmp_path: Path, faulty: FaultBackend) -> None:
    async with managing(tmp_path, backends=backends(faulty.url), health=QUICK) as manager:
        served = await manager.start()
        await manager.ready()
        async with connected(served.port) as client:
            assert (await client.ask(get("/health")))[0] == 200
            for failures, limit in enumerate((3, 6)):
                served.limit(resource.RLIMIT_NOFILE, limit)
                served.process.send_signal(signal.SIGUSR2)
                await eventually(partial(_fails_once_more, served, failures), "the failure")
            assert (await client.ask(get("/health")))[0] == 200
        served.limit(resource.RLIMIT_NOFILE, 1024)
        await upgraded(manager)
        assert await served.exit_code() == 0


async def test_an_address_that_the_configuration_has_no_more_is_left_and_the_new_one_served(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    first, second, operators = (f"127.0.0.1:{port}" for port in _free_ports(3))
    one, other = (f"unix:{tmp_path}/{name}.sock" for name in ("one", "other"))
    async with managing(tmp_path) as manager:
        left = set[str]()
        for main, admin in ((first, operators), (second, one), (second, other), (first, None)):
            server = {"port": int(main.rpartition(":")[2]), "admin": admin}
            manager.configure(backends=backends(faulty.url), health=QUICK, server=server)
            await _start_or_upgrade(manager)
            served = {main, admin or main}
            answers = {each: await _answers(each) for each in served | left}
            assert answers == dict.fromkeys(left, False) | dict.fromkeys(served, True)
            left |= served
        assert _socket_files(tmp_path) == ["notify.sock"]


async def test_a_stop_ends_a_process_that_is_still_starting(tmp_path: Path, faulty: FaultBackend) -> None:
    async with managing(tmp_path, backends=backends(faulty.url), health=QUICK) as manager:
        program = _install(tmp_path, RIGHT)
        manager.program = (str(program),)
        served = await manager.start()
        await manager.ready()
        _install(
            tmp_path, f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(99)"
        )
        served.process.send_signal(signal.SIGUSR2)
        await eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the new process")
        pid = int((tmp_path / "pid").read_text())
        served.process.send_signal(signal.SIGUSR2)  # one is under way
        served.process.send_signal(signal.SIGHUP)
        await manager.ready(2)
        assert (await ask(served.port, get("/health")))[0] == 200
        served.stop()
        assert await served.exit_code() == 0
        assert not is_alive(pid)
        assert served.told("a new process is started") == 1
        assert manager.has_told("STOPPING") == 1


async def test_a_process_whose_predecessor_dies_does_not_serve_behind_its_back(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    """Whoever started the old one starts it again, and finds its address free."""
    async with managing(tmp_path, backends=backends(faulty.url), health={**QUICK, "timeout_s": 20.0}) as manager:
        served = await manager.start()
        await manager.ready()
        released = asyncio.Event()
        faulty.on("/health", after(reply(200, b"{}"), released))
        before = len(faulty.calls("/health"))
        served.process.send_signal(signal.SIGUSR2)
        await eventually(lambda: successors(served.process.pid), "the new process")
        [pid] = successors(served.process.pid)
        await eventually(lambda: len(faulty.calls("/health")) >= before + 4, "its first health round")
        served.process.kill()
        await served.exit_code()
        released.set()
        await manager.ended(pid)
        assert served.log.read_text().splitlines()[-1] == "the process that this one was to follow has ended"


async def test_what_is_installed_behind_the_same_link_starts_with_all_that_the_old_process_was_given(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    for release in ("1", "2"):
        (tmp_path / release).mkdir()
        _install(tmp_path / release, f"import os; os.environ['RELEASE'] = '{release}'; {RIGHT}")
    link = tmp_path / "current"
    link.symlink_to("1")
    variables = {"CREDENTIALS_DIRECTORY": str(tmp_path), "WATCHDOG_USEC": "1000000"}
    services = backends(faulty.url)
    with listening() as passed:
        async with managing(
            tmp_path, [("main", passed)], variables=variables, backends=services, health=QUICK
        ) as manager:
            manager.program = (str(link / "hartonomous"),)
            await manager.start()
            await manager.ready()
            first = _sockets_of(manager.main_pid)
            link.unlink()
            link.symlink_to("2")
            (tmp_path / "1" / "hartonomous").unlink()
            for release in ("1", "2"):  # the new one begins with the environment of the old one
                pid = await upgraded(manager)
                environ = strings(pid, "environ")
                assert {f"CREDENTIALS_DIRECTORY={tmp_path}", f"RELEASE={release}"} <= set(environ)
                assert not [each for each in environ if each.startswith("WATCHDOG_PID")]
                assert str(link / "hartonomous") in strings(pid, "cmdline")
                await eventually(partial(_hears_more, manager, manager.has_told("WATCHDOG")), "the watchdog")
                assert _sockets_of(pid) == first


async def _start_or_upgrade(manager: Manager) -> None:
    """Let a process serve the configuration of now, and only that one."""
    if not manager.pids:
        await manager.start()
        await manager.ready()
        return
    old = manager.main_pid
    await upgraded(manager)
    await manager.ended(old)


async def _answers(address: str) -> bool:
    """Whether a server listens there and answers; one that listens and does not is a fault."""
    path, (host, _, port) = address.removeprefix("unix:"), address.rpartition(":")
    try:
        opening = asyncio.open_unix_connection(path) if path != address else asyncio.open_connection(host, int(port))
        reader, writer = await opening
    except OSError:
        return False
    writer.write(get("/health", b"Connection: close"))
    async with asyncio.timeout(10):
        assert b" 200 " in await reader.readline()
    writer.close()
    return True


def _socket_files(folder: Path) -> list[str]:
    return [each.name for each in folder.glob("*.sock")]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        made = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in made]


def held(events: list[bytes], released: asyncio.Event) -> fault.Behaviour:
    """Send the first of these events, and the others when they are released."""

    async def behave(exchange: fault.Exchange) -> None:
        await exchange.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        await exchange.chunk(events[0])
        await released.wait()
        await exchange.chunk(b"".join(events[1:]))
        await exchange.raw(b"0\r\n\r\n")

    return behave


def _fails_once_more(served: Served, failures: int) -> bool:
    return served.told(FAILED) == failures + 1


def _hears_more(manager: Manager, heard: int) -> bool:
    return manager.has_told("WATCHDOG") > heard + 2


def _sockets_of(pid: int) -> int:
    """How many listening sockets a process holds."""
    inodes = {str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()}
    rows = Path(f"/proc/{pid}/net/tcp").read_text(encoding="utf-8").splitlines()[1:]
    return sum(f"socket:[{row.split()[9]}]" in inodes for row in rows if row.split()[3] == "0A")
