"""On a systemd of its own: how the service starts, reloads, restarts, is upgraded, hangs and stops."""

from __future__ import annotations

import asyncio
import json
import urllib.error

import pytest

from tests.systemd.host import API, CONFIG, Host
from tests.systemd.load import Load
from tests.systemd.machine import until

UNIT = "hartonomous.service"
EMBED = {"input": ["A lime weighs 67 grams."], "model": "embedding"}
WORK = f"{API}/v1/embeddings"


def load_of(host: Host) -> Load:
    return Load(WORK, EMBED, host.headers("tenant"))


def succeeded(host: Host, pid: int) -> None:
    """Wait until another process is the unit's main one, and this one is gone."""
    until(lambda: host.machine.main_pid(UNIT) not in (0, pid))
    until(lambda: pid not in host.machine.processes(UNIT))


def test_it_is_started_when_it_serves_and_knows_its_backends(host: Host) -> None:
    host.configure()
    host.machine.systemctl("stop", UNIT)
    host.machine.systemctl("start", UNIT)
    assert host.get("/ready")[0] == 200
    assert host.machine.show(UNIT, "ActiveState") == "active"
    assert host.machine.show(UNIT, "StatusText")


def test_the_journal_has_a_json_object_a_line(api: Host) -> None:
    pid = str(api.machine.main_pid(UNIT))
    said = [entry["MESSAGE"] for entry in api.machine.journal(UNIT) if entry["_PID"] == pid]
    assert "listening" in [json.loads(line)["message"] for line in said]


def test_a_reload_ends_a_revoked_key_and_not_the_process(api: Host) -> None:
    pid = api.machine.main_pid(UNIT)
    assert api.get("/v1/models", key="other")[0] == 200
    api.configure("tenant", "operator")
    api.machine.systemctl("reload", UNIT)
    assert api.get("/v1/models", key="other")[0] == 401
    assert api.get("/v1/models", key="tenant")[0] == 200
    assert (api.machine.main_pid(UNIT), api.machine.show(UNIT, "ActiveState")) == (pid, "active")


def test_a_reload_of_a_broken_file_says_so_and_changes_nothing(api: Host) -> None:
    pid = api.machine.main_pid(UNIT)
    api.machine.write(CONFIG, "server: {prot: 8700}\n")
    done = api.machine.run("systemctl", "reload", UNIT, check=False)
    assert done.returncode != 0
    assert "server.prot" in api.machine.messages(UNIT)
    assert api.get("/v1/models", key="other")[0] == 200
    assert (api.machine.main_pid(UNIT), api.machine.show(UNIT, "ActiveState")) == (pid, "active")


async def test_a_restart_under_load_refuses_no_connection_and_fails_no_call(api: Host) -> None:
    async with load_of(api) as load:
        for _ in range(3):
            pid = api.machine.main_pid(UNIT)
            await asyncio.to_thread(api.machine.systemctl, "restart", UNIT)
            assert api.machine.main_pid(UNIT) != pid
            await load.answered(20)
    assert set(load.seen) == {"200"}, load.seen


async def test_an_upgrade_under_load_runs_what_is_installed_now_and_fails_no_call(api: Host) -> None:
    async with load_of(api) as load:
        for name in ("upgrade-1", "upgrade-2", "upgrade-3"):
            pid = api.machine.main_pid(UNIT)
            api.install_again(name)
            api.machine.systemctl("kill", "--kill-whom=main", "--signal=USR2", UNIT)
            await asyncio.to_thread(succeeded, api, pid)
            assert name in api.machine.read(f"/proc/{api.machine.main_pid(UNIT)}/cmdline")
            await load.answered(20)
    assert set(load.seen) == {"200"}, load.seen
    assert api.machine.show(UNIT, "ActiveState") == "active"


async def test_a_stop_after_an_upgrade_waits_for_what_is_under_way(api: Host) -> None:
    """systemd waits for a main process that was its own child when it heard of it, and kills any other one at once."""
    pid = api.machine.main_pid(UNIT)
    api.machine.systemctl("kill", "--kill-whom=main", "--signal=USR2", UNIT)
    await asyncio.to_thread(succeeded, api, pid)
    pid = api.machine.main_pid(UNIT)
    async with load_of(api) as load:
        await asyncio.to_thread(api.machine.systemctl, "restart", UNIT)
        await load.answered(20)
    assert set(load.seen) == {"200"}, load.seen
    assert f"Killing process {pid}" not in api.machine.messages(UNIT)
    assert api.machine.show(UNIT, "Result") == "success"


async def test_a_process_that_hangs_is_ended_by_the_watchdog_and_started_again(api: Host) -> None:
    api.machine.write(f"/run/systemd/system/{UNIT}.d/soon.conf", "[Service]\nWatchdogSec=2\nTimeoutAbortSec=2\n")
    api.machine.systemctl("daemon-reload")
    api.machine.systemctl("restart", UNIT)
    pid, hung = api.machine.main_pid(UNIT), "hartonomous/cli/serve.py"  # beneath whichever event loop
    async with load_of(api) as load:
        api.machine.run("sh", "-c", f"kill -STOP {pid}")
        await asyncio.to_thread(succeeded, api, pid)
        await load.answered(20)
    said = api.machine.messages(UNIT)
    assert "Watchdog timeout" in said
    assert hung in said
    assert "ClientConnectorError" not in load.seen


def test_who_connects_after_a_crash_waits_for_the_next_process(api: Host) -> None:
    pid = api.machine.main_pid(UNIT)
    api.machine.systemctl("kill", "--kill-whom=main", "--signal=KILL", UNIT)
    assert api.get("/health")[0] == 200
    assert api.machine.main_pid(UNIT) != pid


def test_a_stop_leaves_nothing_behind(api: Host) -> None:
    pid = api.machine.main_pid(UNIT)
    assert pid in api.machine.processes(UNIT)
    api.machine.systemctl("stop", "hartonomous.socket", UNIT)
    assert api.machine.processes(UNIT) == []
    assert not (api.machine.root / f"proc/{pid}").exists()
    assert not (api.machine.root / "run/hartonomous").exists()
    with pytest.raises(urllib.error.URLError, match="refused"):
        api.get("/health")
    assert api.machine.show(UNIT, "Result") == "success"
