"""One attempt of a call: sent to the address of a place, bounded by the request's deadline, counted, and ended.

Whether and where it is sent, and whether once more, the guard says. What goes wrong is one of our errors when it leaves
here: it names the backend and nothing of the library below.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import aiohttp
import msgspec

from hartonomous import codec
from hartonomous.backendmetrics import ServiceMetrics
from hartonomous.clients import attempts
from hartonomous.clients.admission import Admission, Place
from hartonomous.clients.exchange import Exchange
from hartonomous.clients.failures import (
    ANSWERED,
    FOREIGN,
    OVERLOADED,
    BrokenOffError,
    SlowAnswerError,
    UnreachableError,
    Verdict,
    verdict,
)
from hartonomous.clients.guard import Request
from hartonomous.clients.opened import Opened
from hartonomous.clients.replica import Replica
from hartonomous.clients.status import raise_for_status, retry_after_s
from hartonomous.clients.watch import Watch
from hartonomous.clients.wire import Wires
from hartonomous.core.call import Call
from hartonomous.errors import BackendError, BackendUnavailableError
from hartonomous.services import Service

NONSENSE = (codec.NotJsonError, KeyError, IndexError, TypeError, ValueError, AttributeError)
"""What reading an answer raises that is not what it should be."""

_TOO_MANY = 429
# What an answer's status tells better.
_BY_STATUS = frozenset({"2xx", "answered", "failed", "refused", "unavailable", "overloaded"})


class Answer(msgspec.Struct, frozen=True):
    """A whole answer of a backend."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Caller:
    """What sends the calls of one service, to addresses of which those of `asked` are asked. For one event loop."""

    def __init__(
        self,
        name: str,
        config: Service,
        asked: Sequence[Replica],
        admission: Admission,
        metrics: ServiceMetrics,
        wires: Wires,
    ) -> None:
        self.name, self.config = name, config
        self.watch: Watch[Exchange] = Watch(asyncio.get_running_loop())
        """The time limits of the calls under way."""
        metrics.watched.add(self.watch)
        self._asked, self._admission, self._metrics, self._wires = asked, admission, metrics, wires
        self._aborted = False

    async def ask(self, place: Place, request: Request, may_repeat: bool) -> Any:
        """Send a request once, and return what its reader makes of the answer."""
        opened = self._begin(place, request, may_repeat, is_whole=True)
        try:
            await self._send(opened, request)
            answer = Answer(opened.status, opened.whole(), opened.headers)
            raise_for_status(self.name, answer.status, answer.body, answer.headers)
            made = answer if request.read is None else _read(request, answer)
        except FOREIGN as error:
            raise self._failed(opened, request.call, error) from error
        except BaseException as error:
            self._end(opened, request.call, self._found(opened, request.call, error))
            raise
        self._end(opened, request.call, None)
        return made

    async def open(self, place: Place, request: Request, may_repeat: bool) -> Opened:
        """Send a request once; a status that another attempt may mend raises."""
        opened = self._begin(place, request, may_repeat, is_whole=False)
        try:
            await self._send(opened, request)
            if request.is_idempotent and (_fails(opened.status) or (may_repeat and _is_worth_a_wait(opened, request))):
                raise_for_status(self.name, opened.status, await opened.read(), opened.headers)
        except FOREIGN as error:
            raise self._failed(opened, request.call, error) from error
        except BaseException as error:
            self._end(opened, request.call, self._found(opened, request.call, error))
            raise
        return opened

    def end(self, opened: Opened, call: Call, error: BaseException | None) -> None:
        """Close a response, and say what came of it: with what ended the block that read it, if anything did."""
        failure = error or opened.failure
        self._end(opened, call, _of_status(opened.status) if failure is None else self._found(opened, call, failure))

    async def abort(self) -> None:
        """End every call under way with a BackendUnavailableError, and let no other begin."""
        self._aborted = True
        for exchange in self.watch:
            exchange.abort(aiohttp.ClientConnectionError("aborted"))
        await self._wires.close()

    async def close(self) -> None:
        """Close every connection."""
        self.watch.close()
        await self._wires.close()

    def _begin(self, place: Place, request: Request, may_repeat: bool, *, is_whole: bool) -> Opened:
        """Begin a call to the address of a place, within the limits of its time. It is to be ended."""
        service = self.config
        total_s = remaining_s = request.call.deadline.remaining
        if is_whole and service.timeout_s < total_s:
            total_s = service.timeout_s
        first_byte_s = service.first_byte_timeout_s
        if first_byte_s > total_s:
            first_byte_s = total_s
        if may_repeat and request.is_idempotent:
            first_byte_s = self._admission.service_time.first_byte_limit(first_byte_s, remaining_s)
        watch = self.watch
        now = watch.loop.time()
        first_by = now + first_byte_s
        opened = Opened(watch, first_by, now + total_s, service.idle_timeout_s, is_whole, place=place, caller=self)
        watch.add(opened, first_by)
        return opened

    def _send(self, opened: Opened, request: Request) -> Coroutine[Any, Any, None]:
        """Send a request; return when the headers are there, of what is wanted whole the answer. Errors are foreign."""
        if self._aborted:
            raise self.shutting_down()
        place, call = opened.place, request.call
        headers = call.sent if call.span is None else attempts.begin(request, place, call.span, self.name, self.config)
        return self._wires.send(opened, request.method, place.replica.url, request.path, headers, request.body)

    def _failed(self, opened: Opened, call: Call, error: BaseException) -> BaseException:
        """End a call that failed below; return our error."""
        failure = self.translate(error, opened.place, opened.blamed())
        self._end(opened, call, verdict(failure))
        return failure

    def _found(self, opened: Opened, call: Call, error: BaseException) -> Verdict:
        """Return what follows from what ended a call."""
        late = (opened.is_whole or not opened.status) and _is_late(error, call)
        return verdict(self.translate(TimeoutError(), opened.place) if late else error)

    def _end(self, opened: Opened, call: Call, found: Verdict | None) -> None:
        """Give back what a call has taken, and count it."""
        opened.close()
        opened.failure = None  # whose traceback leads back here, and to the request's body
        place, metrics, status = opened.place, self._metrics, opened.status
        outcome = "2xx" if found is None and status >= 200 else self._outcome(opened, found)
        if place.span is not None:
            attempts.end(place.span, outcome, status or None, found)
        metrics.count(outcome).value += 1
        metrics.latency.observe(place.leave(found), call.exemplar)

    def _outcome(self, opened: Opened, found: Verdict | None) -> str:
        """Return what a call counts as that had no good answer."""
        status, kind = opened.status, "2xx" if found is None else found.kind
        if kind == "cancelled":
            self._metrics.saved("running" if opened.is_whole or not status else "streaming").inc()
        return f"{status // 100}xx" if status and kind in _BY_STATUS else kind

    def translate(self, error: BaseException, place: Place | None, is_blamed: bool | None = None) -> BaseException:
        """Return our error for one of aiohttp's: it names the backend and nothing of the library. Others stay.

        `is_blamed` says of a timeout whether the backend is to blame; without it the time that it had decides.
        """
        if not isinstance(error, FOREIGN):
            return error
        if self._aborted and place is not None:
            return self.shutting_down()
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            if place is not None and len(self._asked) > 1:
                # A refused connection is over at once: its address would always have the fewest calls under way.
                place.replica.up = False
            return UnreachableError(f"The {self.name} service cannot be reached.", retry_after=1)
        if isinstance(error, TimeoutError):
            if is_blamed is None:
                given_s = 0.0 if place is None else time.perf_counter() - place.started
                is_blamed = self._admission.service_time.is_blamed(given_s)
            return SlowAnswerError(f"The {self.name} service did not answer in time.", is_blamed=is_blamed)
        return BrokenOffError(f"The {self.name} service broke the connection off.")

    @staticmethod
    def shutting_down() -> BackendUnavailableError:
        """Return what calls are told when the server stops."""
        return BackendUnavailableError("The server is shutting down.", code="draining", retry_after=1)


def _read(request: Request, answer: Answer) -> Any:
    assert request.read is not None
    try:
        return request.read(answer)
    except NONSENSE as error:
        raise BackendError(request.nonsense) from error


def _fails(status: int) -> bool:
    """Whether a status says that the backend failed; 501 says that it does not know the request."""
    return status >= 500 and status != 501


def _is_worth_a_wait(opened: Opened, request: Request) -> bool:
    """Whether the service is overloaded and says when it will not be, before the deadline."""
    wait_s = retry_after_s(opened.headers) if opened.status == _TOO_MANY else None
    return wait_s is not None and wait_s < request.call.deadline.remaining


def _of_status(status: int) -> Verdict | None:
    """Return what follows from an answer that was passed on, whatever its status; None for a good one."""
    return None if status < 300 else OVERLOADED if status == _TOO_MANY else ANSWERED


def _is_late(error: BaseException, call: Call) -> bool:
    """Whether a call was given up because it took too long: what several share ends with the deadline of those who wait
    for it, which is earlier than its own."""
    return isinstance(error, asyncio.CancelledError) and (call.wanted or call.deadline).expired
