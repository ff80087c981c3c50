"""One address of a service: its circuit breaker, its slots, its weight, what the health monitor knows of it."""

from __future__ import annotations

from collections.abc import Callable

from hartonomous.clients.breaker import Breaker, Ticket
from hartonomous.core.adaptive import AdaptiveLimit
from hartonomous.core.served import Served
from hartonomous.tally import Gauge

NOT_SHOWN = Gauge("not_shown", "What nobody counts.")


class Replica:
    """One address. It takes `limit` calls at once, of which `active` are under way; `up` is None while not known.

    `entered` counts all calls there have been, but for look-ups; `lookups` are those under way: `in_flight` shows them
    with the calls, and `on_idle` is told when the last of both has ended. With a `weight` of 0 it is given none.
    `model` is what it said last that it serves; `is_foreign`, that this is another model than the service's.
    """

    __slots__ = (
        "__weakref__",
        "active",
        "adaptive",
        "breaker",
        "entered",
        "in_flight",
        "is_foreign",
        "lookups",
        "model",
        "on_idle",
        "slots",
        "up",
        "url",
        "weight",
    )

    def __init__(self, url: str, slots: int, breaker: Breaker, *, is_adaptive: bool = False, weight: int = 1) -> None:
        self.url = url
        self.slots = slots
        self.breaker = breaker
        self.weight = weight
        self.adaptive = AdaptiveLimit(slots) if is_adaptive else None
        self.active = self.lookups = self.entered = 0
        self.in_flight = NOT_SHOWN
        self.on_idle: Callable[[Replica], None] | None = None
        self.up: bool | None = None
        self.model: Served | None = None
        self.is_foreign = False

    def resize(self, slots: int) -> None:
        """Take so many calls at once from now on; an adaptive limit is found out anew below that."""
        self.slots = slots
        if self.adaptive is not None:
            self.adaptive = AdaptiveLimit(slots)

    @property
    def limit(self) -> int:
        """How many calls it takes at once: its slots, or what the adaptive limit has found out."""
        return self.slots if self.adaptive is None else self.adaptive.limit

    @property
    def is_free(self) -> bool:
        """Whether it takes one more call now."""
        return self.active < (self.slots if self.adaptive is None else self.adaptive.limit)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way there."""
        return not self.active and not self.lookups

    def begin(self, has_slot: bool) -> Ticket | None:
        """Count a call as under way; None where no slot is free, which a look-up has not, or the circuit is open."""
        if has_slot and not self.is_free:
            return None
        ticket = self.breaker.admit()
        if ticket is None:
            return None
        if has_slot:
            self.active += 1
            self.entered += 1
        else:
            self.lookups += 1
        self.in_flight.value += 1
        return ticket

    def end(self, has_slot: bool) -> None:
        """Count a call as over."""
        if has_slot:
            self.active -= 1
        else:
            self.lookups -= 1
        self.in_flight.value -= 1
        if self.on_idle is not None and self.is_idle:
            self.on_idle(self)

    def __repr__(self) -> str:
        return f"<Replica {self.url} {self.breaker.state} active={self.active}/{self.limit}>"
