"""The server does what `/openapi.json` says: a short look by schemathesis, always at the same requests."""

from __future__ import annotations

from tests.contract.run import run

SEED = 20_261_122


async def test_schemathesis_finds_nothing_with_a_tenants_key() -> None:
    report = await run(None, SEED, "--max-examples", "2", "--phases", "examples,fuzzing,stateful", tenants=1)
    text = "\n".join(report.lines())
    assert not report.failed, text
    assert "Tested: 22" in report.runs[0].output, text
