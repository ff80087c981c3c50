"""A backend service's connections: one session, its addresses, and the calls over them.

Every call to a backend goes through `Pool.open` (a response to be streamed) or `Pool.request` (a whole answer), and
there through the service's guard, which says when it is sent, to which address, and whether once more. The pool sends
it, bounds it by the request's deadline, counts it, and turns every foreign exception and every bad status into one of
ours.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, TypeVar, overload

import aiohttp

from hartonomous import codec
from hartonomous.clients import attempts
from hartonomous.clients.addresses import Addresses, Proposal
from hartonomous.clients.admission import Admission, Place
from hartonomous.clients.breaker import Breaker, State
from hartonomous.clients.failures import (
    ANSWERED,
    FOREIGN,
    OVERLOADED,
    AnswerTooLargeError,
    BrokenOffError,
    SlowAnswerError,
    UnreachableError,
    Verdict,
    verdict,
)
from hartonomous.clients.guard import Guard, Request
from hartonomous.clients.opened import Opened, Opening
from hartonomous.clients.replica import Replica
from hartonomous.clients.sessions import make_session, make_wires
from hartonomous.clients.status import raise_for_status, retry_after_s
from hartonomous.clients.watch import Watch
from hartonomous.core.call import Call
from hartonomous.errors import BackendError, BackendUnavailableError
from hartonomous.log import logger
from hartonomous.metrics import Metrics
from hartonomous.services import Address, Service

T = TypeVar("T")

_JSON_HEADERS = {"Content-Type": "application/json"}
NONSENSE = (codec.NotJsonError, KeyError, IndexError, TypeError, ValueError, AttributeError)
"""What reading an answer raises that is not what it should be."""

_POLLED_BYTES = 1024 * 1024
_TOO_MANY = 429
# What an answer's status tells better.
_BY_STATUS = frozenset({"2xx", "answered", "failed", "refused", "unavailable", "overloaded"})


class Answer(NamedTuple):
    """A whole answer of a backend."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Pool:
    """The sessions and the guard of one service. Made inside a running loop; closed by `close`."""

    def __init__(
        self,
        name: str,
        urls: Sequence[str | Address],
        config: Service,
        metrics: Metrics,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        weights = _weights(urls)
        if not any(weights.values()):
            raise ValueError(f"a service needs an address, got {urls!r}")
        self.name = name
        self.config = config
        self._metrics = metrics.service(name)
        socket_path = next((url.removeprefix("unix:") for url in weights if url.startswith("unix:")), None)
        self.addresses = Addresses(
            name,
            weights if socket_path is None else {"http://localhost": 1},
            self._replica,
            self._metrics.address,
            must_agree=name == "embedding",
        )
        self.admission = Admission(name, self.addresses.asked, config.queue, self._metrics)
        self._guard = Guard(self.admission, self.addresses.asked, self._metrics)
        self._aborted = False
        self.watch = Watch(asyncio.get_running_loop())
        """The time limits of the calls under way."""
        self._wires = make_wires(config, socket_path, tls)
        self._polls = make_session(config, socket_path, tls)

    def _replica(self, url: str) -> Replica:
        settings = self.config.breaker
        breaker = Breaker(url, settings.failures, settings.open_s, settings.max_open_s, self._on_change)
        return Replica(url, self.config.slots, breaker, is_adaptive=self.config.adaptive_concurrency)

    def show(self) -> None:
        """Let the metrics show this pool, and no other one of the service."""
        self.admission.show()
        self.addresses.show()

    def _on_change(self, url: str, state: State) -> None:
        self._metrics.breaker_change(state).inc()
        level = "INFO" if state == "closed" else "WARNING"
        logger.bind(service=self.name, address=url, state=state).log(level, "circuit changed")

    @property
    def replicas(self) -> Sequence[Replica]:
        """The addresses of the configuration, in its order, also those without a weight."""
        return self.addresses.all

    def propose(self, urls: Sequence[Address]) -> Proposal:
        """Let the addresses that a reload brings be polled; they are adopted, or withdrawn."""
        return self.addresses.propose(_weights(urls))

    def adopt(self) -> None:
        """Ask the addresses that were proposed, and no others, from now on, also for those who wait."""
        self.addresses.adopt()
        self.admission.hand_on()

    def follow(self, newer: Pool) -> None:
        """Ask the addresses no longer that the pool which took this one's place does not ask."""
        if newer is not self:
            self.addresses.follow(newer.addresses)
            self.admission.hand_on()

    @overload
    def request(
        self,
        method: str,
        path: str,
        call: Call,
        body: bytes | None = None,
        *,
        is_idempotent: bool = True,
        is_lookup: bool = False,
    ) -> Coroutine[Any, Any, Answer]: ...

    @overload
    def request(
        self,
        method: str,
        path: str,
        call: Call,
        body: bytes | None = None,
        *,
        is_idempotent: bool = True,
        is_hedged: bool = False,
        is_lookup: bool = False,
        read: Callable[[Answer], T],
        nonsense: str,
    ) -> Coroutine[Any, Any, T]: ...

    def request(
        self,
        method: str,
        path: str,
        call: Call,
        body: bytes | None = None,
        *,
        is_idempotent: bool = True,
        is_hedged: bool = False,
        is_lookup: bool = False,
        read: Callable[[Answer], Any] | None = None,
        nonsense: str = "",
    ) -> Coroutine[Any, Any, Any]:
        """Send one request and read the whole answer; any status but 2xx raises.

        `read` makes of the answer what is returned. What it raises of Python's own errors becomes a BackendError that
        says `nonsense`: such an answer is the backend's failure, and asked for once more. A look-up (`is_lookup`) costs
        the service none of its slots.

        Raises:
            BackendError, BackendUnavailableError, DeadlineExceededError, ValidationFailedError,
            NotFoundError, ConflictError, InsufficientStorageError: see `clients.status`.
        """
        hedged = is_hedged and len(self.addresses.asked) > 1
        request = Request(method, path, body, call, is_idempotent, hedged, is_lookup, read, nonsense)
        return self._guard.run(request, self._ask)

    async def _ask(self, place: Place, request: Request, may_repeat: bool) -> Any:
        """Send a request once, and return what its reader makes of the answer."""
        opened = self._begin(place, request, may_repeat, is_whole=True)
        try:
            await self._send(opened, request)
            answer = Answer(opened.status, await opened.read(), opened.headers)
            raise_for_status(self.name, answer.status, answer.body, answer.headers)
            made = answer if request.read is None else _read(request, answer)
        except BaseException as error:
            self._end(opened, request.call, self._found(opened, request.call, error))
            raise
        self._end(opened, request.call, None)
        return made

    async def poll(self, path: str, replica: Replica, call: Call, body: bytes | None = None) -> Answer:
        """GET `path` of one address, or POST `body` there, for the health monitor.

        It goes past the guard and over a connection of its own, so that a busy service is not taken for a dead one.

        Raises what `request` raises.
        """
        timeout = self._timeout(call.deadline.remaining)
        content = bytearray()
        try:
            async with self._polls.request(
                "GET" if body is None else "POST",
                replica.url + path,
                data=body,
                headers={**_JSON_HEADERS, **call.headers},
                allow_redirects=False,
                timeout=timeout,
            ) as response:
                async for piece in response.content.iter_any():
                    content += piece
                    if len(content) > _POLLED_BYTES:
                        raise AnswerTooLargeError(f"The {self.name} service's health poll has no end.")
        except FOREIGN as error:
            raise self.translate(error, None) from error
        raise_for_status(self.name, response.status, bytes(content), response.headers)
        return Answer(response.status, bytes(content), response.headers)

    def open(
        self, method: str, path: str, call: Call, body: bytes, *, is_idempotent: bool = False
    ) -> AbstractAsyncContextManager[Opened]:
        """Send one request, and hand out its response as soon as its headers are there; it is not sent again then.

        They have `first_byte_timeout_s` to come, the body has until the deadline. The status is the caller's to look
        at. Of an idempotent request the 5xx raise, and a first 429 that says when to come again. Leaving the block
        before the end of the body closes the connection.
        """
        return Opening(self, Request(method, path, body, call, is_idempotent))

    async def opened(self, request: Request) -> Opened:
        """Send a request; return when its headers are there. It is to be ended by `end`."""
        return await self._guard.run(request, self._open)

    def end(self, opened: Opened, call: Call, error: BaseException | None) -> None:
        """Close a response, and say what came of it: with what ended the block that read it, if anything did."""
        failure = error or opened.failure
        self._end(opened, call, _of_status(opened.status) if failure is None else self._found(opened, call, failure))

    async def _open(self, place: Place, request: Request, may_repeat: bool) -> Opened:
        """Send a request once; a status that another attempt may mend raises."""
        opened = self._begin(place, request, may_repeat, is_whole=False)
        try:
            await self._send(opened, request)
            if request.is_idempotent and (_fails(opened.status) or (may_repeat and _is_worth_a_wait(opened, request))):
                raise_for_status(self.name, opened.status, await opened.read(), opened.headers)
        except BaseException as error:
            self._end(opened, request.call, self._found(opened, request.call, error))
            raise
        return opened

    def set_slots(self, replica: Replica, slots: int) -> None:
        """Take over what a service says of its slots, where none are configured."""
        if self.config.concurrency is None and slots != replica.slots:
            replica.resize(slots)
            self.admission.hand_on()

    def polled(self, replica: Replica, up: bool) -> None:
        """Take over what a health poll found.

        A circuit whose time has passed, or whose address was gone and is back, lets the next call through as a probe.
        """
        was_gone, replica.up = replica.up is False, up
        if up:
            replica.breaker.half_open(early=was_gone)
        self.admission.hand_on()

    def agree(self) -> None:
        """Find out which model the addresses serve, by what they told when they were polled."""
        self.addresses.agree()
        self.admission.hand_on()

    async def abort(self) -> None:
        """End every call under way with a BackendUnavailableError, and let no other begin: the server stops."""
        self._aborted = True
        self.admission.close(self._shutting_down)
        for exchange in self.watch:
            exchange.abort(aiohttp.ClientConnectionError("aborted"))
        await self._wires.close()

    async def close(self) -> None:
        """Close every connection."""
        self.addresses.close()
        self.watch.close()
        await self._wires.close()
        await self._polls.close()

    def _begin(self, place: Place, request: Request, may_repeat: bool, *, is_whole: bool) -> Opened:
        """Begin a call to the address of a place, within the limits of its time. It is to be ended."""
        service = self.config
        remaining_s = request.call.deadline.remaining
        total_s = min(service.timeout_s, remaining_s) if is_whole else remaining_s
        first_byte_s = min(service.first_byte_timeout_s, total_s)
        if may_repeat and request.is_idempotent:
            first_byte_s = min(total_s, self.admission.service_time.first_byte_limit(first_byte_s, remaining_s))
        self._metrics.in_flight.inc()
        now = self.watch.loop.time()
        return Opened(self, place, now + first_byte_s, now + total_s, is_whole=is_whole)

    async def _send(self, opened: Opened, request: Request) -> None:
        """Send a request; return when the headers are there, of what is wanted whole the answer. Errors are ours."""
        if self._aborted:
            raise self._shutting_down()
        place = opened.place
        headers = attempts.begin(request, place, self.name, self.config)
        try:
            await self._wires.send(opened, request.method, place.replica.url, request.path, headers, request.body)
        except FOREIGN as error:
            raise self.translate(error, place, opened.blamed()) from error

    def _found(self, opened: Opened, call: Call, error: BaseException) -> Verdict:
        """Return what follows from what ended a call."""
        late = (opened.is_whole or not opened.status) and _is_late(error, call)
        return verdict(self.translate(TimeoutError(), opened.place) if late else error)

    def _end(self, opened: Opened, call: Call, found: Verdict | None) -> None:
        """Give back what a call has taken, and count it."""
        opened.close()
        place, metrics = opened.place, self._metrics
        metrics.in_flight.dec()
        metrics.latency.observe(time.perf_counter() - place.started, call.exemplar)
        outcome = "2xx" if found is None else found.kind
        if opened.status and outcome in _BY_STATUS:
            outcome = f"{opened.status // 100}xx"
        metrics.count(outcome).inc()
        if outcome == "cancelled":
            metrics.saved("running" if opened.is_whole or not opened.status else "streaming").inc()
        if place.span is not None:
            attempts.end(place.span, outcome, opened.status or None, found)
        place.leave(found)
        opened.failure = None  # whose traceback leads back here, and to the request's body

    def _timeout(self, total_s: float) -> aiohttp.ClientTimeout:
        # A total of 0 would mean none at all.
        return aiohttp.ClientTimeout(total=max(0.001, total_s), sock_connect=self.config.connect_timeout_s)

    def translate(self, error: BaseException, place: Place | None, is_blamed: bool | None = None) -> BaseException:
        """Return our error for one of aiohttp's: it names the backend and nothing of the library. Others stay.

        `is_blamed` says of a timeout whether the backend is to blame; without it the time that it had decides.
        """
        if not isinstance(error, FOREIGN):
            return error
        if self._aborted and place is not None:
            return self._shutting_down()
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            if place is not None and len(self.addresses.asked) > 1:
                # A refused connection is over at once: its address would always have the fewest calls under way.
                place.replica.up = False
            return UnreachableError(f"The {self.name} service cannot be reached.", retry_after=1)
        if isinstance(error, TimeoutError):
            if is_blamed is None:
                given_s = 0.0 if place is None else time.perf_counter() - place.started
                is_blamed = self.admission.service_time.is_blamed(given_s)
            return SlowAnswerError(f"The {self.name} service did not answer in time.", is_blamed=is_blamed)
        return BrokenOffError(f"The {self.name} service broke the connection off.")

    @staticmethod
    def _shutting_down() -> BackendUnavailableError:
        return BackendUnavailableError("The server is shutting down.", code="draining", retry_after=1)


def _read(request: Request, answer: Answer) -> Any:
    assert request.read is not None
    try:
        return request.read(answer)
    except NONSENSE as error:
        raise BackendError(request.nonsense) from error


def _weights(urls: Sequence[str | Address]) -> dict[str, int]:
    return dict((url, 1) if isinstance(url, str) else (url.url, url.weight) for url in urls)


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
