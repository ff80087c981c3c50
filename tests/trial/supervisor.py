"""The real supervisor over fake parts, in a process of its own that a test can signal and kill.

As a program: `python -m tests.trial.supervisor LOGS PARTS`, where PARTS is JSON: a list of stages, each a list of the
fields of `Part`. It prints READY when all are healthy.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from hartonomous.trial import TrialError
from hartonomous.trial.stack import Part, Stack, say

_SECONDS = 30.0


class Supervised:
    """Fake parts under the real supervisor; one stage a list of names with their options."""

    def __init__(self, folder: Path, *stages: dict[str, tuple[str, ...]], start: float = 20, grace: float = 20) -> None:
        self.journal = folder / "journal"
        self.logs = folder / "log"
        self.journal.touch()
        self.parts = [[self._part(name, extra, start, grace) for name, extra in stage.items()] for stage in stages]
        parts = json.dumps([[asdict(part) for part in stage] for stage in self.parts])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.trial.supervisor", str(self.logs), parts],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == "READY\n":
                return
        raise AssertionError(f"it ended before it was ready: {self.end()}")

    def end(self, number: signal.Signals | None = None) -> tuple[int, str]:
        """Send a signal, if one is given, and wait; return the exit code and what stands on standard error."""
        if number is not None:
            self.process.send_signal(number)
        _, error = self.process.communicate(timeout=_SECONDS)
        return self.process.returncode, error

    def living(self) -> dict[int, str]:
        """Return the command lines of the parts that live, by process id."""
        mark, found = str(self.journal), {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.process.pid:
                command = _command_line(entry)
                if mark in command and "tests.trial.supervisor" not in command:
                    found[int(entry.name)] = command
        return found

    def line(self) -> str:
        """Return the next line of what the supervisor says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def pids(self) -> dict[str, int]:
        """Return the ids of the parts that live, by their names."""
        found = ((re.search("fake_part ([a-z]+) ", command), pid) for pid, command in self.living().items())
        return {part[1]: pid for part, pid in found if part}

    def kill_everything(self) -> None:
        """Leave nothing behind when a test has failed."""
        self.process.kill()
        self.process.communicate()
        for pid in self.living():
            subprocess.run(["kill", "-KILL", str(pid)], check=False)

    def _part(self, name: str, extra: tuple[str, ...], start: float, grace: float) -> Part:
        port = free_port()
        argv = (sys.executable, "-m", "tests.trial.fake_part", name, str(port), str(self.journal), *extra)
        return Part(name, argv, port, f"http://127.0.0.1:{port}/health", start=start, grace=grace)


def wait_for(state: Callable[[], bool], seconds: float = _SECONDS) -> None:
    """Wait until `state` holds."""
    ends = time.monotonic() + seconds
    while not state():
        assert time.monotonic() < ends, "the state never came"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _command_line(entry: Path) -> str:
    try:
        return (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _parts(text: str) -> Iterable[list[Part]]:
    for stage in json.loads(text):
        yield [Part(**{**fields, "argv": tuple(fields["argv"])}) for fields in stage]


def main() -> int:
    stack = Stack(list(_parts(sys.argv[2])), Path(sys.argv[1]))
    try:
        asyncio.run(stack.run(lambda: say("READY")))
    except TrialError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
