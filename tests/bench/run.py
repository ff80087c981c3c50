"""A whole run: everything started, each row measured, the table."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.bench.machine import Cores, placed, program
from tests.bench.plan import Plan
from tests.bench.processes import Maker
from tests.bench.rig import Rig, rig
from tests.bench.rows import batches, ingests, memory, overload, streams, throughput
from tests.bench.table import Row

Measure = Callable[[Rig, Plan], Row]

ROWS: Mapping[str, Measure] = {
    "gateway": throughput.gateway,
    "stream": streams.streams,
    "rag": throughput.rag,
    "added": throughput.added,
    "rss": memory.rss,
    "ready": memory.ready,
    "batch": batches.batch,
    "ingest": ingests.ingest,
    "overload": overload.overload,
}
"""How each row is measured, by its key, in the order of the table."""


def run(plan: Plan, keys: Sequence[str], tell: Callable[[str], object] = print) -> list[Row]:
    """Measure these rows. Raises RuntimeError when a program is missing, or does not do what it should."""
    for name in ("wrk", "nginx"):
        program(name)
    cores = Cores.here()
    tell(cores.describe())
    with (
        placed(cores.load),
        tempfile.TemporaryDirectory(prefix="hartonomous-bench-") as folder,
        rig(Maker(Path(folder), cores)) as made,
    ):
        return [_measured(key, made, plan, tell) for key in keys]


def _measured(key: str, made: Rig, plan: Plan, tell: Callable[[str], object]) -> Row:
    began = time.monotonic()
    row = ROWS[key](made, plan)
    tell(f"{key}: {time.monotonic() - began:.0f} s")
    return row
