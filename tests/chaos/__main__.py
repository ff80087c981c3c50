"""`python -m tests.chaos`: mixed load and faults at random against the real application, and a report.

The exit code is 1 when anything happened that must not. `HARTONOMOUS_TEST_QDRANT_URL` names a vector store to be used
instead of the embedded engine; it is not killed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
from collections.abc import Sequence

from tests.chaos.report import Report
from tests.chaos.run import run
from tests.chaos.schedule import draw


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="how long the load lasts (default: %(default)g)")
    parser.add_argument("--seed", type=int, help="which faults and requests come when (default: at random)")
    parser.add_argument("--list", action="store_true", help="print the faults of this seed and do nothing")
    options = parser.parse_args(arguments)
    if options.seconds < 10:
        parser.error("at least 10 seconds are needed")
    seed = options.seed or random.SystemRandom().randrange(1, 10**9)
    if options.list:
        print(*draw(seed, options.seconds), sep="\n")
        return 0
    try:
        report = asyncio.run(_run(seed, options.seconds))
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("ended by a signal")
        return 1
    print(*report.lines(), sep="\n")
    return int(report.failed)


async def _run(seed: int, seconds: float) -> Report:
    """Run; SIGTERM ends it as Ctrl-C does, with everything that was started."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(seed, seconds)


if __name__ == "__main__":
    sys.exit(main())
