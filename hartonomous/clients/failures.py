"""How a call to a backend can fail, and what follows from each failure: is the backend to blame, may it be asked again.

Where nothing was sent any call may be repeated. Otherwise only one whose repetition changes nothing (embed, rerank,
search, upsert by id; never a generation), at most `attempts` times in all, for a failure that another attempt may mend.
"""

from __future__ import annotations

import math
import ssl
from dataclasses import dataclass

import aiohttp

from hartonomous.errors import BackendError, BackendUnavailableError, DeadlineExceededError, HartonomousError

ATTEMPTS = 3
"""How often a call is sent at most."""

FOREIGN = (TimeoutError, aiohttp.ClientError, ConnectionError)
"""What aiohttp raises of a call."""


class UnreachableError(BackendUnavailableError):
    """No connection could be made: the request has not been sent."""


class BrokenOffError(BackendError):
    """The connection ended before the answer did."""


class SlowAnswerError(DeadlineExceededError):
    """The backend did not answer in the time it had. `is_blamed` says whether that was time enough."""

    def __init__(self, message: str, *, is_blamed: bool) -> None:
        super().__init__(message)
        self.is_blamed = is_blamed


class BackendFailedError(BackendError):
    """A backend's own failure: its 5xx."""


class BackendBusyError(BackendUnavailableError):
    """A backend that asks to come again later: its 429 (it is overloaded) or 503 (it is not ready).

    `wait_s` is what it asks for in seconds, None where it does not say.
    """

    def __init__(self, message: str, *, wait_s: float | None, is_overload: bool) -> None:
        super().__init__(message, retry_after=1 if wait_s is None else max(1, math.ceil(wait_s)))
        self.wait_s = wait_s
        self.is_overload = is_overload


class CredentialsRefusedError(BackendError):
    """A backend does not take our key: the configuration is wrong, and asking again does not mend it."""


class BackendRefusedError(BackendError):
    """A backend called our request wrong (its 4xx), or does not know it (501): the caller's input if it was passed on,
    else our bug. `answered` is its status."""

    def __init__(self, message: str, *, answered: int) -> None:
        super().__init__(message)
        self.answered = answered


class AnswerTooLargeError(BackendError):
    """A backend's answer is beyond the cap; less could be asked for at once."""


@dataclass(slots=True, frozen=True)
class Verdict:
    """What follows from a failure. `failed`: whether the backend is to blame; None says nothing about it."""

    kind: str
    failed: bool | None
    attempts: int = 1
    was_sent: bool = True
    at_once: bool = False

    @property
    def is_overload(self) -> bool:
        """Whether less at once might have been answered."""
        # A timeout of a caller in a hurry says nothing: else one of those could take the slots of everybody.
        return self.kind == "overloaded" or (self.kind == "timeout" and self.failed is True)


_CANCELLED = Verdict("cancelled", None)
_SLOW = Verdict("timeout", True, attempts=2)
_IMPATIENT = Verdict("timeout", None)
_LOADING = Verdict("unavailable", True)
_ASKED_TO_WAIT = Verdict("unavailable", True, attempts=ATTEMPTS)
OVERLOADED = Verdict("overloaded", None)
_TOLD_TO_WAIT = Verdict("overloaded", None, attempts=ATTEMPTS)
ANSWERED = Verdict("answered", False)

# The first that an error is an instance of.
_BY_TYPE: tuple[tuple[type[BaseException], Verdict], ...] = (
    (UnreachableError, Verdict("unreachable", True, attempts=ATTEMPTS, was_sent=False)),
    # Kept alive and closed meanwhile, as a rule: a new connection mends it without any wait.
    (BrokenOffError, Verdict("broken", True, attempts=ATTEMPTS, at_once=True)),
    (BackendFailedError, Verdict("failed", True, attempts=ATTEMPTS)),
    (CredentialsRefusedError, Verdict("refused", None)),
    (BackendRefusedError, ANSWERED),
    (AnswerTooLargeError, Verdict("too_large", None)),
    # A 2xx that is no answer: HTML, half a document, a wrong number of vectors.
    (BackendError, Verdict("nonsense", True, attempts=2)),
    # Our own refusals, before anything is sent, and those of the server that stops.
    (BackendUnavailableError, _CANCELLED),
    (DeadlineExceededError, _CANCELLED),
)


def tls_problem(error: BaseException | None) -> str | None:
    """Return what OpenSSL says of the TLS that made a call fail; None where it was something else."""
    while error is not None:
        # aiohttp's are instances of OpenSSL's, without what those say.
        if isinstance(error, ssl.SSLError) and not isinstance(error, aiohttp.ClientError):
            return getattr(error, "verify_message", None) or error.reason
        error = error.__cause__
    return None


def verdict(error: BaseException) -> Verdict:
    """Return what follows from a failure; other errors of ours were an answer, foreign ones are a caller who left."""
    if isinstance(error, SlowAnswerError):
        return _SLOW if error.is_blamed else _IMPATIENT
    if isinstance(error, BackendBusyError):
        if error.is_overload:
            return OVERLOADED if error.wait_s is None else _TOLD_TO_WAIT
        # llama.cpp that loads its model says no more than that, and is not hammered.
        return _LOADING if error.wait_s is None else _ASKED_TO_WAIT
    for kind, found in _BY_TYPE:
        if isinstance(error, kind):
            return found
    return ANSWERED if isinstance(error, HartonomousError) else _CANCELLED
