"""A systemd of its own: a container that boots the tree, with a network of its own, in which nothing is kept."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

_BOOT_S = 60.0
_CLONE_NEWNET = 0x40000000

T = TypeVar("T")


class Machine:
    """A booted container. Its files are found below `root`, its commands are run by `run`."""

    def __init__(self, tree: Path, output: Path) -> None:
        command = ("systemd-nspawn", f"--directory={tree}", "--boot", "--register=no", "--keep-unit", "--quiet")
        volatile = ("--volatile=overlay", "--private-network", "--machine=hartonomous-test")
        with output.open("wb") as console:
            self._nspawn = subprocess.Popen(
                (*command, *volatile), stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT
            )
        try:
            self.init = until(self._find_init, _BOOT_S)
            until(self._has_booted, _BOOT_S)
        except BaseException:
            self.stop()
            raise
        self.root = Path(f"/proc/{self.init}/root")

    def run(self, *command: str, check: bool = True, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root; raise CalledProcessError when it fails and `check`."""
        enter = ("nsenter", f"--target={self.init}", "--all", "--wd=/", "--", "env", "-i", "PATH=/usr/bin:/usr/sbin")
        done = subprocess.run((*enter, *command), input=text, capture_output=True, text=True, check=False, timeout=300)
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def systemctl(self, *words: str, check: bool = True) -> str:
        """Run systemctl; return what it printed."""
        return self.run("systemctl", "--no-pager", *words, check=check).stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def main_pid(self, unit: str) -> int:
        """Return the number of a unit's main process, as it is inside."""
        return int(self.show(unit, "MainPID"))

    def processes(self, unit: str) -> list[int]:
        """Return the numbers of all processes of a unit, as they are inside."""
        groups = (self.root / "proc").glob("[0-9]*/cgroup")
        return [int(file.parent.name) for file in groups if unit in _units(file)]

    def journal(self, unit: str) -> list[dict[str, Any]]:
        """Return a unit's entries."""
        lines = self.run("journalctl", "--no-pager", "--output=json", f"--unit={unit}").stdout.splitlines()
        return [json.loads(line) for line in lines]

    def messages(self, unit: str) -> str:
        """Return what a unit has said, and systemd of it, a line each."""
        return "\n".join(str(entry.get("MESSAGE")) for entry in self.journal(unit))

    def write(self, path: str, content: str | bytes, mode: int = 0o644, owner: str = "root:root") -> None:
        """Write a file inside."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f".{file.name}")
        new.write_bytes(content.encode() if isinstance(content, str) else content)
        new.chmod(mode)
        self.run("chown", owner, str(Path(path).with_name(new.name)))
        new.rename(file)

    def read(self, path: str) -> str:
        """Return a file's text."""
        return (self.root / path.lstrip("/")).read_text()

    @contextmanager
    def network(self) -> Iterator[None]:
        """Be inside with all sockets that this thread makes, and the threads that it begins."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/proc/self/ns/net").open() as here, Path(f"/proc/{self.init}/ns/net").open() as there:
            _enter(libc, there.fileno())
            try:
                yield
            finally:
                _enter(libc, here.fileno())

    def stop(self) -> None:
        """Shut down; what was written is gone."""
        self._nspawn.terminate()
        try:
            self._nspawn.wait(30)
        except subprocess.TimeoutExpired:
            self._nspawn.send_signal(signal.SIGKILL)
            self._nspawn.wait()

    def _find_init(self) -> int | None:
        if self._nspawn.poll() is not None:
            raise AssertionError(f"systemd-nspawn ended with {self._nspawn.returncode}")
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        return next((int(pid) for pid in children if _number_inside(pid) == 1), None)

    def _has_booted(self) -> bool:
        done = self.run("systemctl", "is-system-running", check=False)
        return done.stdout.strip() in ("running", "degraded")


def until(look: Callable[[], T | None], limit_s: float = 30.0, every_s: float = 0.05) -> T:
    """Return what `look` returns once that is true; raise AssertionError when it takes too long."""
    end = time.monotonic() + limit_s
    while not (found := look()):
        assert time.monotonic() < end, f"waited {limit_s} s for {look}"
        time.sleep(every_s)
    return found


def _number_inside(pid: str) -> int | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return next(int(line.split()[-1]) for line in status.splitlines() if line.startswith("NSpid:"))


def _units(groups: Path) -> set[str]:
    """Return the last names of a process's control groups: of a service's processes it is the unit's."""
    try:
        return {line.rpartition("/")[2] for line in groups.read_text().splitlines()}
    except OSError:
        return set()


def _enter(libc: ctypes.CDLL, namespace: int) -> None:
    if libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
