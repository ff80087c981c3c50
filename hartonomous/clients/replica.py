"""One address of a service: its circuit breaker, its slots, what the health monitor knows of it."""

from __future__ import annotations

from hartonomous.clients.breaker import Breaker
from hartonomous.core.adaptive import AdaptiveLimit


class Replica:
    """One address. It takes `limit` calls at once, of which `active` are under way; `up` is None while not known;
    `entered` counts all calls there have been, but for look-ups."""

    __slots__ = ("active", "adaptive", "breaker", "entered", "slots", "up", "url")

    def __init__(self, url: str, slots: int, breaker: Breaker, *, is_adaptive: bool = False) -> None:
        self.url = url
        self.slots = slots
        self.breaker = breaker
        self.adaptive = AdaptiveLimit(slots) if is_adaptive else None
        self.active = 0
        self.entered = 0
        self.up: bool | None = None

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
        return self.active < self.limit

    def __repr__(self) -> str:
        return f"<Replica {self.url} {self.breaker.state} active={self.active}/{self.limit}>"
