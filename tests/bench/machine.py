"""The machine: which cores serve and which load, and what `/proc` knows of a process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PROGRAMS = {"wrk": "wrk", "nginx": "nginx-light", "valgrind": "valgrind", "callgrind_control": "valgrind"}
# Where Debian has what root alone is expected to start.
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Cores:
    """What is measured has the first core for itself; everything else has the others, if there are any."""

    server: frozenset[int]
    load: frozenset[int]

    @classmethod
    def here(cls) -> Cores:
        """Divide the cores that this process may use."""
        first, *others = sorted(os.sched_getaffinity(0))
        return cls(frozenset({first}), frozenset(others or [first]))

    def describe(self) -> str:
        """Return how they are divided, for people."""
        if self.server == self.load:
            return "one core for everything: ratios are too low, because load and backends take their part of it"
        return f"what is measured on core {min(self.server)}, load and backends on {_listed(self.load)}"


@contextmanager
def placed(cores: frozenset[int]) -> Iterator[None]:
    """Let this thread run on these cores meanwhile, and whatever it starts run there from its first instruction on."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def program(name: str) -> str:
    """Return the path of a program; raise RuntimeError, which names its package, when it is not there."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise RuntimeError(f"{name} is not installed: apt-get install {_PROGRAMS[name]}")
    return found


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, in user and in kernel mode, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process in MB, as the kernel counts it (1 MB is 1,048,576 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no memory")


def _listed(cores: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(cores)))
