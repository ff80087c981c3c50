"""Which limits hold for somebody, and what is decided about one request of theirs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Self

import msgspec
from multidict import istr

from hartonomous.core.ratelimit import Rate
from hartonomous.errors import RateLimitedError
from hartonomous.security import AddressLimits, KeyLimits

_MINUTE_S, _DAY_S = 60.0, 86_400.0


# So spelled that answers' headers need not find out each time how they compare.
LIMIT = istr("RateLimit-Limit")
_REMAINING, _RESET = istr("RateLimit-Remaining"), istr("RateLimit-Reset")
_LINES = f"{LIMIT}: %d\r\n{_REMAINING}: %d\r\n{_RESET}: %d\r\n"


class Kind(IntEnum):
    """What is limited."""

    CONCURRENT = 0
    REQUESTS = 1
    TOKENS = 2
    BYTES = 3
    FAILURES = 4


CODES = {
    Kind.CONCURRENT: "too_many_concurrent_requests",
    Kind.REQUESTS: "too_many_requests",
    Kind.TOKENS: "too_many_tokens",
    Kind.BYTES: "too_many_bytes",
    Kind.FAILURES: "too_many_failed_authentications",
}
_SENTENCES = {
    Kind.CONCURRENT: "Too many requests are under way at once.",
    Kind.REQUESTS: "Too many requests.",
    Kind.TOKENS: "The tokens of this minute are used up.",
    Kind.BYTES: "The request's body is larger than what is left of the day's bytes.",
    Kind.FAILURES: "Too many requests with wrong keys.",
}


Cost = tuple[Kind, Rate, float]
"""A limit that a request is counted in, and what it uses of it; without a cost something must be left."""


@dataclass(slots=True, frozen=True)
class Policy:
    """The limits of an address or a key; None is no limit."""

    concurrent: int | None = None
    requests: Rate | None = None
    tokens: Rate | None = None
    bytes: Rate | None = None
    failures: Rate | None = None
    # What each request asks for, whatever its body is.
    always: Asked = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        costs: list[Cost] = []
        if self.requests is not None:
            costs.append((Kind.REQUESTS, self.requests, 1.0))
        if self.tokens is not None:
            costs.append((Kind.TOKENS, self.tokens, 0.0))
        object.__setattr__(self, "always", Asked(self.concurrent, costs))

    @classmethod
    def of_address(cls, limits: AddressLimits) -> Self:
        """Return the policy of each address."""
        return cls(
            concurrent=limits.concurrent,
            requests=_requests(limits.requests_per_s, limits.burst),
            failures=_per(limits.failed_authentications_per_minute, _MINUTE_S),
        )

    @classmethod
    def of_key(cls, limits: KeyLimits) -> Self:
        """Return the policy of a key."""
        return cls(
            concurrent=limits.concurrent,
            requests=_requests(limits.requests_per_s, limits.burst),
            tokens=_per(limits.tokens_per_minute, _MINUTE_S),
            bytes=_per(limits.bytes_per_day, _DAY_S),
        )

    @property
    def limits_requests(self) -> bool:
        """Whether anything is to be asked when a request comes."""
        return bool(self.concurrent or self.requests or self.tokens or self.bytes)

    def of_failures_shared(self, processes: int) -> Self:
        """Return the policy of one of so many processes that count wrong keys alone."""
        return self if self.failures is None else replace(self, failures=self.failures.share(processes))


def _requests(per_s: float | None, burst: int | None) -> Rate | None:
    return None if per_s is None else Rate(per_s, float(burst or max(1, math.ceil(per_s))))


def _per(count: int | None, seconds: float) -> Rate | None:
    return None if count is None else Rate(count / seconds, float(count))


class Quota(msgspec.Struct, gc=False):
    """What is said of one limit: how much it is, how much is left, the seconds until all of it is there again."""

    limit: int
    remaining: int
    reset_s: float

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the header fields in which clients look for it (draft-ietf-httpapi-ratelimit-headers, up to 06)."""
        return {
            LIMIT: str(self.limit),
            _REMAINING: str(self.remaining),
            _RESET: str(math.ceil(self.reset_s)),
        }

    @property
    def lines(self) -> str:
        """Return them as the lines of a head, each with its end: dearer to put into an answer one by one."""
        return _LINES % (self.limit, self.remaining, math.ceil(self.reset_s))


@dataclass(slots=True)
class Refusal:
    """A limit that is reached, and the seconds until it is worth asking again."""

    kind: Kind
    wait_s: float
    quota: Quota

    def error(self) -> RateLimitedError:
        """Return it as what the caller is told."""
        return RateLimitedError(
            _SENTENCES[self.kind],
            code=CODES[self.kind],
            retry_after=max(1, math.ceil(self.wait_s)),
            headers=self.quota.headers,
        )


class Asked(msgspec.Struct, gc=False):
    """What a request asks for: a place among the concurrent, and what it uses of the limits."""

    concurrent: int | None
    costs: Sequence[Cost]

    def refusal(self, place: int, level: float) -> Refusal:
        """Return why it is refused: the limit at this place, or, behind the last one, the places of the concurrent."""
        if place < len(self.costs):
            kind, rate, cost = self.costs[place]
            return Refusal(kind, rate.wait(level, cost), _quota(rate, level))
        assert self.concurrent is not None
        return Refusal(Kind.CONCURRENT, 0.0, Quota(self.concurrent, 0, 1.0))


class Entry(msgspec.Struct, gc=False):
    """A request that was let in: the levels after it, how many are under way with it, and its place if it has one."""

    asked: Asked
    levels: Sequence[float]
    held: int = 0
    place: str | None = None

    def quota(self) -> Quota | None:
        """Return the limit of which the smallest part is left."""
        concurrent, least, tightest, used = self.asked.concurrent, math.inf, None, 0.0
        for (_, rate, _), level in zip(self.asked.costs, self.levels, strict=True):
            # `Rate.remaining`, without a call: nothing is below 0 for who was let in.
            part = int(rate.most - level) / rate.units
            if part < least:
                least, tightest, used = part, rate, level
        if concurrent is not None and (free := max(0, concurrent - self.held)) / concurrent < least:
            return Quota(concurrent, free, 0.0)
        return None if tightest is None else _quota(tightest, used)


def _quota(rate: Rate, level: float) -> Quota:
    return Quota(rate.units, rate.remaining(level), rate.reset(level))


def asked(policy: Policy, body_bytes: int | None) -> Asked:
    """Return what a request with a body of so many bytes asks for: 0 where that is unknown, None without a body."""
    plain = policy.always
    if policy.bytes is None or body_bytes is None:
        return plain
    return Asked(plain.concurrent, (*plain.costs, (Kind.BYTES, policy.bytes, float(body_bytes))))
