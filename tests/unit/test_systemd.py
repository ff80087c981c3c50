"""What is taken of the environment, and how a service manager is told."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from hartonomous.errors import ConfigError
from hartonomous.systemd import Given, Notifier, take


def test_what_was_given_is_taken_out_of_the_environment() -> None:
    environ = {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": "0",
        "LISTEN_FDNAMES": "",
        "NOTIFY_SOCKET": "/run/notify",
        "WATCHDOG_USEC": "2500000",
        "WATCHDOG_PID": str(os.getpid()),
        "CREDENTIALS_DIRECTORY": "/run/credentials",
    }
    assert take(environ) == Given((), "/run/notify", 2.5)
    assert environ == {"CREDENTIALS_DIRECTORY": "/run/credentials"}


def test_what_was_given_to_another_process_is_none_of_ours() -> None:
    other = str(os.getppid())
    environ = {"LISTEN_PID": other, "LISTEN_FDS": "1", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": other}
    assert take(environ) == Given()
    assert not environ


@pytest.mark.parametrize("number", ["", "-1", "one", "1.5", "²"])
def test_a_number_that_is_none_gives_nothing(number: str) -> None:
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": number, "WATCHDOG_USEC": number}
    assert take(environ) == Given()


def test_descriptors_that_are_announced_and_not_there_are_a_sentence() -> None:
    with pytest.raises(ConfigError, match="LISTEN_FDS announces 9000 sockets, but "):
        take({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "9000"})


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_assignments_are_one_datagram(tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "notify") if kind == "path" else f"\0{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        notifier = Notifier(path.replace("\0", "@"))
        notifier.tell(READY=1, STATUS="one\ntwo")
        assert manager.recv(1024) == b"READY=1\nSTATUS=one two"
        notifier.close()
        notifier.tell(READY=1)
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(1024)


def test_what_cannot_be_taken_at_the_moment_is_told_later_and_the_watchdog_waits_behind_it(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.setblocking(False)
        notifier, told = Notifier(path), 0
        full = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text(encoding="utf-8")) + 2
        for number in range(full):
            notifier.tell(STATUS=number)
            notifier.alive()
        heard = [manager.recv(1024)]
        for _ in range(full):
            notifier.alive()
            try:
                while True:
                    heard.append(manager.recv(1024))
            except BlockingIOError:
                told += 1
        assert [said for said in heard if said.startswith(b"STATUS")] == [b"STATUS=%d" % n for n in range(full)]
        notifier.close()


@pytest.mark.parametrize("address", ["/nowhere/at/all", "@nobody", "vsock:2:1", "@", "/" + "x" * 200])
def test_who_cannot_be_told_holds_up_nobody(address: str) -> None:
    notifier = Notifier(address)
    notifier.tell(READY=1)
    notifier.alive()
    notifier.close()
