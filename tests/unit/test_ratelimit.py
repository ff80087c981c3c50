"""Rates: their parts together are never more than the whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hartonomous.core.ratelimit import Rate

RATES = st.builds(Rate, per_s=st.floats(0.001, 1e6), burst=st.integers(1, 10_000).map(float))


@given(RATES, st.integers(1, 64))
def test_the_shares_of_all_processes_are_no_more_than_the_whole(rate: Rate, processes: int) -> None:
    share = rate.share(processes)
    assert share.burst >= 1
    assert share.burst * processes <= max(rate.burst, processes)
    assert share.per_s * processes <= rate.per_s * (1 + 1e-9)
