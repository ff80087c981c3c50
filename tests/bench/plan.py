"""How long and how often everything is measured: a whole run, or a short one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of a run. `seconds` is how long one load lasts (whole seconds: wrk knows no others)."""

    rounds: int = 9
    seconds: int = 3
    warm_up_s: int = 2
    added_rounds: int = 5
    connections: int = 32
    starts: int = 5
    memory_requests: int = 1_000_000
    memory_limit_s: float = 3_600.0
    batch_rounds: int = 3
    time_scale: float = 1.0
    chunks: int = 8_192
    overload_s: float = 8.0
    stream_rounds: int = 3
    waves: int = 3


WHOLE = Plan()
QUICK = Plan(
    rounds=3,
    seconds=1,
    warm_up_s=1,
    added_rounds=1,
    starts=3,
    memory_requests=3_000,
    memory_limit_s=4.0,
    batch_rounds=1,
    time_scale=0.2,
    chunks=1_024,
    overload_s=2.0,
    stream_rounds=2,
    waves=1,
)
