"""The guard: what stands around every call to a backend, so that neither hurts the other.

A call is given a place by the admission (its turn, a slot, a circuit that lets it through), is sent, and gives the
place back with what came of it. A failure that another attempt may mend (`clients.failures`) is tried again, at another
address if there is one, after a wait with full jitter or the one that the backend asked for: as long as the deadline
leaves time for it and the retry budget has something left, which bounds what a failing backend sees to little more than
what it is offered. Where a service has several addresses, a call that takes longer than nineteen in twenty do is sent
to a second one, and the first answer counts.

Cancellation goes through at every await: in line the place in it is given up, under way the connection is closed, and
neither says anything about the backend.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec

from hartonomous.backendmetrics import ServiceMetrics
from hartonomous.clients.admission import UNUSED, Admission, Place
from hartonomous.clients.failures import BackendBusyError, verdict
from hartonomous.clients.hedging import race
from hartonomous.clients.replica import Replica
from hartonomous.core.call import Call
from hartonomous.core.hedging import HedgeBudget, LatencyWindow
from hartonomous.core.retry import RetryBudget, backoff
from hartonomous.errors import BackendUnavailableError, DeadlineExceededError, HartonomousError, NotAskedError

T = TypeVar("T")

_HEDGED_FROM = 0.95


class Request(msgspec.Struct, eq=False):
    """One request to a service.

    `is_idempotent`: sent twice it does no more than once. `is_hedged`: it may be sent to two addresses side by side.
    `is_lookup`: it costs the service next to nothing, and none of its slots. `read` makes of a whole answer what is
    wanted of it; where it cannot, the failure says `nonsense`.
    """

    method: str
    path: str
    body: bytes | None
    call: Call
    is_idempotent: bool
    is_hedged: bool = False
    is_lookup: bool = False
    read: Callable[[Any], Any] | None = None
    nonsense: str = ""


Send = Callable[[Place, Request, bool], Coroutine[Any, Any, T]]
"""Sends a request once; the flag says whether it may be sent again should it fail. Leaves the place, or hands it on in
what it returns; raises our errors."""


class Guard:
    """The guard of one service. For one event loop."""

    def __init__(self, admission: Admission, replicas: Sequence[Replica], metrics: ServiceMetrics) -> None:
        self._admission = admission
        self._replicas = replicas
        self._metrics = metrics
        self._budget = RetryBudget()
        self._latency = LatencyWindow()
        self._hedges = HedgeBudget()

    async def run(self, request: Request, send: Send[T]) -> T:
        """Send a request until it is answered, or fails for good.

        Raises what `Admission.enter` and `send` raise.
        """
        self._budget.deposit()
        call, admission = request.call, self._admission
        place = admission.enter_free(call, is_lookup=request.is_lookup) or await admission.wait(call)
        tried: list[Replica] = []
        while True:
            try:
                if request.is_hedged:
                    return await self._hedged(place, request, send, not tried)
                return await send(place, request, not tried)
            except HartonomousError as error:
                tried.append(place.replica)
                again = await self._enter_again(error, tried, request)
                if again is None:
                    raise
                place = again
            except BaseException as error:
                place.leave(verdict(error))  # it may not even have begun
                raise

    async def _enter_again(self, error: HartonomousError, tried: Sequence[Replica], request: Request) -> Place | None:
        """Wait, and return the place for another attempt; None where there must be none, or is none."""
        wait_s = self._wait_before(error, len(tried), request)
        if wait_s is None:
            return None
        await asyncio.sleep(wait_s)
        try:
            place = await self._admission.enter(request.call, tried, is_lookup=request.is_lookup)
        except (NotAskedError, DeadlineExceededError):
            return None  # the failure tells more than that there was no other attempt
        # One poisonous text must not open the circuit for everybody: a call counts once against an address.
        place.counts = place.replica not in tried
        place.tries = len(tried)
        return place

    def _wait_before(self, error: HartonomousError, tried: int, request: Request) -> float | None:
        """Return the seconds to wait before the next attempt, None when there must be none."""
        found = verdict(error)
        if tried >= found.attempts or (found.was_sent and not request.is_idempotent):
            return None
        wait_s = 0.0 if found.at_once and tried == 1 else backoff(tried - 1)
        if isinstance(error, BackendBusyError) and error.wait_s is not None:
            wait_s = error.wait_s
        if wait_s >= request.call.deadline.remaining:
            return None
        if not self._budget.try_withdraw():
            self._metrics.retry("refused").inc()
            return None
        self._metrics.retry(found.kind).inc()
        return wait_s

    async def _hedged(self, place: Place, request: Request, send: Send[T], may_repeat: bool) -> T:
        """Send a request, and once more to another address if it takes longer than such requests do."""
        started = time.perf_counter()
        if may_repeat:
            self._hedges.offered()
        delay_s = self._latency.quantile(_HEDGED_FROM) if len(self._replicas) > 1 else None
        if delay_s is None:
            answer = await send(place, request, may_repeat)
        else:
            first = send(place, request, may_repeat)
            answer = await race(first, lambda: self._hedge(place.replica, request, send), delay_s)
        self._latency.observe(time.perf_counter() - started)
        return answer

    async def _hedge(self, slow: Replica, request: Request, send: Send[T]) -> T:
        place = self._admission.enter_at_once(slow)
        if place is None:
            raise BackendUnavailableError("There is no other address that is free.")
        if not self._hedges.try_spend():
            place.leave(UNUSED)
            raise BackendUnavailableError("Enough calls have been sent twice.")
        place.is_hedge = True
        self._metrics.hedges.inc()
        return await send(place, request, False)
