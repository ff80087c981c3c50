"""`python -m tests.contract`: what the server does is held against `/openapi.json`, and a report.

The exit code is 1 when anything was found.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Sequence

from tests.contract.run import run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.contract", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="how long it lasts (default: %(default)g)")
    parser.add_argument("--seed", type=int, help="which requests are made (default: at random)")
    options = parser.parse_args(arguments)
    seed = options.seed or random.SystemRandom().randrange(1, 10**9)
    report = asyncio.run(run(options.seconds, seed))
    print(*report.lines(), sep="\n")
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
