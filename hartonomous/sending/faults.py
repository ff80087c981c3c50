"""What can go wrong between here and the server, and how long it is borne.

`UnavailableError` is worth another try, `RefusedError` ends everything, `DocumentError` is one document's own.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from hartonomous import codec
from hartonomous.core.retry import parse_retry_after

_BASE_S = 1.0
_CAP_S = 30.0
_TRY_AGAIN = frozenset((408, 429))
_OWN = frozenset((400, 413, 415, 422))
_FOR_ALL = frozenset(("collection", "metadata", "max_tokens", "overlap_tokens", "chunking"))
_TRANSIENT_TYPES = frozenset(("backend_unavailable", "rate_limit_error"))


class SendingError(Exception):
    """Base of all; the message is a sentence for the user."""


class UnavailableError(SendingError):
    """The server is away or busy: what was not answered is to be sent again, after `retry_after` seconds if given."""

    def __init__(self, sentence: str, retry_after: float | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after


class RefusedError(SendingError):
    """The server will not have it, however often it is asked."""


class DocumentError(SendingError):
    """The server will not have this document."""


class GaveUpError(SendingError):
    """There was no progress for too long."""


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> SendingError:
    """Return what an answer that is no 2xx means."""
    error = _error_object(body)
    sentence = str(error.get("message") or f"The server answered {status} and no reason.")
    if status >= 500 or status in _TRY_AGAIN:
        return UnavailableError(sentence, parse_retry_after(headers.get("Retry-After"), now=time.time()))
    if status in _OWN and str(error.get("param")).partition(".")[0] not in _FOR_ALL:
        return DocumentError(sentence)
    return RefusedError(sentence)


def fatal_error(value: Any) -> SendingError:
    """Return what the error in the last line of a stream means, whatever it is."""
    error = value if isinstance(value, dict) else {}
    sentence = str(error.get("message") or "The server broke off and gave no reason.")
    kind = str(error.get("type"))
    final = {"invalid_request_error", "authentication_error", "permission_error", "not_found_error", "conflict_error"}
    return RefusedError(sentence) if kind in final else UnavailableError(sentence)


def is_transient(error: Mapping[str, Any]) -> bool:
    """Whether a document failed for a reason that has nothing to do with it and will pass."""
    return error.get("type") in _TRANSIENT_TYPES


def is_slow(error: Mapping[str, Any]) -> bool:
    """Whether a document failed because its time was over, which may be its own fault."""
    return error.get("type") == "timeout_error"


def _error_object(body: bytes) -> Mapping[str, Any]:
    try:
        error = codec.loads(body)["error"]
    except (codec.NotJsonError, LookupError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}


def objects(value: Any) -> list[dict[str, Any]]:
    """Return the objects in what should be a list of them: another server may answer anything."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


class Patience:
    """Waits before something is sent again: longer each time, until there was no progress for `limit_s` seconds.

    Shared by all that send, so that an outage is one outage.
    """

    def __init__(self, limit_s: float, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_s = limit_s
        self._say = say
        self._clock = clock
        self._failing_since: float | None = None
        self._failures = 0
        self._said = ""

    def progressed(self) -> None:
        """Note that a document was stored: the next failure is the first of its outage."""
        self._failing_since = None
        self._failures = 0
        self._said = ""

    async def wait(self, error: UnavailableError) -> None:
        """Wait before the next try. Raises GaveUpError instead when it took too long."""
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        left = self._failing_since + self.limit_s - now
        if left <= 0:
            raise GaveUpError(f"{error} Given up after {self.limit_s:g} s without progress.")
        if str(error) != self._said:
            self._said = str(error)
            self._say(f"{error} Trying again for up to {left:.0f} s.")
        await asyncio.sleep(min(self._pause(error), left))

    def _pause(self, error: UnavailableError) -> float:
        self._failures += 1
        if error.retry_after is not None:
            return error.retry_after + random.uniform(0, 1)  # noqa: S311 - no secret
        most = min(_CAP_S, _BASE_S * 2 ** min(self._failures - 1, 10))
        return random.uniform(most / 4, most)  # noqa: S311 - no secret
