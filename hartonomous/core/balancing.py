"""Which of several addresses gets the next call: the one furthest below its share, and in turn where several are. Pure.

With n calls under way, the new one among them, an address of weight w has a share of n * w / W of them, W being the sum
of all weights. The call goes where the most whole calls are missing to that share, rounded up: with equal weights to
the fewest calls under way (least connections). Where as many are missing it is taken in turn by weight, so that calls
one after the other spread as well: the next is whose virtual finish time is the least, which is 1 / w after its last
one (weighted fair queueing: Demers, Keshav and Shenker, 1989). Who was not asked for a while is owed one call at most.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary


class Loaded(Protocol):
    """What calls go to: `active` are under way there; its `weight` is 1 or more."""

    @property
    def active(self) -> int: ...

    @property
    def weight(self) -> int: ...


T = TypeVar("T", bound=Loaded)


class Balance(Generic[T]):
    """The choice among the addresses of one service, with what it remembers of whose turn it was."""

    def __init__(self) -> None:
        self._now = 0.0
        self._finished: WeakKeyDictionary[T, float] = WeakKeyDictionary()

    def choose(self, among: Sequence[T], avoid: Collection[T] = ()) -> T:
        """Return who gets the next call; those to `avoid` get none while there are others. It is no call yet: `took`.

        `among` must not be empty.
        """
        others = ([one for one in among if one not in avoid] or among) if avoid else among
        if len(others) == 1:
            return others[0]
        weights = sum(one.weight for one in others)
        calls = 1 + sum(one.active for one in others)
        # The first is the share less what is under way, rounded up, with its sign changed.
        return min(others, key=lambda one: ((one.active * weights - calls * one.weight) // weights, self._due(one)))

    def took(self, chosen: T) -> None:
        """A call goes there."""
        due = self._due(chosen)
        self._finished[chosen] = due
        self._now = max(self._now, due - 1 / chosen.weight)

    def _due(self, one: T) -> float:
        return max(self._now, self._finished.setdefault(one, self._now) + 1 / one.weight)
