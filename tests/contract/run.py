"""schemathesis against the real application: every check, every phase, the keys of three tenants in turn.

Each phase makes its requests from `/openapi.json` alone. What comes back is held against the document, and what the
document forbids must be refused.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.contract.stack import Contract, contract
from tests.service.keyed import Key

# How long it takes to end after its time is spent, or without one.
_GRACE_S = 300.0
_CASES = re.compile(r"(\d+) generated")


@dataclass(slots=True)
class Run:
    """What schemathesis said with one key."""

    key: str
    code: int
    took_s: float
    output: str

    @property
    def cases(self) -> int:
        """How many test cases there were."""
        found = _CASES.search(self.output)
        return int(found[1]) if found else 0


@dataclass(slots=True)
class Report:
    """All runs."""

    seed: int
    runs: list[Run] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether anything was found."""
        return any(run.code for run in self.runs)

    def lines(self) -> list[str]:
        """Return what a person reads."""
        told = [f"seed {self.seed}"]
        for run in self.runs:
            outcome = f"exit code {run.code}" if run.code else "nothing found"
            told.append(f"{run.key}: {run.cases} cases in {run.took_s:.0f} s, {outcome}")
            if run.code:
                told.append(run.output)
        return told


async def run(seconds: float | None, seed: int, *options: str, tenants: int = 3) -> Report:
    """Run for so many seconds in all, with the keys of so many tenants in turn; `options` are schemathesis' own.

    With None it ends when all is done that `options` ask for.
    """
    report = Report(seed)
    with tempfile.TemporaryDirectory(prefix="hartonomous-contract-") as folder:
        async with contract(Path(folder)) as it:
            for key in it.tenants[:tenants]:
                report.runs.append(await _run(it, key, seconds and seconds / tenants, seed, *options))
    return report


async def _run(it: Contract, key: Key, seconds: float | None, seed: int, *options: str) -> Run:
    async with it.serving(key) as served:
        began = time.monotonic()
        command = [
            *(str(Path(sys.executable).with_name("schemathesis")), "--no-color", "run", f"{served.url}/openapi.json"),
            *("--header", f"Authorization: Bearer {key.text}", "--checks", "all", "--seed", str(seed)),
            *("--continue-on-failure", "--generation-database", "none"),
            *(() if seconds is None else ("--max-time", str(max(1, round(seconds))))),
            *options,
        ]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=it.folder
        )
        try:
            async with asyncio.timeout((seconds or 0.0) + _GRACE_S):
                output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Run(key.id, process.returncode or 0, time.monotonic() - began, output.decode(errors="replace"))
