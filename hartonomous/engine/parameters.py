"""Query parameters of calls on points, checked as Qdrant checks them.

One process holds every point once and applies writes in the order in which they come, so `ordering`, `consistency` and
`timeout` change nothing here: what they ask for is always so.
"""

from __future__ import annotations

from collections.abc import Mapping

from hartonomous.engine.refusal import RefusedError

_ORDERINGS = ("weak", "medium", "strong")
_CONSISTENCIES = ("majority", "quorum", "all")


def check_write(query: Mapping[str, str]) -> None:
    """Raise a 400 for a `wait`, `ordering` or `timeout` that Qdrant would not take."""
    if query.get("wait", "true") not in ("true", "false"):
        raise _refused("provided string was not `true` or `false`")
    ordering = query.get("ordering", "weak")
    if ordering not in _ORDERINGS:
        raise _refused(f"unknown variant `{ordering[:80]}`, expected one of `weak`, `medium`, `strong`")
    _check_timeout(query, minimum=0)


def check_read(query: Mapping[str, str]) -> None:
    """Raise a 400 for a `consistency` or `timeout` that Qdrant would not take."""
    consistency = query.get("consistency", "all")
    if consistency not in _CONSISTENCIES and not _number(consistency):
        shown = consistency[:80]
        raise _refused(f"failed to deserialize read consistency query parameter value '{shown}'")
    _check_timeout(query, minimum=1)


def _check_timeout(query: Mapping[str, str], *, minimum: int) -> None:
    seconds = _number(query.get("timeout", "1"))
    if seconds is None:
        raise _refused("invalid digit found in string")
    if seconds < minimum:
        raise _refused(f"invalid value: integer `{seconds}`, expected a nonzero u64")


def _number(text: str) -> int | None:
    # 19 digits always fit the 64 bits that Qdrant reads.
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def _refused(message: str) -> RefusedError:
    return RefusedError(400, f"Deserialize error in query parameters: {message}")
