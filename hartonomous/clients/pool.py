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
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import aiohttp

from hartonomous import codec
from hartonomous.clients import attempts
from hartonomous.clients.addresses import Addresses, Proposal
from hartonomous.clients.admission import Admission, Place
from hartonomous.clients.breaker import Breaker, State
from hartonomous.clients.failures import (
    ANSWERED,
    OVERLOADED,
    AnswerTooLargeError,
    BrokenOffError,
    SlowAnswerError,
    UnreachableError,
    Verdict,
    verdict,
)
from hartonomous.clients.guard import Guard, Request
from hartonomous.clients.opened import Opened
from hartonomous.clients.replica import Replica
from hartonomous.clients.sessions import make_session, payload
from hartonomous.clients.status import raise_for_status, retry_after_s
from hartonomous.core.call import Call
from hartonomous.errors import BackendError, BackendUnavailableError
from hartonomous.log import logger
from hartonomous.metrics import Metrics
from hartonomous.services import Address, Service

T = TypeVar("T")

_JSON_HEADERS = {"Content-Type": "application/json"}
NONSENSE = (codec.NotJsonError, KeyError, IndexError, TypeError, ValueError, AttributeError)
"""What reading an answer raises that is not what it should be."""

_FOREIGN = (TimeoutError, aiohttp.ClientError, ConnectionError)
_POLLED_BYTES = 1024 * 1024
_TOO_MANY = 429
# What an answer's status tells better.
_BY_STATUS = frozenset({"2xx", "answered", "failed", "refused", "unavailable", "overloaded"})


@dataclass(slots=True, frozen=True)
class Answer:
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
        self._open: set[Opened] = set()
        self._session = make_session(config, socket_path, tls)
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
    async def request(
        self,
        method: str,
        path: str,
        call: Call,
        body: bytes | None = None,
        *,
        is_idempotent: bool = True,
        is_lookup: bool = False,
    ) -> Answer: ...

    @overload
    async def request(
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
    ) -> T: ...

    async def request(
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
    ) -> Any:
        """Send one request and read the whole answer; any status but 2xx raises.

        `read` makes of the answer what is returned. What it raises of Python's own errors becomes a BackendError that
        says `nonsense`: such an answer is the backend's failure, and asked for once more. A look-up (`is_lookup`) costs
        the service none of its slots.

        Raises:
            BackendError, BackendUnavailableError, DeadlineExceededError, ValidationFailedError,
            NotFoundError, ConflictError, InsufficientStorageError: see `clients.status`.
        """
        hedged = is_hedged and len(self.addresses.asked) > 1
        request = Request(method, path, body, call, is_idempotent, hedged, is_lookup)

        async def send(place: Place, request: Request, may_repeat: bool) -> Any:
            opened = await self._begin(place, request, may_repeat, is_whole=True)
            with self._ending(opened, request.call):
                answer = Answer(opened.status, await opened.read(), opened.headers)
                raise_for_status(self.name, answer.status, answer.body, answer.headers)
                try:
                    return answer if read is None else read(answer)
                except NONSENSE as error:
                    raise BackendError(nonsense) from error

        return await self._guard.run(request, send)

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
        except _FOREIGN as error:
            raise self.translate(error, None) from error
        raise_for_status(self.name, response.status, bytes(content), response.headers)
        return Answer(response.status, bytes(content), response.headers)

    @asynccontextmanager
    async def open(
        self, method: str, path: str, call: Call, body: bytes, *, is_idempotent: bool = False
    ) -> AsyncIterator[Opened]:
        """Send one request, and hand out its response as soon as its headers are there; it is not sent again then.

        They have `first_byte_timeout_s` to come, the body has until the deadline. The status is the caller's to look
        at. Of an idempotent request the 5xx raise, and a first 429 that says when to come again. Leaving the block
        before the end of the body closes the connection.
        """
        opened = await self._guard.run(Request(method, path, body, call, is_idempotent), self._open_stream)
        with self._ending(opened, call):
            yield opened

    async def _open_stream(self, place: Place, request: Request, may_repeat: bool) -> Opened:
        opened = await self._begin(place, request, may_repeat, is_whole=False)
        if request.is_idempotent and (_fails(opened.status) or (may_repeat and _is_worth_a_wait(opened, request))):
            with self._ending(opened, request.call):
                raise_for_status(self.name, opened.status, await opened.read(), opened.headers)
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
        # Closing the session wakes those that wait for an answer's headers, but not those that read a body.
        for opened in self._open:
            opened.abort()
        await self._session.close()

    async def close(self) -> None:
        """Close every connection."""
        self.addresses.close()
        await self._session.close()
        await self._polls.close()

    async def _begin(self, place: Place, request: Request, may_repeat: bool, *, is_whole: bool) -> Opened:
        """Send a request to the address of a place; return when the headers are there. Gives the place back if not."""
        call, service = request.call, self.config
        remaining_s = call.deadline.remaining
        first_byte_s = min(service.first_byte_timeout_s, remaining_s)
        if may_repeat and request.is_idempotent:
            first_byte_s = self.admission.service_time.first_byte_limit(service.first_byte_timeout_s, remaining_s)
        self._metrics.in_flight.inc()
        try:
            if self._aborted:
                raise self._shutting_down()
            async with asyncio.timeout(first_byte_s):
                response = await self._session.request(
                    request.method,
                    place.replica.url + request.path,
                    data=payload(request.body),
                    headers={**_JSON_HEADERS, **attempts.begin(request, place, self.name, service)},
                    allow_redirects=False,
                    timeout=self._timeout(min(service.timeout_s, remaining_s) if is_whole else remaining_s),
                )
        except BaseException as error:
            ours = self.translate(error, place)
            found = verdict(self.translate(TimeoutError(), place) if _is_late(error, call) else ours)
            self._leave(call, place, None, found)
            if ours is error:
                raise
            raise ours from error
        if response.status < 300:
            place.answering(is_stream=not is_whole)
        opened = Opened(self, response, place, is_whole=is_whole)
        self._open.add(opened)
        return opened

    @contextmanager
    def _ending(self, opened: Opened, call: Call) -> Iterator[None]:
        """Close a response at the end of the block, and say what came of it."""
        found: Verdict | None = None
        try:
            yield
            found = verdict(opened.failure) if opened.failure is not None else _of_status(opened.status)
        except BaseException as error:
            late = opened.is_whole and _is_late(error, call)
            found = verdict(self.translate(TimeoutError(), opened.place) if late else error)
            raise
        finally:
            self._open.discard(opened)
            opened.close()
            self._leave(call, opened.place, opened, found)

    def _leave(self, call: Call, place: Place, opened: Opened | None, found: Verdict | None) -> None:
        self._metrics.in_flight.dec()
        self._metrics.latency.observe(time.perf_counter() - place.started, call.exemplar)
        outcome = "2xx" if found is None else found.kind
        if opened is not None and outcome in _BY_STATUS:
            outcome = f"{opened.status // 100}xx"
        self._metrics.count(outcome).inc()
        if outcome == "cancelled":
            self._metrics.saved("running" if opened is None or opened.is_whole else "streaming").inc()
        if place.span is not None:
            attempts.end(place.span, outcome, None if opened is None else opened.status, found)
        place.leave(found)

    def _timeout(self, total_s: float) -> aiohttp.ClientTimeout:
        # A total of 0 would mean none at all.
        return aiohttp.ClientTimeout(total=max(0.001, total_s), sock_connect=self.config.connect_timeout_s)

    def translate(self, error: BaseException, place: Place | None, is_blamed: bool | None = None) -> BaseException:
        """Return our error for one of aiohttp's: it names the backend and nothing of the library. Others stay.

        `is_blamed` says of a timeout whether the backend is to blame; without it the time that it had decides.
        """
        if not isinstance(error, _FOREIGN):
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
