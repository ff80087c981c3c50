"""A minute of chaos: nothing acknowledged is lost or doubled, nobody gets a 500, nothing leaks.

`HARTONOMOUS_TEST_SEED` repeats a run, `HARTONOMOUS_CHAOS_SECONDS` says how long its load lasts.
"""

from __future__ import annotations

import os
import random

from tests.chaos.run import run

SEED = int(os.environ.get("HARTONOMOUS_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
SECONDS = float(os.environ.get("HARTONOMOUS_CHAOS_SECONDS", "40"))


async def test_a_minute_of_faults_under_load_loses_doubles_and_leaks_nothing() -> None:
    report = await run(SEED, SECONDS)
    text = "\n".join(report.lines())
    print(text)
    assert not report.failed, text
    assert report.requests("200") > report.requests() / 4, text
    assert report.faults, text
