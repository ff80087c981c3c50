"""What one request uses of its limits: bytes as they come, tokens as they become known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from hartonomous.errors import HartonomousError
from hartonomous.limiting.policy import Cost, Entry, Kind, Policy, Refusal

# A body of unknown length is counted in advance by so many bytes, so that not each piece of it is asked about.
_AHEAD = 1024 * 1024


class _Store(Protocol):
    async def take(self, name: str, cost: Cost) -> Refusal | None: ...

    def settle(self, name: str, place: str | None, costs: Sequence[Cost] = ()) -> None: ...


class Meter(msgspec.Struct, eq=False):
    """A request that was let in.

    `place` is its own among the requests of which there may be so many at once, if it has one; `policy` says what is
    limited. `close` must be called at its end, whatever happens, where it has a place or may use tokens or bytes; one
    that is limited by nothing but requests has used all it will, and needs none.
    """

    _name: str
    policy: Policy
    _entry: Entry
    place: str | None
    _store: _Store
    _error: Callable[[str, Refusal], HartonomousError]
    # The bytes that were counted in advance, and those that have come.
    _taken: int = 0
    _received: int = 0
    _tokens: int = 0

    def spent(self, tokens: float, *, all_of_it: bool = False) -> None:
        """Use tokens that models have reported. `all_of_it`: what was estimated is among them."""
        if all_of_it:
            self._tokens = 0
        if tokens and self.policy.tokens is not None:
            self._store.settle(self._name, None, ((Kind.TOKENS, self.policy.tokens, float(tokens)),))

    def estimated(self, tokens: int) -> None:
        """Use tokens at the end, unless what they are part of is reported until then."""
        self._tokens += tokens

    @property
    def headers(self) -> Mapping[str, str]:
        """Return what the caller is told of the limits."""
        quota = self._entry.quota()
        return {} if quota is None else quota.headers

    @property
    def lines(self) -> str:
        """Return the same as the lines of a head."""
        quota = self._entry.quota()
        return "" if quota is None else quota.lines

    def covers(self, size: int) -> bool:
        """Count bytes of the body; whether they are within those that were counted before it came."""
        self._received += size
        return self._received <= self._taken or self.policy.bytes is None

    async def more(self) -> None:
        """Count those that are not. Raises RateLimitedError when they are more than what is left."""
        rate, missing = self.policy.bytes, self._received - self._taken
        if rate is None or missing <= 0:
            return
        refusal: Refusal | None = None
        for cost in dict.fromkeys((max(missing, _AHEAD), missing)):
            refusal = await self._store.take(self._name, (Kind.BYTES, rate, float(cost)))
            if refusal is None:
                self._taken += cost
                return
        if refusal is not None:
            raise self._error(self._name, refusal)

    def close(self) -> None:
        """Give the place back, use the tokens, and give back the bytes that did not come."""
        if not self._tokens and self._taken <= self._received:  # as nearly always
            if self.place is not None:
                self._store.settle(self._name, self.place)
            return
        costs: list[Cost] = []
        if self._tokens and self.policy.tokens is not None:
            costs.append((Kind.TOKENS, self.policy.tokens, float(self._tokens)))
        if self._taken > self._received and self.policy.bytes is not None:
            costs.append((Kind.BYTES, self.policy.bytes, float(self._received - self._taken)))
        if costs or self.place is not None:
            self._store.settle(self._name, self.place, costs)
