"""The addresses of one service: those that are asked, those that a reload brings, those that finish what is under way.

A reload proposes another list, whose new addresses are polled before it is adopted; nothing has changed until then, and
nothing has if it is withdrawn. An address that stays keeps its circuit, its slots and what is known of it. One that
goes is given nothing more from that moment, and is forgotten when its last call has ended; should it come back before,
it is still the same one.

Of an embedding service an address with another model than the others is not asked: its vectors would spoil the index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from hartonomous.addressmetrics import AddressMetrics
from hartonomous.clients.breaker import State
from hartonomous.clients.replica import NOT_SHOWN, Replica
from hartonomous.core.served import Served, agreed
from hartonomous.log import logger

Standing = Literal["up", "down", "unknown"]

_BREAKER: Mapping[State, int] = {"closed": 0, "half-open": 1, "open": 2}
_UP: Mapping[Standing, int] = {"up": 1, "down": 0, "unknown": -1}


@dataclass(slots=True, frozen=True, eq=False)
class Proposal:
    """The addresses that a reload brings, with their weights. `lineage` as `Addresses.lineage`."""

    weights: Mapping[Replica, int]
    lineage: object


class Addresses:
    """The addresses of a service, by `weights`; `make` makes one, `hold` its metrics. For one event loop.

    `must_agree`: one with another model is not asked.
    """

    def __init__(
        self,
        name: str,
        weights: Mapping[str, int],
        make: Callable[[str], Replica],
        hold: Callable[[str], AddressMetrics],
        *,
        must_agree: bool,
    ) -> None:
        self._name, self._make, self._hold, self._must_agree = name, make, hold, must_agree
        self.all: list[Replica] = []
        """Those of the configuration, in its order."""
        self.asked: list[Replica] = []
        """Those of them with a weight. It stays the same list."""
        self.model: Served | None = None
        """What they serve together, as far as they say."""
        self._metrics: dict[Replica, AddressMetrics] = {}
        self._leaving: list[Replica] = []
        self._differing: set[Replica] = set()
        self.serving = object()
        """The lineage of those that are asked now."""
        self._coming: Proposal | None = None
        self._take({make(url): weight for url, weight in weights.items()})

    @property
    def lineage(self) -> object:
        """The same as long as any address stays from one reload to the next: else it is another service."""
        return self.serving if self._coming is None else self._coming.lineage

    @property
    def watched(self) -> list[Replica]:
        """Those whose health counts: of the configuration, and of the one that is coming."""
        return [*dict.fromkeys((*self.all, *(() if self._coming is None else self._coming.weights)))]

    @property
    def standing(self) -> Standing:
        """What is known of the service: whether any address that is asked is up.

        One whose circuit is open does not count: it answers polls, but is not called.
        """
        known = {standing(replica) for replica in self.asked if replica.breaker.state != "open"}
        return "up" if "up" in known else "unknown" if "unknown" in known else "down"

    def propose(self, weights: Mapping[str, int]) -> Proposal:
        """Make what a reload brings known, to be polled; it is adopted or withdrawn."""
        for replica in self._leaving:
            replica.up = None  # it was not polled since
        known = {replica.url: replica for replica in (*self._leaving, *self.all)}
        coming = {known.get(url) or self._make(url): weight for url, weight in weights.items()}
        same = self.serving if any(replica in coming for replica in self.all) else object()
        self._coming = Proposal(coming, same)
        return self._coming

    def withdraw(self, proposal: Proposal) -> None:
        """Forget what was not adopted."""
        if self._coming is proposal:
            self._coming = None

    def adopt(self) -> None:
        """Ask the addresses that were proposed last from now on, and no others; without a proposal nothing changes."""
        if self._coming is None:
            return
        coming, self._coming = self._coming, None
        if coming.lineage is self.serving:
            self.agree()  # who comes has no say yet
        else:
            self.serving, self.model = coming.lineage, None
        self._take(coming.weights)

    def follow(self, newer: Addresses) -> None:
        """Ask those no longer that the same service has no more by other settings; unless that leaves none."""
        weights = {replica.url: replica.weight for replica in newer.all}
        kept = {replica.url: weights[replica.url] for replica in self.all if replica.url in weights}
        if any(kept.values()):
            self.propose(kept)
            self.adopt()

    def _take(self, weights: Mapping[Replica, int]) -> None:
        gone = [replica for replica in self.all if replica not in weights]
        for replica, weight in weights.items():
            replica.weight, replica.on_idle = weight, None
            if replica not in self._metrics:
                self._metrics[replica] = metrics = self._hold(replica.url)
                replica.in_flight = metrics.in_flight
                self._show(replica)
        self.all[:] = list(weights)
        self.asked[:] = [replica for replica in self.all if replica.weight]
        self._leaving = [replica for replica in (*self._leaving, *gone) if replica not in weights]
        for replica in gone:
            replica.weight = 0
            self._differing.discard(replica)
            replica.on_idle = self._left
            if replica.is_idle:
                self._left(replica)
        self.agree()

    def agree(self) -> None:
        """Find out which model they serve, and who serves another."""
        told = [(replica.model, replica.weight) for replica in self.asked if replica.model is not None]
        self.model = agreed(self.model, told)
        for replica in self.all:
            differs = None not in (replica.model, self.model) and not _is_like(replica.model, self.model)
            replica.is_foreign = differs and self._must_agree
            if differs != (replica in self._differing):
                self._tell_model(replica, differs=differs)

    def _tell_model(self, replica: Replica, *, differs: bool) -> None:
        told = logger.bind(service=self._name, address=replica.url, model=str(replica.model), others=str(self.model))
        if differs:
            self._differing.add(replica)
            told.warning("an address serves another model than the others")
        else:
            self._differing.discard(replica)
            told.info("an address serves the model of the others")

    def _left(self, replica: Replica) -> None:
        """With its last call an address is forgotten that is configured no longer."""
        self._leaving.remove(replica)
        self._forget(replica)
        logger.bind(service=self._name, address=replica.url).info("an address is asked no more, and is idle")

    def _forget(self, replica: Replica) -> None:
        replica.in_flight, replica.on_idle = NOT_SHOWN, None
        self._metrics.pop(replica).release()

    def show(self) -> None:
        """Let the metrics show these addresses as they are here."""
        for replica in self._metrics:
            self._show(replica)

    def _show(self, replica: Replica) -> None:
        self._metrics[replica].show(
            lambda: replica.weight, lambda: _UP[standing(replica)], lambda: _BREAKER[replica.breaker.state]
        )

    def close(self) -> None:
        """Let the metrics show none of them any more."""
        for replica in list(self._metrics):
            self._forget(replica)


def standing(replica: Replica) -> Standing:
    """Return what is known of an address. One with the wrong model is down, whatever it answers."""
    if replica.is_foreign:
        return "down"
    return "unknown" if replica.up is None else "up" if replica.up else "down"


def _is_like(one: Served | None, other: Served | None) -> bool:
    return one is not None and other is not None and one.is_like(other)
