"""What a service manager is told, over a real socket, and what it may pass, which is passed as systemd does."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import aiohttp

from hartonomous.adopting import shown
from tests.service.application import eventually
from tests.service.certificates import Files
from tests.service.fault_backend import FaultBackend, after, hang, reply
from tests.service.keptalive import WHOLE, behaviour, load
from tests.service.managed import listening, managing
from tests.service.rag import CHAT
from tests.service.serving import backends
from tests.service.sockets import ask, connected, get, post

QUICK = {"interval_s": 0.2, "timeout_s": 1.0}


async def test_ready_comes_after_the_first_health_round_with_a_sentence_that_follows_the_backends(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    released = asyncio.Event()
    faulty.on("/health", after(reply(200, b"{}"), released))
    async with managing(tmp_path, backends=backends(faulty.url), health={**QUICK, "timeout_s": 20.0}) as manager:
        served = await manager.start()
        await eventually(lambda: served.told("listening"), "the socket")
        assert (await ask(served.port, get("/health")))[0] == 200
        assert not manager.has_told("READY")
        released.set()
        await manager.ready()
        assert manager.status == f"serving on 127.0.0.1:{served.port}; qdrant is down"
        faulty.on("/health", reply(503, b"{}"))
        await eventually(
            lambda: "embedding is down, qdrant is down, generative is down" in manager.status, "the new status"
        )


async def test_ready_waits_no_longer_than_a_health_poll_may_take(tmp_path: Path, faulty: FaultBackend) -> None:
    faulty.on("/health", hang())
    async with managing(tmp_path, backends=backends(faulty.url), health={**QUICK, "timeout_s": 0.5}) as manager:
        await manager.start()
        await manager.ready()
        assert "embedding is down" in manager.status or "embedding is unknown" in manager.status


async def test_each_reload_is_told_from_its_beginning_to_its_end_also_one_that_fails(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    async with managing(tmp_path, backends=backends(faulty.url), health=QUICK) as manager:
        served = await manager.start()
        await manager.ready()
        served.process.send_signal(signal.SIGHUP)
        await manager.ready(2)
        assert (await ask(served.port, post("/admin/config/reload", b"")))[0] == 200
        await manager.ready(3)
        (tmp_path / "config.yaml").write_text("nonsense: 1\n", encoding="utf-8")
        served.process.send_signal(signal.SIGHUP)
        await manager.ready(4)
        assert served.told("the configuration is wrong: the old one serves on") == 1
        phases = [name for facts in manager.told for name in ("RELOADING", "READY") if name in facts]
        assert phases == ["READY", *["RELOADING", "READY"] * 3]
        times = [int(facts["MONOTONIC_USEC"]) for facts in manager.told if "RELOADING" in facts]
        assert times == sorted(times)
        assert times[0] > 0


async def test_a_stop_is_told_with_the_time_that_it_may_take(tmp_path: Path, faulty: FaultBackend) -> None:
    released = asyncio.Event()
    faulty.on(CHAT, after(reply(200, WHOLE), released))
    server = {"drain_s": 200.0, "notice_s": 0.1}
    async with managing(tmp_path, backends=backends(faulty.url), health=QUICK, server=server) as manager:
        served = await manager.start()
        await manager.ready()
        asking = asyncio.create_task(ask(served.port, post(CHAT, b'{"messages": []}')))
        await eventually(lambda: faulty.calls(CHAT), "the request")
        served.stop()
        await eventually(lambda: manager.has_told("STOPPING"), "the stop")
        told = next(facts for facts in manager.told if "STOPPING" in facts)
        assert int(told["EXTEND_TIMEOUT_USEC"]) > 200e6
        assert told["STATUS"] == "draining: requests under way: 1"
        released.set()
        assert (await asking)[0] == 200
        assert await served.exit_code() == 0
        assert manager.has_told("READY") == 1


async def test_the_watchdog_hears_of_a_loop_that_runs_and_of_none_that_hangs(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    variables = {"WATCHDOG_USEC": "300000"}
    async with managing(tmp_path, variables=variables, backends=backends(faulty.url), health=QUICK) as manager:
        served = await manager.start()
        await manager.ready()
        heard, polls = manager.has_told("WATCHDOG"), len(faulty.calls("/health"))
        # Two services are polled, each every 0.2 s or a little later: also a slow machine tells of itself more often.
        await eventually(lambda: manager.hear() and len(faulty.calls("/health")) >= polls + 20, "ten rounds")
        assert manager.has_told("WATCHDOG") >= heard + 10
        served.process.send_signal(signal.SIGSTOP)
        await eventually(lambda: _state(served.process.pid) == "T", "the loop hangs")
        heard = manager.has_told("WATCHDOG")
        await asyncio.sleep(0.6)  # twice what systemd would wait
        assert manager.has_told("WATCHDOG") == heard


async def test_without_a_service_manager_nothing_is_told_and_a_dead_one_holds_up_nobody(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    variables = {"NOTIFY_SOCKET": str(tmp_path / "nobody.sock"), "WATCHDOG_USEC": "300000"}
    async with managing(tmp_path, variables=variables, backends=backends(faulty.url)) as manager:
        served = await manager.start()
        await eventually(lambda: served.told("listening"), "the socket")
        assert (await ask(served.port, get("/health")))[0] == 200
        served.stop()
        assert await served.exit_code() == 0
        assert manager.hear() == []


async def test_a_socket_that_was_passed_is_served_instead_of_the_configured_address(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    with listening() as one, listening("::1") as other, listening() as operators:
        sockets = [("main", one), ("main", other), ("admin", operators)]
        server = {"port": 1, "admin": "127.0.0.1:2"}  # nobody could listen there
        async with managing(tmp_path, sockets, backends=backends(faulty.url), server=server) as manager:
            await manager.start()
            await manager.ready()
            async with aiohttp.ClientSession() as session:
                for each, metrics in ((one, 404), (other, 404), (operators, 200)):
                    assert await _health(session, _url(each)) == 200
                    async with session.get(_url(each) + "/metrics") as response:
                        assert response.status == metrics
            assert f"127.0.0.1:{_port(one)}, [::1]:{_port(other)}" in manager.status


async def test_tls_holds_for_the_tcp_sockets_that_were_passed_and_not_for_unix_sockets(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    files, path = Files(tmp_path), tmp_path / "main.sock"
    with listening() as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        unix.listen()
        server = {"tls": files.section()}
        async with managing(
            tmp_path, [("main", tcp), ("main", unix)], backends=backends(faulty.url), server=server
        ) as manager:
            served = await manager.start()
            await manager.ready()
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=files.client())) as session:
                assert await _health(session, f"https://127.0.0.1:{_port(tcp)}") == 200
            async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
                assert await _health(session, "http://localhost") == 200
            served.stop()
            assert await served.exit_code() == 0
            assert path.exists(), "whose it is takes it away"


async def test_without_keys_a_socket_that_other_hosts_reach_is_refused(tmp_path: Path, faulty: FaultBackend) -> None:
    with listening("0.0.0.0") as passed:
        async with managing(tmp_path, [("main", passed)], backends=backends(faulty.url)) as manager:
            served = await manager.start()
            assert await served.exit_code() == 2
            assert not manager.has_told("READY")
            last = served.log.read_text().splitlines()[-1]
    expected = "without keys only loopback addresses can be served: a socket was passed that listens on 0.0.0.0:"
    assert last.startswith(expected)


async def test_a_restart_on_a_socket_that_was_passed_fails_no_request(tmp_path: Path, faulty: FaultBackend) -> None:
    faulty.on(CHAT, behaviour())
    with listening() as passed:
        services = backends(faulty.url, concurrency=64)
        async with managing(tmp_path, [("main", passed)], backends=services, health=QUICK) as manager:
            served = await manager.start()
            await manager.ready()
            async with load(passed.getsockname()) as clients:
                for restart in range(2, 5):
                    await clients.more()
                    served.stop()
                    assert await served.exit_code() == 0
                    served = await manager.start()
                    await manager.ready(restart)
            assert clients.wrong == []
            assert min(clients.answers.values()) > 10
            assert not manager.unheard
            assert not [line for line in served.lines if line["level"] == "ERROR"]


async def test_a_stop_answers_what_is_under_way_and_what_comes_on_open_connections_and_accepts_nobody(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    released = asyncio.Event()
    faulty.on(CHAT, after(reply(200, WHOLE), released))
    with listening() as passed:
        port = _port(passed)
        async with managing(tmp_path, [("main", passed)], backends=backends(faulty.url), health=QUICK) as manager:
            served = await manager.start()
            await manager.ready()
            async with connected(port) as late, connected(port) as probe, connected(port) as idle:
                for each in (late, probe, idle):
                    assert (await each.ask(get("/health")))[0] == 200
                asking = asyncio.create_task(ask(port, post(CHAT, b'{"messages": []}')))
                await eventually(lambda: faulty.calls(CHAT), "the request")
                served.stop()
                await eventually(lambda: served.told("draining"), "the drain")
                status, said = await probe.ask(get("/ready"))
                assert (status, said["reasons"][0]) == (503, "the server is shutting down")
                async with connected(port) as waiting:
                    waiting.writer.write(get("/health"))
                    late.writer.write(post(CHAT, b'{"messages": []}'))
                    await eventually(lambda: len(faulty.calls(CHAT)) == 2, "the second request")
                    assert not asking.done()
                    released.set()
                    assert (await asking)[0] == 200
                    head = await late.head()
                    assert b" 200 " in head
                    assert b"Connection: close" in head
                    assert await late.rest() == WHOLE
                    assert await idle.rest() == b""
                    assert await served.exit_code() == 0
                    await manager.start()
                    assert (await waiting.answer())[0] == 200


async def test_with_a_notice_those_who_connect_are_served_until_it_is_over(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    with listening() as passed:
        services, server = backends(faulty.url), {"notice_s": 1.0}
        async with managing(tmp_path, [("main", passed)], backends=services, health=QUICK, server=server) as manager:
            served = await manager.start()
            await manager.ready()
            served.stop()
            await eventually(lambda: served.told("draining"), "the notice")
            assert (await ask(_port(passed), get("/ready")))[0] == 503
            assert (await ask(_port(passed), get("/health")))[0] == 200
            assert await served.exit_code() == 0


def _port(listening: socket.socket) -> int:
    port: int = listening.getsockname()[1]
    return port


def _url(listening: socket.socket) -> str:
    return f"http://{shown(listening)}"


async def _health(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url + "/health") as response:
        return response.status


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
