"""Signals that come before anybody listens to them: none ends a server that it should not, none is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.service.application import eventually
from tests.service.fault_backend import FaultBackend, hang
from tests.service.managed import is_alive, managing, successors
from tests.service.serving import backends

QUICK = {"interval_s": 0.2, "timeout_s": 1.0}
ENGINE = ("engine", "--no-restart", "--listen", "127.0.0.1:0", "--data")


def signals(pid: int, field: str) -> int:
    """Return a set of signals of a process as bits: those that it has blocked (`SigBlk`) or handles (`SigCgt`)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(next(line for line in status.splitlines() if line.startswith(f"{field}:")).split()[1], 16)


def has(pid: int, field: str, numbers: Iterable[signal.Signals]) -> bool:
    return all(signals(pid, field) & 1 << (number - 1) for number in numbers)


async def started(*arguments: str) -> Process:
    """Start a server; return it when it takes care of signals, some tenths of a second before it listens."""
    program = (sys.executable, "-m", "hartonomous", *arguments)
    process = await asyncio.create_subprocess_exec(*program, stdout=PIPE, stderr=PIPE)
    await eventually(lambda: has(process.pid, "SigCgt", [signal.SIGTERM]), "a handler")
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("program", ["serve", "engine"])
async def test_a_stop_before_it_listens_is_an_end_at_once_and_in_order(
    tmp_path: Path, program: str, number: signal.Signals
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("backends: {}\nserver: {port: 0}\n", encoding="utf-8")
    arguments = ("serve", "--config", str(config)) if program == "serve" else (*ENGINE, str(tmp_path / "data"))
    process = await started(*arguments)
    process.send_signal(number)
    async with asyncio.timeout(10):
        assert await process.communicate() == (b"", b"")
    assert process.returncode == 0


async def test_a_reload_before_it_listens_is_done_when_it_does(tmp_path: Path, faulty: FaultBackend) -> None:
    async with managing(tmp_path, backends=backends(faulty.url), health=QUICK) as manager:
        served = await manager.start()
        await sent_early(manager.main_pid, signal.SIGHUP)
        await eventually(lambda: served.told("the configuration was read again"), "a reload")
        await manager.ready()


async def test_an_upgrade_before_it_listens_is_done_when_it_does(tmp_path: Path, faulty: FaultBackend) -> None:
    async with managing(tmp_path, backends=backends(faulty.url), health=QUICK) as manager:
        served = await manager.start()
        pid = manager.main_pid
        await sent_early(pid, signal.SIGUSR2)
        await eventually(lambda: manager.main_pid != pid, "a new process")
        await manager.ended(pid)
        assert served.told("a new process serves") == 1
        await eventually(lambda: not signals(manager.main_pid, "SigBlk"), "nothing is kept")


async def sent_early(pid: int, number: signal.Signals) -> None:
    """Send a signal as soon as the process would survive it."""
    await eventually(lambda: has(pid, "SigBlk", [number]), "the signal is kept")
    os.kill(pid, number)


async def test_what_is_sent_to_all_processes_ends_no_successor_that_starts(
    tmp_path: Path, faulty: FaultBackend
) -> None:
    async with managing(tmp_path, backends=backends(faulty.url), health={**QUICK, "timeout_s": 20.0}) as manager:
        served = await manager.start()
        await manager.ready()
        faulty.on("/health", hang())
        old = manager.main_pid
        os.kill(old, signal.SIGUSR2)
        await eventually(lambda: bool(successors(old)), "a successor")
        (successor,) = successors(old)
        assert has(successor, "SigBlk", [signal.SIGHUP, signal.SIGUSR2]) or has(successor, "SigCgt", [signal.SIGHUP])
        for number in (signal.SIGHUP, signal.SIGUSR2):
            os.kill(successor, number)
        await eventually(lambda: has(successor, "SigCgt", [signal.SIGHUP, signal.SIGUSR2]), "it listens to signals")
        assert is_alive(successor)
        await eventually(lambda: not signals(successor, "SigBlk"), "nothing is kept")  # but while it starts others
        assert not served.told("the upgrade failed: the old process serves on")
