"""Which faults come when: drawn from the seed alone, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import get_args

from tests.faults.lies import LIES, Service

SERVICES: tuple[Service, ...] = get_args(Service)
PLACES = {"embedding-1": 6, "embedding-2": 6, "reranking-1": 3, "reranking-2": 3, "generative": 6, "qdrant": 8}
"""The proxies, and how often each is chosen against the others."""

ENGINE, SERVER = "engine", "server"
"""What is killed."""

# So long nothing is wrong at the beginning and at the end.
QUIET_S = 2.0
_GAP_S = 1.1
_LEAST_S, _MOST_S = 0.2, 5.0
_TWO_AT_ONCE = 0.25
_ENGINE_EVERY_S = 45.0
# An endless answer is passed on to the caller byte for byte, which is right and only takes time.
_NO_LIES = {("generative", "endless")}


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """What is wrong where, from when on (seconds since the load began), for how long.

    `what` is a fault as `python -m tests.faults` names it, `lie:NAME`, `kill` or `kill-worker`.
    """

    at: float
    where: str
    what: str
    lasts_s: float

    @property
    def kind(self) -> str:
        """What it is called, without its numbers."""
        name = self.what if self.what.startswith("lie:") else self.what.partition(":")[0]
        return name.removesuffix("-up").removesuffix("-down")

    @property
    def until(self) -> float:
        """When it is over."""
        return self.at + self.lasts_s


def service_of(place: str) -> Service:
    """Return the service that a proxy stands before."""
    return next(service for service in SERVICES if place.startswith(service))


def draw(seed: int, seconds: float, *, engine: bool = True, server: bool = True) -> list[Fault]:
    """Return the faults of a run in the order of their beginnings; no place has two at a time.

    `engine` and `server` say whether those may be killed, which the server is in a long run alone.
    """
    chance = Random(f"faults {seed}")
    end = seconds - QUIET_S
    faults = _on_the_wire(chance, end)
    if engine:
        count = max(1, round(seconds / _ENGINE_EVERY_S))
        faults += [_kill(chance, ENGINE, end, place, count) for place in range(count)]
    if server and seconds >= 120:
        count = 1 if seconds < 300 else 2
        faults += [_kill(chance, SERVER, end, place, count) for place in range(count)]
    return sorted(faults)


def _on_the_wire(chance: Random, end: float) -> list[Fault]:
    faults: list[Fault] = []
    free = dict.fromkeys(PLACES, 0.0)
    at = QUIET_S
    while (at := at + chance.expovariate(1 / _GAP_S)) < end:
        for _ in range(2 if chance.random() < _TWO_AT_ONCE else 1):
            place = chance.choices(list(PLACES), list(PLACES.values()))[0]
            lasts = min(math.exp(chance.uniform(math.log(_LEAST_S), math.log(_MOST_S))), end - at)
            what = _what(chance, service_of(place))
            if free[place] <= at:
                faults.append(Fault(round(at, 3), place, what, round(lasts, 3)))
                free[place] = at + lasts
    return faults


def _kill(chance: Random, where: str, end: float, place: int, count: int) -> Fault:
    """Return one of `count` kills, each in its own part of the time."""
    part = (end - 2 * QUIET_S) / count
    at = QUIET_S + part * (place + chance.uniform(0.2, 0.8))
    lasts = round(chance.uniform(0.1, 1.5), 3)
    # The engine's worker is started again by its keeper.
    what = chance.choice(("kill", "kill-worker")) if where == ENGINE else "kill"
    return Fault(round(at, 3), where, what, lasts)


def _what(chance: Random, service: Service) -> str:
    """Return a fault of the connection, or a lie that this service can tell."""
    if chance.random() < 0.6:
        return chance.choice(_CONNECTION)(chance)
    lies = [name for name, lie in LIES.items() if service in lie.services and (service, name) not in _NO_LIES]
    return f"lie:{chance.choice(lies)}"


def _way(chance: Random) -> str:
    return chance.choice(("", "-up", "-down"))


_CONNECTION: tuple[Callable[[Random], str], ...] = (
    lambda chance: "refuse",
    lambda chance: "hang",
    lambda chance: "blackhole",
    lambda chance: f"latency{_way(chance)}:{chance.uniform(0.05, 0.8):.3f},{chance.uniform(0.0, 0.05):.3f}",
    lambda chance: f"bandwidth{_way(chance)}:{chance.choice((500, 2_000, 20_000))}",
    lambda chance: f"slice{_way(chance)}:{chance.randint(1, 200)},{chance.uniform(0.0, 0.02):.3f}",
    lambda chance: f"reset{_way(chance)}:{chance.choice((0, 1, 100, 1_000, 5_000))}",
    lambda chance: f"close:{chance.choice((0, 1, 100, 1_000, 5_000))}",
    lambda chance: f"half-close:{chance.choice((0, 100, 1_000))}",
)
