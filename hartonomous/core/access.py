"""Who a caller is, and what that one may do and see: scopes, and the collections of a grant.

Everything is denied that is not given. A grant names collections one by one or by the beginning of their names
(`team-a-*`; `*` is all of them). It is asked about names alone, so that the answer is the same whether there is such a
collection or not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self, get_args

from hartonomous.errors import PermissionDeniedError

Scope = Literal["query", "ingest", "metrics", "admin"]
SCOPES: frozenset[Scope] = frozenset(get_args(Scope))


@dataclass(slots=True, frozen=True)
class Grant:
    """The collections that somebody may see: by their whole names, or by the beginnings of their names."""

    names: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    @classmethod
    def of(cls, patterns: Iterable[str]) -> Self:
        """Return the grant of these patterns; those that say the same make equal grants."""
        known = frozenset(patterns)
        prefixes = sorted(pattern[:-1] for pattern in known if pattern.endswith("*"))
        return cls(frozenset(pattern for pattern in known if not pattern.endswith("*")), tuple(prefixes))

    @property
    def patterns(self) -> list[str]:
        """What `of` makes an equal grant from, in order."""
        return [*sorted(self.names), *(f"{prefix}*" for prefix in self.prefixes)]

    def allows(self, collection: str) -> bool:
        """Whether a collection of this name may be seen."""
        return collection in self.names or collection.startswith(self.prefixes)

    def within(self, other: Self) -> Self:
        """Return the grant of what both allow."""
        names = frozenset(name for name in self.names | other.names if self.allows(name) and other.allows(name))
        prefixes = {prefix for prefix in self.prefixes if prefix.startswith(other.prefixes)}
        prefixes |= {prefix for prefix in other.prefixes if prefix.startswith(self.prefixes)}
        return type(self)(names, tuple(sorted(prefixes)))

    def check(self, collection: str, *, param: str = "collection") -> None:
        """Raise PermissionDeniedError when a collection of this name may not be seen; `param` is where it was named."""
        if not self.allows(collection):
            refusal = "The key does not reach this collection."
            error = PermissionDeniedError(refusal, param=param, code="collection_denied")
            error.collection = collection
            raise error


NOTHING = Grant()
EVERYTHING = Grant(prefixes=("",))


@dataclass(slots=True, frozen=True)
class Caller:
    """Who sent a request. `key_id` is None for a local caller of a server without keys, and for nobody.

    `owner` is None where the key has none but itself.
    """

    key_id: str | None
    scopes: frozenset[Scope] = frozenset()
    grant: Grant = NOTHING
    owner: str | None = None

    def check(self, scope: Scope) -> None:
        """Raise PermissionDeniedError when the caller lacks the scope."""
        if scope not in self.scopes:
            raise PermissionDeniedError(f"The key lacks the scope {scope!r}.", code="scope_missing")

    def within(self, other: Caller) -> Caller:
        """Return this caller with no more than the other one may do and see as well."""
        return Caller(self.key_id, self.scopes & other.scopes, self.grant.within(other.grant), self.owner)


NOBODY = Caller(None)
LOCAL = Caller(None, SCOPES, EVERYTHING)
