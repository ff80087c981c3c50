"""The server does what `/openapi.json` says: half a minute of schemathesis, always with the same requests."""

from __future__ import annotations

from tests.contract.run import run

SEED = 20_261_122
SECONDS = 36.0


async def test_schemathesis_finds_nothing_with_the_keys_of_three_tenants() -> None:
    report = await run(SECONDS, SEED, "--max-examples", "5")
    text = "\n".join(report.lines())
    assert not report.failed, text
    assert all(one.cases > 300 for one in report.runs), text
