"""A backend service's connections: its addresses, and the calls to them.

Every call to a backend goes through `Pool.open` (a response to be streamed) or `Pool.request` (a whole answer), and
there through the service's guard, which says when it is sent, to which address, and whether once more; each attempt is
made by `clients.calling`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, overload

import aiohttp

from hartonomous.clients.addresses import Addresses, Proposal
from hartonomous.clients.admission import Admission
from hartonomous.clients.breaker import Breaker, State
from hartonomous.clients.calling import NONSENSE, Answer, Caller
from hartonomous.clients.failures import FOREIGN, AnswerTooLargeError
from hartonomous.clients.guard import Guard, Request
from hartonomous.clients.opened import Opened, Opening
from hartonomous.clients.replica import Replica
from hartonomous.clients.sessions import make_session, make_wires
from hartonomous.clients.status import raise_for_status
from hartonomous.core.call import Call
from hartonomous.log import logger
from hartonomous.metrics import Metrics
from hartonomous.services import Address, Service

__all__ = ["NONSENSE", "Answer", "Pool"]

T = TypeVar("T")

_JSON_HEADERS = {"Content-Type": "application/json"}
_POLLED_BYTES = 1024 * 1024


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
        wires = make_wires(config, socket_path, tls)
        self._caller = Caller(name, config, self.addresses.asked, self.admission, self._metrics, wires)
        self.watch = self._caller.watch
        """The calls under way."""
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
        return self._guard.run(request, self._caller.ask)

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
            raise self._caller.translate(error, None) from error
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
        return Opening(self._guard, self._caller, Request(method, path, body, call, is_idempotent))

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
        self.admission.close(self._caller.shutting_down)
        await self._caller.abort()

    async def close(self) -> None:
        """Close every connection."""
        self.addresses.close()
        await self._caller.close()
        await self._polls.close()

    def _timeout(self, total_s: float) -> aiohttp.ClientTimeout:
        # A total of 0 would mean none at all.
        return aiohttp.ClientTimeout(total=max(0.001, total_s), sock_connect=self.config.connect_timeout_s)


def _weights(urls: Sequence[str | Address]) -> dict[str, int]:
    return dict((url, 1) if isinstance(url, str) else (url.url, url.weight) for url in urls)
