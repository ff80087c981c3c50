"""Several programs under the same load in turn, round after round, so that what disturbs one disturbs all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from tests.bench import wrk
from tests.bench.processes import Program
from tests.bench.table import number


@dataclass(frozen=True, slots=True)
class Contender:
    """Who is loaded with what; `program` is whose processor time and memory count, where there is one."""

    load: wrk.Load
    program: Program | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One load of one contender: what wrk saw, processor time of a request in µs, resident memory in MB."""

    seen: wrk.Measured
    cpu_us: float = 0.0
    memory_mb: float = 0.0


Samples = Mapping[str, Sequence[Sample]]


def play(contenders: Mapping[str, Contender], connections: int, seconds: int, rounds: int, warm_up_s: int) -> Samples:
    """Load each of them so often; what comes first in a round comes last in the next."""
    for contender in contenders.values():
        if contender.program is not None:
            wrk.run(contender.load, connections, warm_up_s)
    samples: dict[str, list[Sample]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name in list(contenders)[:: -1 if turn % 2 else 1]:
            samples[name].append(_sample(contenders[name], connections, seconds))
    return samples


def _sample(contender: Contender, connections: int, seconds: int) -> Sample:
    program = contender.program
    if program is None:
        return Sample(wrk.run(contender.load, connections, seconds))
    before = program.cpu_s
    seen = wrk.run(contender.load, connections, seconds)
    # What is under way when wrk goes away was paid for as well, by half as a rule.
    paid = seen.requests + connections / 2
    return Sample(seen, (program.cpu_s - before) / paid * 1e6, program.memory_mb)


def ratios(samples: Samples, name: str, against: str) -> list[float]:
    """Return for each round how many of the requests a second of `against` `name` made."""
    pairs = zip(samples[name], samples[against], strict=True)
    return [ours.seen.per_second / theirs.seen.per_second for ours, theirs in pairs]


def described(samples: Samples) -> list[str]:
    """Return a line with the medians of each contender."""
    return [_line(name, some) for name, some in samples.items()]


def figures(samples: Samples) -> dict[str, Any]:
    """Return everything for a file."""
    return {name: [asdict(sample) for sample in some] for name, some in samples.items()}


def _line(name: str, samples: Sequence[Sample]) -> str:
    rate = median(sample.seen.per_second for sample in samples)
    p50, p99 = (median(times) for times in zip(*((one.seen.p50_ms, one.seen.p99_ms) for one in samples), strict=True))
    line = f"{name:<12} {rate:>9,.0f} requests/s, p50 {number(p50)} ms, p99 {number(p99)} ms"
    if not samples[0].cpu_us:
        return line
    cpu = median(sample.cpu_us for sample in samples)
    return f"{line}, {cpu:,.0f} µs of the processor a request, {samples[-1].memory_mb:.0f} MB"
