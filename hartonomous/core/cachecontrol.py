"""`Cache-Control` of a request (RFC 9111, section 5.2.1): how a stored answer may be used for it.

A directive that is malformed or unknown is ignored, as are those that say nothing to a server. Of several `max-age` the
smallest counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# name, name=token or name="quoted": what is quoted may hold commas.
_DIRECTIVE = re.compile(r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)(?:=("(?:[^"\\]|\\.)*"|[^\s,;"]*))?\s*(?:,|$)')
_DIGITS = re.compile(r"[0-9]+", re.ASCII)
# What RFC 9111 lets a number stand for that is larger.
_LONGEST_S = 2**31


@dataclass(slots=True, frozen=True)
class CacheControl:
    """What a caller allows: `max_age_s` is the age in seconds that a stored answer may have at most."""

    no_store: bool = False
    no_cache: bool = False
    max_age_s: int | None = None

    def allows(self, age_s: float) -> bool:
        """Whether a stored answer of this age may be given."""
        return not (self.no_store or self.no_cache) and (self.max_age_s is None or age_s <= self.max_age_s)


ANYTHING = CacheControl()
"""The wishes of a request without the header."""


def parse(header: str) -> CacheControl:
    """Read the header's value; several headers are joined by commas before."""
    found = _directives(header)
    ages = [age for name, value in found if name == "max-age" and (age := _seconds(value)) is not None]
    names = {name for name, _ in found}
    return CacheControl("no-store" in names, "no-cache" in names, min(ages, default=None))


def _directives(header: str) -> list[tuple[str, str]]:
    found, place = [], 0
    while place < len(header):
        match = _DIRECTIVE.match(header, place)
        if match is None:
            comma = header.find(",", place)
            place = len(header) if comma < 0 else comma + 1
            continue
        found.append((match[1].lower(), match[2] or ""))
        place = match.end()
    return found


def _seconds(value: str) -> int | None:
    digits = value.strip('"')
    if not _DIGITS.fullmatch(digits):
        return None
    return int(digits) if len(digits) <= 10 else _LONGEST_S
