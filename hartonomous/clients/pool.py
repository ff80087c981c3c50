"""A backend service's connections: one session, its addresses, and the calls over them.

Every call to a backend goes through `Pool.open` (a response to be streamed) or `Pool.request` (a whole answer). The
pool picks the address with the fewest calls under way among those not known to be down, bounds the call by the
request's deadline, counts it, and turns every foreign exception and every bad status into one of ours. A call on a kept
connection that the backend had closed meanwhile is sent once more if it is idempotent: it never reached a handler.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from hartonomous.clients.status import raise_for_status
from hartonomous.config import Service
from hartonomous.core.call import Call
from hartonomous.errors import BackendError, BackendUnavailableError, DeadlineExceededError
from hartonomous.metrics import Metrics

# llama.cpp closes an idle connection after 5 s: ours go first, so that no request meets a closing one.
_KEEPALIVE_S = 4.0
_JSON_HEADERS = {"Content-Type": "application/json"}


@dataclass(slots=True)
class Replica:
    """One address of a service: what the monitor knows of it, and how many calls it has under way."""

    url: str
    up: bool | None = None
    outstanding: int = 0


@dataclass(slots=True, frozen=True)
class Answer:
    """A whole answer of a backend."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class Pool:
    """The session of one service. Made inside a running loop; closed by `close`."""

    def __init__(self, name: str, urls: tuple[str, ...], config: Service, metrics: Metrics) -> None:
        if not urls:
            raise ValueError(f"a service needs an address, got {urls!r}")
        self.name = name
        self.config = config
        self._metrics = metrics.service(name)
        unix = urls[0].startswith("unix:")
        self.replicas = [Replica("http://localhost" if unix else url) for url in urls]
        self._session = aiohttp.ClientSession(
            connector=self._connector(urls[0].removeprefix("unix:") if unix else None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers=self._headers(config),
            skip_auto_headers=("User-Agent",),
        )

    def _connector(self, socket_path: str | None) -> aiohttp.BaseConnector:
        limit = self.config.concurrency
        if socket_path is not None:
            return aiohttp.UnixConnector(socket_path, limit=limit, keepalive_timeout=_KEEPALIVE_S)
        return aiohttp.TCPConnector(limit=0, limit_per_host=limit, keepalive_timeout=_KEEPALIVE_S)

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
        replica: Replica | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Send one request and read the whole answer; any status but 2xx raises.

        Raises:
            BackendError, BackendUnavailableError, DeadlineExceededError, ValidationFailedError,
            NotFoundError, ConflictError, InsufficientStorageError: see `clients.status`.
        """
        limit = call.deadline.bound(timeout_s or self.config.timeout_s)
        timeout = aiohttp.ClientTimeout(total=limit, sock_connect=self.config.connect_timeout_s)
        async with self._send(method, path, call, body, _JSON_HEADERS, timeout, idempotent, replica) as response:
            answer = await self._read(response)
        raise_for_status(self.name, answer.status, answer.body, answer.headers)
        return answer

    @asynccontextmanager
    async def open(
        self, method: str, path: str, call: Call, body: bytes, headers: Mapping[str, str] = _JSON_HEADERS
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send one request that is never repeated, and hand out its response as soon as its headers are there.

        The status is the caller's to look at; errors while reading inside the block are turned into ours.
        Leaving the block before the end of the body closes the connection.
        """
        timeout = aiohttp.ClientTimeout(
            total=call.deadline.remaining,
            sock_connect=self.config.connect_timeout_s,
            sock_read=self.config.idle_timeout_s,
        )
        async with self._send(method, path, call, body, headers, timeout, False, None) as response:
            yield response

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """Read the whole body of an opened response, up to the configured cap."""
        return (await self._read(response)).body

    def count_failure(self, outcome: str) -> None:
        """Count a failure that only the reader of a stream could notice."""
        self._metrics.count(outcome).inc()

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        call: Call,
        body: bytes | None,
        headers: Mapping[str, str],
        limits: aiohttp.ClientTimeout,
        idempotent: bool,
        replica: Replica | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if call.deadline.expired:
            raise DeadlineExceededError(f"The deadline passed before the {self.name} service was asked.")
        replica = replica or self.pick()
        with self._counted(replica) as outcome, self._errors(outcome):
            arguments: dict[str, Any] = {"data": body, "headers": {**headers, **call.headers}, "timeout": limits}
            response = await self._connect(method, replica.url + path, arguments, idempotent)
            try:
                outcome[0] = f"{response.status // 100}xx"
                yield response
            finally:
                if response.content.at_eof():
                    response.release()
                else:
                    response.close()

    async def _connect(
        self, method: str, url: str, arguments: dict[str, Any], idempotent: bool
    ) -> aiohttp.ClientResponse:
        try:
            return await self._session.request(method, url, allow_redirects=False, **arguments)
        except (aiohttp.ServerDisconnectedError, ConnectionResetError):
            if not idempotent:
                raise
            return await self._session.request(method, url, allow_redirects=False, **arguments)

    async def _read(self, response: aiohttp.ClientResponse) -> Answer:
        cap = self.config.max_answer_bytes
        body = bytearray()
        async for data in response.content.iter_any():
            body += data
            if len(body) > cap:
                raise BackendError(f"The {self.name} service's answer is larger than {cap} bytes.")
        return Answer(response.status, bytes(body), response.headers)

    @contextmanager
    def _counted(self, replica: Replica) -> Iterator[list[str]]:
        """Count a call; `outcome[0]` is what it is counted as at the end."""
        outcome = ["cancelled"]
        started = time.perf_counter()
        replica.outstanding += 1
        self._metrics.in_flight.inc()
        try:
            yield outcome
        finally:
            replica.outstanding -= 1
            self._metrics.in_flight.dec()
            self._metrics.latency.observe(time.perf_counter() - started)
            self._metrics.count(outcome[0]).inc()

    @contextmanager
    def _errors(self, outcome: list[str]) -> Iterator[None]:
        """Turn what aiohttp raises into our errors, which name the backend and nothing of the library."""
        try:
            yield
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            outcome[0] = "unreachable"
            raise BackendUnavailableError(f"The {self.name} service cannot be reached.", retry_after=1) from error
        except TimeoutError as error:
            outcome[0] = "timeout"
            raise DeadlineExceededError(f"The {self.name} service did not answer in time.") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            outcome[0] = "broken"
            raise BackendError(f"The {self.name} service broke the connection off.") from error
