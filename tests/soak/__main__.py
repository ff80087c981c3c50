"""`python -m tests.soak`: mixed load for half an hour, and what the server held meanwhile, as a table and as JSON.

The exit code is 1 when anything grows, or anything was answered that must not be. `HARTONOMOUS_TEST_QDRANT_URL` names a
vector store to be used instead of the embedded engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.soak.course import HEADING, as_json
from tests.soak.run import soak


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1_800.0, help="how long the load lasts (default: %(default)g)")
    parser.add_argument("--seed", type=int, help="which requests come when (default: at random)")
    parser.add_argument("--json", type=Path, default=Path("var/soak.json"), help="where to (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.seconds < 10:
        parser.error("at least 10 seconds are needed")
    seed = options.seed or random.SystemRandom().randrange(1, 10**9)
    try:
        report, verdicts, seen = asyncio.run(soak(seed, options.seconds))
    except KeyboardInterrupt:
        print("ended by a signal")
        return 1
    told = "\n".join(report.lines()).replace("tests.chaos", "tests.soak")
    print(told, "", HEADING, *(verdict.line() for verdict in verdicts), sep="\n")
    kept = {"seed": seed, "seconds": options.seconds, "verdicts": as_json(verdicts), "times": seen.times}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({**kept, "course": seen.course}) + "\n", encoding="utf-8")
    print(f"written to {options.json}")
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
