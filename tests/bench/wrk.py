"""Load by wrk, and what it measured."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.bench.machine import placed, program

_LUA = Path(__file__).with_name("load.lua")
_ENOUGH = 50
_LONGEST_S = 20
_numbers = 0


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: to where, which body (a file; `%d` in it is another number each time), with which headers.

    It is sent from `cores`, or from those of this process.
    """

    url: str
    body: Path
    headers: Mapping[str, str]
    cores: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What wrk saw: how long it took, how many answers came, their times in ms; `bad` are those without a 2xx or 3xx,
    `broken` those that did not come."""

    seconds: float
    requests: int
    p50_ms: float
    p99_ms: float
    mean_ms: float
    bad: int
    broken: int

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def run(load: Load, connections: int, seconds: int) -> Measured:
    """Send as fast as answers come over so many connections; for longer where they come too slowly to tell anything.

    Raises RuntimeError when an answer is no success.
    """
    measured = parse(_run(load, connections, seconds))
    if measured.bad or measured.broken:
        raise RuntimeError(f"{load.url}: {measured.requests} answers, {measured.bad} bad, {measured.broken} missing")
    if measured.requests >= _ENOUGH:
        return measured
    if seconds >= _LONGEST_S:
        raise RuntimeError(f"{load.url}: {measured.requests} answers in {seconds} s")
    return run(load, connections, min(2 * seconds, _LONGEST_S))


def _run(load: Load, connections: int, seconds: int) -> str:
    global _numbers
    _numbers += 10_000_000
    headers = [f"{name}: {value}" for name, value in load.headers.items()]
    command = [
        program("wrk"),
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "--timeout",
        "60s",
        "-s",
        str(_LUA),
        load.url,
        "--",
    ]
    command += [str(load.body), str(_numbers), *headers]
    with placed(load.cores or frozenset(os.sched_getaffinity(0))):
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def parse(printed: str) -> Measured:
    """Read what load.lua printed at the end; raise RuntimeError when it did not."""
    lines = [line for line in printed.splitlines() if line.startswith("{")]
    if not lines:
        raise RuntimeError(f"wrk printed no result:\n{printed}")
    told = json.loads(lines[-1])
    return Measured(
        seconds=told["seconds"],
        requests=told["requests"],
        p50_ms=told["p50_us"] / 1_000,
        p99_ms=told["p99_us"] / 1_000,
        mean_ms=told["mean_us"] / 1_000,
        bad=told["bad"],
        broken=told["broken"],
    )
