"""`python -m tests.bench`: what Hartonomous costs, against bare programs that do the same, as a table and as JSON.

The exit code is 1 when something that must hold does not (after a short run, whose numbers
are rough, it is 0 all the same), and 2 when it could not be measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.bench.plan import QUICK, WHOLE
from tests.bench.run import ROWS, run
from tests.bench.table import Row, lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a short run, whose numbers are rougher")
    parser.add_argument("--rows", default=",".join(ROWS), help="which rows, by their keys (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("var/bench.json"), help="where to (default: %(default)s)")
    parser.add_argument("--requests", type=int, help="so many before the memory is looked at, not a million")
    options = parser.parse_args(arguments)
    keys = options.rows.split(",")
    if unknown := set(keys) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}")
    load = os.getloadavg()[0]
    if load > 1:
        print(f"NOTE: something else works on this machine (load {load:.1f}): only ratios mean something, and little")
    began = time.monotonic()
    try:
        plan = QUICK if options.quick else WHOLE
        rows = run(replace(plan, memory_requests=options.requests or plan.memory_requests), keys)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    print("", *lines(rows), f"measured in {time.monotonic() - began:.0f} s", sep="\n")
    if options.quick:
        print("a short run: the numbers are rough, and the memory is that after a few requests")
    _write(options.json, rows, quick=options.quick)
    return 0 if options.quick or all(row.holds for row in rows) else 1


def _write(path: Path, rows: Sequence[Row], *, quick: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"quick": quick, "cores": os.cpu_count(), "load": os.getloadavg(), "rows": [row.as_json() for row in rows]}
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")


if __name__ == "__main__":
    sys.exit(main())
