"""A backend service's connections: one session, its addresses, and the calls over them.

Every call to a backend goes through `Pool.open` (a response to be streamed) or `Pool.request` (a whole answer). The
pool picks the address with the fewest calls under way among those not known to be down, bounds the call by the
request's deadline, counts it, and turns every foreign exception and every bad status into one of ours. An address takes
`concurrency` calls at once; the others wait for their turn on the caller's time, not on the service's.

Where no connection can be made nothing was sent, so any call goes on to the next address. A call whose connection ends
before the answer's first byte (kept alive, and closed by the backend meanwhile) is sent once more at once if it is
idempotent.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from hartonomous.clients.opened import Opened
from hartonomous.clients.status import raise_for_status
from hartonomous.config import Service
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.errors import BackendError, BackendUnavailableError, DeadlineExceededError, HartonomousError
from hartonomous.metrics import Metrics

# llama.cpp closes an idle connection after 5 s: ours go first, so that no request meets a closing one.
_KEEPALIVE_S = 4.0
_IN_ONE = 512 * 1024
_JSON_HEADERS = {"Content-Type": "application/json"}


@dataclass(slots=True)
class Replica:
    """One address of a service: what the monitor knows of it, and the calls that it has under way or in line."""

    url: str
    slots: asyncio.Semaphore
    up: bool | None = None
    outstanding: int = 0
    waiting: int = 0


@dataclass(slots=True, frozen=True)
class Answer:
    """A whole answer of a backend."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class UnreachableError(BackendUnavailableError):
    """No connection could be made: the request has not been sent."""


class Pool:
    """The session of one service. Made inside a running loop; closed by `close`."""

    def __init__(self, name: str, urls: tuple[str, ...], config: Service, metrics: Metrics) -> None:
        if not urls:
            raise ValueError(f"a service needs an address, got {urls!r}")
        self.name = name
        self.config = config
        self._metrics = metrics.service(name)
        unix = urls[0].startswith("unix:")
        self.replicas = [
            Replica("http://localhost" if unix else url, asyncio.Semaphore(config.concurrency)) for url in urls
        ]
        self._aborted = False
        self._open: set[Opened] = set()
        socket_path = urls[0].removeprefix("unix:") if unix else None
        self._session = self._make_session(socket_path)
        self._polls = self._make_session(socket_path)

    def _make_session(self, socket_path: str | None) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=self._connector(socket_path),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers=self._headers(self.config),
            skip_auto_headers=("User-Agent",),
        )

    @staticmethod
    def _connector(socket_path: str | None) -> aiohttp.BaseConnector:
        # How many calls there are at once is for the slots of an address to say.
        if socket_path is not None:
            return aiohttp.UnixConnector(socket_path, limit=0, keepalive_timeout=_KEEPALIVE_S)
        return aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S)

    @staticmethod
    def _headers(config: Service) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}
        if config.api_key is not None:
            secret = config.api_key.get_secret_value()
            # llama.cpp reads the first, Qdrant either.
            headers |= {"Authorization": f"Bearer {secret}", "api-key": secret}
        return headers

    @property
    def up(self) -> bool | None:
        """Whether any address is up; None while none is known to be either."""
        known = {replica.up for replica in self.replicas}
        return True if True in known else None if None in known else False

    def pick(self) -> Replica:
        """Return the address for the next call: least outstanding, those that are down only when all are."""
        candidates = [replica for replica in self.replicas if replica.up is not False] or self.replicas
        return min(candidates, key=lambda replica: replica.outstanding)

    async def request(
        self,
        method: str,
        path: str,
        call: Call,
        body: bytes | None = None,
        *,
        idempotent: bool = True,
    ) -> Answer:
        """Send one request and read the whole answer; any status but 2xx raises.

        Raises:
            BackendError, BackendUnavailableError, DeadlineExceededError, ValidationFailedError,
            NotFoundError, ConflictError, InsufficientStorageError: see `clients.status`.
        """
        async with self._send(method, path, call, body, whole=True, idempotent=idempotent) as opened:
            content = await opened.read()
        raise_for_status(self.name, opened.status, content, opened.headers)
        return Answer(opened.status, content, opened.headers)

    async def poll(self, path: str, replica: Replica, call: Call) -> None:
        """GET `path` of one address over a connection of its own, so that a busy service is not taken for a dead one.

        Raises what `request` raises.
        """
        async with self._send("GET", path, call, None, whole=True, replica=replica) as opened:
            content = await opened.read()
        raise_for_status(self.name, opened.status, content, opened.headers)

    @asynccontextmanager
    async def open(self, method: str, path: str, call: Call, body: bytes) -> AsyncIterator[Opened]:
        """Send one request that is never repeated, and hand out its response as soon as its headers are there.

        They have `timeout_s` to come, the body has until the deadline. The status is the caller's to look at.
        Leaving the block before the end of the body closes the connection.
        """
        async with self._send(method, path, call, body, whole=False) as opened:
            yield opened

    async def abort(self) -> None:
        """End every call under way with a BackendUnavailableError, and let no other begin: the server stops."""
        self._aborted = True
        # Closing the session wakes those that wait for an answer's headers, but neither those that read a body nor
        # those that wait for their turn.
        for opened in self._open:
            opened.abort()
        for replica in self.replicas:
            for _ in range(replica.waiting):
                replica.slots.release()
        await self._session.close()

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()
        await self._polls.close()

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        call: Call,
        body: bytes | None,
        *,
        whole: bool,
        idempotent: bool = False,
        replica: Replica | None = None,
    ) -> AsyncIterator[Opened]:
        """Send to the best address, and to the next one where a connection cannot be made: nothing was sent then."""
        for attempt in range(len(self.replicas)):
            handed_out = False
            try:
                async with self._send_once(
                    method, path, call, body, whole=whole, idempotent=idempotent, replica=replica
                ) as opened:
                    handed_out = True
                    yield opened
                    return
            except UnreachableError:
                if handed_out or replica is not None or attempt + 1 == len(self.replicas):
                    raise

    @asynccontextmanager
    async def _send_once(
        self,
        method: str,
        path: str,
        call: Call,
        body: bytes | None,
        *,
        whole: bool,
        idempotent: bool,
        replica: Replica | None,
    ) -> AsyncIterator[Opened]:
        if call.deadline.expired:
            raise DeadlineExceededError(f"The deadline passed before the {self.name} service was asked.")
        if self._aborted and replica is None:
            raise self._shutting_down()
        session = self._session if replica is None else self._polls
        options: dict[str, Any] = {"headers": {**_JSON_HEADERS, **call.headers}, "allow_redirects": False}
        async with self._slot(replica, call) as (chosen, outcome):
            # The service's own time begins when it is asked, not while the call waits for its turn.
            limit_s = call.deadline.bound(self.config.timeout_s)
            deadline = Deadline(limit_s) if whole else call.deadline
            with self.errors(outcome):
                async with asyncio.timeout(limit_s):
                    response = await self._connect(session, method, chosen, path, body, options, deadline, idempotent)
            outcome[0] = f"{response.status // 100}xx"
            opened = Opened(self, response, outcome)
            self._open.add(opened)
            try:
                yield opened
            except HartonomousError:
                raise
            except BaseException:
                # Cancelled, or the client of a relayed answer has left: no fault of the backend.
                outcome[0] = "cancelled"
                raise
            finally:
                self._open.discard(opened)
                if response.content.at_eof():
                    response.release()
                else:
                    response.close()

    async def _connect(
        self,
        session: aiohttp.ClientSession,
        method: str,
        replica: Replica,
        path: str,
        body: bytes | None,
        options: dict[str, Any],
        deadline: Deadline,
        idempotent: bool,
    ) -> aiohttp.ClientResponse:
        url = replica.url + path
        try:
            return await session.request(method, url, data=_payload(body), timeout=self._limits(deadline), **options)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            if len(self.replicas) > 1:
                # A refused connection is over at once: its address would always have the fewest calls under way.
                replica.up = False
            raise
        except aiohttp.ServerTimeoutError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not idempotent or self._aborted:
                raise
            return await session.request(method, url, data=_payload(body), timeout=self._limits(deadline), **options)

    def _limits(self, deadline: Deadline) -> aiohttp.ClientTimeout:
        # A total of 0 would mean none at all.
        return aiohttp.ClientTimeout(total=max(0.001, deadline.remaining), sock_connect=self.config.connect_timeout_s)

    @asynccontextmanager
    async def _slot(self, polled: Replica | None, call: Call) -> AsyncIterator[tuple[Replica, list[str]]]:
        """Wait for a turn at an address (a health poll does not) and count the call.

        Yields the address, and what the call is counted as at the end.
        """
        replica = polled or self.pick()
        outcome = ["cancelled"]
        replica.outstanding += 1
        try:
            if polled is None:
                await self._wait(replica, call)
            started = time.perf_counter()
            self._metrics.in_flight.inc()
            try:
                yield replica, outcome
            finally:
                self._metrics.in_flight.dec()
                self._metrics.latency.observe(time.perf_counter() - started)
                self._metrics.count(outcome[0]).inc()
                if polled is None:
                    replica.slots.release()
        finally:
            replica.outstanding -= 1

    async def _wait(self, replica: Replica, call: Call) -> None:
        """Take a slot of the address, or raise when the deadline passes or the server stops."""
        if not replica.slots.locked():
            await replica.slots.acquire()
            return
        replica.waiting += 1
        try:
            async with asyncio.timeout(call.deadline.remaining):
                await replica.slots.acquire()
        except TimeoutError as error:
            self._metrics.count("timeout").inc()
            raise DeadlineExceededError(f"The {self.name} service was busy until the deadline.") from error
        finally:
            replica.waiting -= 1
        if self._aborted:
            replica.slots.release()
            raise self._shutting_down()

    @contextmanager
    def errors(self, outcome: list[str]) -> Iterator[None]:
        """Turn what aiohttp raises into our errors, which name the backend and nothing of the library."""
        try:
            yield
        except asyncio.CancelledError:
            outcome[0] = "cancelled"
            raise
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            outcome[0], ours = self._translate(error)
            raise ours from error

    def _translate(self, error: Exception) -> tuple[str, HartonomousError]:
        """Return the outcome that a call is counted as, and the error of ours."""
        if self._aborted:
            return "cancelled", self._shutting_down()
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            unreachable = UnreachableError(f"The {self.name} service cannot be reached.", retry_after=1)
            return "unreachable", unreachable
        if isinstance(error, TimeoutError):
            return "timeout", DeadlineExceededError(f"The {self.name} service did not answer in time.")
        return "broken", BackendError(f"The {self.name} service broke the connection off.")

    @staticmethod
    def _shutting_down() -> BackendUnavailableError:
        return BackendUnavailableError("The server is shutting down.", code="draining", retry_after=1)


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    """Return what aiohttp sends: a large body piece by piece, because in one it would hold the loop."""
    return body if body is None or len(body) <= _IN_ONE else io.BytesIO(body)
