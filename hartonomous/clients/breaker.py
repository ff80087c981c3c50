"""A circuit breaker for one address of a backend, on pybreaker's states and counters with its traps closed.

- The call itself never runs inside pybreaker: a call takes a `Ticket` before it begins and gives it back with what came
  of it. So a cancellation is outside the accounting (it frees the probe and counts as nothing), and no lock or context
  is held over an await.
- While the circuit is half-open one ticket is out, the probe; everybody else is refused.
- What came of a call that began before the last change of state is ignored: late failures do not open a circuit again
  that a probe has closed, nor does a late success close it.
- Time is monotonic; it grows with jitter while the backend flaps (`core.breaking`).

For one event loop: nothing here is safe between threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import random as _random
from typing import Literal, NoReturn

import msgspec

from hartonomous.core.breaking import open_time
from hartonomous.without import without

with without("redis"):
    import pybreaker

State = Literal["closed", "open", "half-open"]

_STATES: dict[str, State] = {"closed": "closed", "open": "open", "half-open": "half-open"}


class _FailedError(Exception):
    """Tells pybreaker of a failure."""


class Ticket(msgspec.Struct, eq=False):
    """The right to one call, settled once by what came of it; what is said later is ignored.

    `is_probe`: it is the one call of a half-open circuit.
    """

    _breaker: Breaker | None
    _epoch: int
    is_probe: bool

    def succeeded(self) -> None:
        """The backend answered as it should: closes a half-open circuit, ends a row of failures."""
        self.settle(True)

    def failed(self) -> None:
        """The backend failed: counts, and opens a half-open circuit again."""
        self.settle(False)

    def cancelled(self) -> None:
        """The call was given up: says nothing about the backend, but the next caller may be the probe."""
        self.settle(None)

    def settle(self, outcome: bool | None) -> None:
        """Say what came of the call: whether it succeeded, None where it was cancelled."""
        breaker, self._breaker = self._breaker, None
        if breaker is None or breaker._epoch != self._epoch:
            return
        if outcome and breaker._state == "closed" and not breaker._has_failed:
            return  # as all before it
        breaker._settle(outcome)


class Breaker:
    """The circuit towards one address: closed, open after so many failures in a row, half-open for one probe.

    `failures` in a row open it, for `open_s` seconds the first time, twice as long each time that it opens again from
    half-open or within `max_open_s` of closing, never longer than `max_open_s`; half of the time is jitter.
    `on_change(name, state)` is called once for each change, after it. `clock` is monotonic, in seconds; `random`
    gives uniform numbers in [0, 1).
    """

    __slots__ = (
        "_clock",
        "_closed_at",
        "_epoch",
        "_flaps",
        "_has_failed",
        "_machine",
        "_max_open_s",
        "_on_change",
        "_open_s",
        "_probing",
        "_random",
        "_state",
        "_until",
        "name",
    )

    def __init__(
        self,
        name: str,
        failures: int,
        open_s: float,
        max_open_s: float,
        on_change: Callable[[str, State], None],
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = _random,
    ) -> None:
        # The first error must stay what it is: pybreaker would put its own in the place of the one that trips it.
        self._machine = pybreaker.CircuitBreaker(fail_max=failures, name=name, throw_new_error_on_trip=False)
        self._open_s, self._max_open_s = open_s, max_open_s
        self._on_change, self._clock, self._random = on_change, clock, random
        self._epoch = self._flaps = 0
        self._until = 0.0
        self._closed_at = float("-inf")
        self._probing = False
        self._has_failed = False  # since the last success
        self.name = name
        self._state: State = "closed"

    @property
    def state(self) -> State:
        """An open circuit stays "open" until `admit` or `half_open` moves it on, however long ago its time passed."""
        return self._state

    @property
    def retry_after_s(self) -> float:
        """Seconds until a call may be tried; 0.0 unless the circuit is open."""
        return max(0.0, self._until - self._clock()) if self._state == "open" else 0.0

    @property
    def due(self) -> bool:
        """Whether the circuit is open and its time has passed."""
        return self._state == "open" and self._clock() >= self._until

    @property
    def admits(self) -> bool:
        """Whether `admit` would hand out a ticket now."""
        return self._state == "closed" or (not self._probing if self._state == "half-open" else self.due)

    def admit(self) -> Ticket | None:
        """Hand out the right to one call; None while the circuit is open, or half-open with its probe under way."""
        if self._state == "closed":
            return Ticket(self, self._epoch, False)
        self.half_open()
        if self._state != "half-open" or self._probing:
            return None
        self._probing = True
        return Ticket(self, self._epoch, True)

    def half_open(self, *, early: bool = False) -> None:
        """Make an open circuit whose time has passed half-open: the next caller is the probe.

        `early` does so before its time: the backend was gone, and has just come back.
        """
        if self.due or (early and self._state == "open"):
            self._machine.half_open()
            self._follow()

    def _settle(self, outcome: bool | None) -> None:
        self._probing = False  # closed: there is none; half-open: only the probe has this epoch
        if outcome is None:
            return
        self._has_failed = not outcome
        try:
            self._machine.call(_succeed if outcome else _fail)
        except _FailedError as error:
            error.__traceback__ = None  # pybreaker's frames lead back to it, and to every caller of this
        self._follow()

    def _follow(self) -> None:
        """Take over the machine's state; tell of a change when everything is in place, as the callback may call us."""
        before, self._state = self._state, _STATES[self._machine.current_state]
        if self._state == before:
            return
        self._epoch += 1
        if self._state == "open":
            self._set_open_time(before == "half-open")
        elif self._state == "closed":
            self._closed_at = self._clock()
        self._on_change(self.name, self._state)

    def _set_open_time(self, again: bool) -> None:
        now = self._clock()
        again = again or now - self._closed_at < self._max_open_s
        self._flaps = self._flaps + 1 if again else 0
        self._until = now + open_time(self._flaps, base=self._open_s, cap=self._max_open_s, random=self._random)


def _succeed() -> None:
    return


def _fail() -> NoReturn:
    raise _FailedError
