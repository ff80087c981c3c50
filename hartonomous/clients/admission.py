"""Who may call a service now, and who waits: one line in front of all addresses of a service.

A call takes a `Place` at an address whose circuit lets it through and which has a slot free, the least busy for its
weight first (`core.balancing`).
Otherwise it waits in line: queries before batches before ingests, each in the order they came. Nobody waits in vain: a
call is told at once when the line is full (429) or when, by the service's own pace, its turn would come too late for
its deadline (503), both with the time after which it makes sense to come again. When every circuit is open, those that
wait are told as well.

Cancelled while it waits, a call leaves the line; cancelled in the moment of its turn, it passes the turn on.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from hartonomous.clients.breaker import Ticket
from hartonomous.clients.failures import Verdict
from hartonomous.clients.replica import Replica
from hartonomous.core.balancing import Balance
from hartonomous.core.call import Call, Priority
from hartonomous.core.servicetime import ServiceTime
from hartonomous.core.trace import Span
from hartonomous.errors import BackendUnavailableError, DeadlineExceededError, NotAskedError, QueueFullError

if TYPE_CHECKING:
    from hartonomous.backendmetrics import ServiceMetrics

# Batches bring their questions all at once (four of the largest); ingests bound what they have under way themselves.
_BATCH_QUEUE = 1_024
_UNBOUNDED = 1 << 30
# Which model an address serves is asked with its health, every few seconds.
_ROUND_S = 5

_Line = deque["asyncio.Future[Place]"]


UNUSED = Verdict("unused", None)
"""A place that was given back before anything was sent."""


class Place(msgspec.Struct, eq=False):
    """A slot at an address, with the right of its circuit to one call; given back by `leave`, once.

    A look-up has no slot: a busy service answers it all the same, and its success says little about the others' calls.
    """

    _admission: Admission
    replica: Replica
    _ticket: Ticket
    _has_slot: bool
    started: float
    counts: bool = True
    """Whether a failure counts against the address."""
    tries: int = 0
    """How often it was tried before."""
    is_hedge: bool = False
    """Whether it is tried elsewhere at the same time."""
    span: Span | None = None
    _left: bool = False

    def answering(self, *, is_stream: bool) -> None:
        """An answer has begun: of a stream that is enough for a probe, which would otherwise last as long as it."""
        if is_stream and self._ticket.is_probe:
            self._ticket.settle(True)
            self._admission.hand_on()
        if self.replica.adaptive is not None and self._has_slot:
            self.replica.adaptive.observe(time.perf_counter() - self.started, self.replica.active)

    def leave(self, verdict: Verdict | None) -> float:
        """Give the place back; None stands for a good answer. Returns the seconds that it was held."""
        held_s = time.perf_counter() - self.started
        if self._left:
            return held_s
        self._left = True
        self.replica.end(self._has_slot)
        if verdict is not None:
            self._leave_failed(verdict, held_s)
        elif self._has_slot:
            self._ticket.settle(True)
            self._admission.service_time.observe(held_s)
        else:
            self._ticket.settle(True if self._ticket.is_probe else None)
        self._admission.hand_on()
        return held_s

    def _leave_failed(self, verdict: Verdict, held_s: float) -> None:
        """Say of a call that had no good answer what follows for the address."""
        if verdict.is_overload and self.replica.adaptive is not None and self._has_slot:
            self.replica.adaptive.observe(held_s, self.replica.active + 1, failed=True)
        is_probe = self._ticket.is_probe
        if verdict.failed is None or (verdict.failed and not self.counts and not is_probe):
            self._ticket.settle(None)
        elif verdict.failed:
            self._ticket.settle(False)
        else:  # a refusal is an answer; it is quick, and says nothing of how long the others take
            self._ticket.settle(True if self._has_slot or is_probe else None)


class Admission:
    """The places of one service and the line in front of them. For one event loop.

    `replicas` are the addresses that are asked, none with a weight of 0. Others may take their place: then `hand_on`.
    """

    def __init__(self, name: str, replicas: Sequence[Replica], queue: int, metrics: ServiceMetrics) -> None:
        self.name = name
        self.service_time = ServiceTime()
        self._replicas = replicas
        self._calls, self._lookups = Balance[Replica](), Balance[Replica]()
        self._metrics = metrics
        self._lines: tuple[_Line, ...] = tuple(deque() for _ in Priority)
        self._until = tuple(self._lines[: priority + 1] for priority in Priority)
        """The lines whose turn is before that of a priority's next call."""
        self._bounds = (queue, _BATCH_QUEUE, _UNBOUNDED)
        self._closed: Callable[[], BackendUnavailableError] | None = None
        self.show()

    def show(self) -> None:
        """Let the metrics show this line, and no other one of the service."""
        for gauge, line in zip(self._metrics.queues, self._lines, strict=True):
            gauge.set_function(partial(len, line))
        self._metrics.queue_limit.set(self._bounds[0])
        self._metrics.slots.set_function(lambda: self.slots)

    @property
    def waiting(self) -> int:
        """How many calls wait for their turn."""
        return sum(map(len, self._lines))

    @property
    def slots(self) -> int:
        """How many calls the addresses that are asked take at once together."""
        return sum(replica.limit for replica in self._asked())

    async def enter(self, call: Call, avoid: Collection[Replica] = (), *, is_lookup: bool = False) -> Place:
        """Return a place, at another address than those to `avoid` if one is free; wait for a turn where none is.

        A look-up waits for nobody.

        Raises:
            BackendUnavailableError: every circuit is open, the turn would come too late, or the server stops.
            QueueFullError: too many wait already.
            DeadlineExceededError: the deadline passed.
        """
        return self.enter_free(call, avoid, is_lookup=is_lookup) or await self.wait(call)

    def enter_free(self, call: Call, avoid: Collection[Replica] = (), *, is_lookup: bool = False) -> Place | None:
        """Return a place as `enter` does, None where the call has to `wait`. Raises as `enter`."""
        if self._closed is not None:
            raise self._closed()
        if call.deadline.expired:
            raise DeadlineExceededError(f"The deadline passed before the {self.name} service was asked.")
        if is_lookup or not any(self._until[call.priority]):
            place = self._take(avoid, is_lookup=is_lookup)
            if place is not None:
                return place
        if not self._asked():
            raise self._all_open()
        return None

    def enter_at_once(self, avoid: Replica) -> Place | None:
        """Return a place at another address than `avoid`, None where nobody may have one without waiting."""
        if self._closed is not None or self.waiting:
            return None
        return self._take_among([replica for replica in self._asked() if replica is not avoid])

    def close(self, reason: Callable[[], BackendUnavailableError]) -> None:
        """Let nobody in any more, and tell those who wait."""
        self._closed = reason
        self._refuse(reason)

    def hand_on(self) -> None:
        """Give free places to those who wait, or tell them that every circuit is open."""
        while any(self._lines):
            line = next(filter(None, self._lines))
            if line[0].done():  # cancelled, and about to leave
                line.popleft()
                continue
            place = self._take()
            if place is None:
                if not self._asked():
                    self._refuse(self._all_open)
                return
            line.popleft().set_result(place)

    def _asked(self) -> Sequence[Replica]:
        """Return the addresses that calls go to: none when every circuit is open."""
        if len(self._replicas) == 1:  # one alone is asked whatever the last poll said
            (alone,) = self._replicas
            return self._replicas if alone.breaker.admits and not alone.is_foreign else ()
        asked = [one for one in self._replicas if one.up is not False and one.breaker.admits and not one.is_foreign]
        # Those that are down by the last poll are asked when there is no other; another model never is.
        return asked or [one for one in self._replicas if one.breaker.admits and not one.is_foreign]

    def _take(self, avoid: Collection[Replica] = (), *, is_lookup: bool = False) -> Place | None:
        """Return a place at one of the addresses, None when all are busy or none is asked."""
        if len(self._replicas) != 1:
            return self._take_among(self._asked(), avoid, is_lookup=is_lookup)
        (alone,) = self._replicas  # of which it is nothing to remember whose turn it was
        has_slot = not is_lookup
        ticket = None if alone.is_foreign else alone.begin(has_slot)
        return None if ticket is None else Place(self, alone, ticket, has_slot, time.perf_counter())

    def _take_among(
        self, asked: Sequence[Replica], avoid: Collection[Replica] = (), *, is_lookup: bool = False
    ) -> Place | None:
        """Return a place at one of these addresses, None when all are busy."""
        free = asked if is_lookup else [replica for replica in asked if replica.is_free]
        if not free:
            return None
        balance = self._lookups if is_lookup else self._calls
        chosen = balance.choose(free, avoid)
        ticket = chosen.begin(not is_lookup)
        if ticket is None:
            return None
        if len(asked) > 1:
            balance.took(chosen)
        return Place(self, chosen, ticket, not is_lookup, time.perf_counter())

    async def wait(self, call: Call) -> Place:
        """Wait in line for a place, which `enter_free` did not have. Raises as `enter`."""
        line = self._lines[call.priority]
        self._check_wait(call, len(line))
        waiter: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        line.append(waiter)
        began = time.perf_counter()
        try:
            async with asyncio.timeout(call.deadline.remaining):
                return await waiter
        except TimeoutError as error:
            self._give_up(line, waiter)
            self._metrics.count("timeout").inc()
            raise DeadlineExceededError(f"The {self.name} service was busy until the deadline.") from error
        except asyncio.CancelledError:
            self._give_up(line, waiter)
            self._metrics.saved("queued").inc()
            raise
        finally:
            self._metrics.queue_wait.observe(time.perf_counter() - began, call.exemplar)

    def _check_wait(self, call: Call, in_line: int) -> None:
        """Refuse a call that would wait in vain."""
        ahead = sum(map(len, self._until[call.priority]))
        wait_s = self.service_time.wait(ahead, self.slots)
        retry_after = max(1, math.ceil(wait_s))
        if in_line >= self._bounds[call.priority]:
            self._metrics.refused("queue_full").inc()
            raise QueueFullError(f"Too many wait for the {self.name} service.", retry_after=retry_after)
        if not self.service_time.is_useful(wait_s, call.deadline.remaining):
            self._metrics.refused("too_late").inc()
            raise NotAskedError(
                f"The {self.name} service is busy beyond the request's deadline.",
                code="overloaded",
                retry_after=retry_after,
            )

    @staticmethod
    def _give_up(line: _Line, waiter: asyncio.Future[Place]) -> None:
        """Leave the line; pass the turn on if it came in the same moment."""
        if not waiter.done() or waiter.cancelled():
            if waiter in line:
                line.remove(waiter)
        elif waiter.exception() is None:
            waiter.result().leave(UNUSED)

    def _refuse(self, reason: Callable[[], BackendUnavailableError]) -> None:
        for line in self._lines:
            while line:
                waiter = line.popleft()
                if not waiter.done():
                    waiter.set_exception(reason())

    def _all_open(self) -> BackendUnavailableError:
        self._metrics.refused("open").inc()
        own = [replica.breaker.retry_after_s for replica in self._replicas if not replica.is_foreign]
        if not own:
            return NotAskedError(f"No address of the {self.name} service serves its model.", retry_after=_ROUND_S)
        wait_s = min(own)
        message = f"The {self.name} service has failed again and again, and is left alone for a moment."
        return NotAskedError(message, retry_after=max(1, math.ceil(wait_s)))
