"""The client of a chaos run: every answer is held to the contract, every request counted by how it ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from tests.chaos.contract import TYPES, UNLUCKY, wrong_with_error
from tests.chaos.player import Player
from tests.chaos.report import Report
from tests.chaos.server import Server
from tests.chaos.stack import REQUEST_TIMEOUT_S

# How much later than its deadline an answer may come: the machine may be busy.
_SLACK_S = 6.0
# So long before it is given up the server writes where its tasks stand.
_TELL_S = 1.0
# A stream of many documents has no deadline but each document's.
STREAM_S = 60.0


class Left(Exception):  # noqa: N818 - the client leaves as it wants, which is no error
    """The client has had enough of a stream."""


Reader = Callable[["Exchange", aiohttp.StreamReader], Awaitable[None]]


@dataclass(slots=True)
class Exchange:
    """A request and its answer. `whole` says whether the answer came to its end."""

    route: str
    request_id: str
    began: float
    ended: float = 0.0
    status: int = 0
    body: bytes = b""
    content_type: str = ""
    whole: bool = False
    faults: str = ""

    def __str__(self) -> str:
        """Return it as reports show it."""
        ended = str(self.status or "no status") + ("" if self.whole else ", not whole")
        return f"{self.route} {self.request_id} {ended}" + (self.faults and f" [{self.faults}]")

    @property
    def ok(self) -> bool:
        """Whether the answer is a whole 2xx."""
        return self.whole and 200 <= self.status < 300

    @property
    def json(self) -> Any:
        """The parsed body, None where it is no JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None


@dataclass(frozen=True, slots=True)
class Wish:
    """What is particular to a request.

    `read` reads a 2xx as it comes. `leave_after_s`: then the client goes. `also` are statuses that are right beside 200
    and those of failing backends. `relayed` is the service whose answers come as they are: its lies, its own 4xx. A 503
    that is `plain` is an answer like any other.
    """

    read: Reader | None = None
    leave_after_s: float | None = None
    deadline_s: float | None = None
    limit_s: float | None = None
    also: frozenset[int] = frozenset()
    relayed: str | None = None
    plain: bool = False


_PLAIN = Wish()


class Client:
    """Sends requests and judges the answers. `player` is set while faults are played."""

    def __init__(self, server: Server, report: Report) -> None:
        self.report = report
        self.player: Player | None = None
        self._server = server
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )
        self._count = 0

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def send(
        self, route: str, method: str, path: str, body: Any = None, wish: Wish = _PLAIN, **options: Any
    ) -> Exchange:
        """Send a request (`body` as JSON) and return how it ended, which is counted under `route`.

        While the server is away nothing is sent.
        """
        await self._server.here()
        self._count += 1
        exchange = Exchange(route, f"chaos-{self.report.seed}-{self._count}", time.monotonic())
        kills = self._server.kills
        headers = {"X-Request-ID": exchange.request_id, **options.pop("headers", {})}
        if wish.deadline_s is not None:
            headers["X-Request-Timeout-Ms"] = str(round(wish.deadline_s * 1_000))
        limit_s = wish.leave_after_s or self._limit(wish)
        telling = asyncio.get_running_loop().call_later(max(limit_s - _TELL_S, _TELL_S), self._server.tell_tasks)
        try:
            async with asyncio.timeout(limit_s):
                outcome = await self._answer(exchange, method, path, body, wish, headers, options)
        except Left:
            outcome = "left"
        except TimeoutError:
            outcome = "left" if wish.leave_after_s is not None else self._lost(exchange, kills, wish, "no end")
        except aiohttp.ClientError as error:
            outcome = self._lost(exchange, kills, wish, f"broken off ({type(error).__name__})")
        finally:
            telling.cancel()
        exchange.ended = time.monotonic()
        exchange.faults = self._felt(exchange)
        self.report.outcomes[route, outcome] += 1
        return exchange

    def wrong(self, exchange: Exchange, what: str, kind: str = "wrong answer", about: object = None) -> None:
        """Note that an answer is not as it must be; once only of what is `about` the same."""
        exchange.faults = self._felt(exchange)
        self.report.violate(kind, f"{exchange}: {what}", about)

    def lied(self, service: str, exchange: Exchange) -> bool:
        """Whether a service's answers may have been lies during a request."""
        faults = self.player.wrong(service, exchange.began) if self.player else ()
        return any(fault.what.startswith("lie:") for fault in faults)

    def _felt(self, exchange: Exchange) -> str:
        return self.player.during(exchange.began, exchange.ended or time.monotonic()) if self.player else ""

    def _limit(self, wish: Wish) -> float:
        own = wish.limit_s or REQUEST_TIMEOUT_S
        return min(own, wish.deadline_s or own) + _SLACK_S

    async def _answer(
        self,
        exchange: Exchange,
        method: str,
        path: str,
        body: Any,
        wish: Wish,
        headers: dict[str, str],
        options: dict[str, Any],
    ) -> str:
        options = options if body is None else {"json": body, **options}
        async with self._session.request(method, self._server.url + path, headers=headers, **options) as response:
            exchange.status, exchange.content_type = response.status, response.content_type
            if response.headers.get("X-Request-ID") != exchange.request_id:
                self.wrong(exchange, f"X-Request-ID is {response.headers.get('X-Request-ID')!r}", "request id")
            if wish.read is not None and response.status == 200:
                await wish.read(exchange, response.content)
            else:
                exchange.body = await response.read()
        exchange.whole = True
        self._judge(exchange, wish, response.headers.get("Retry-After"))
        return str(exchange.status)

    def _judge(self, exchange: Exchange, wish: Wish, retry_after: str | None) -> None:
        status = exchange.status
        if 200 <= status < 300 or (wish.plain and status == 503):
            return
        if wish.relayed is not None and 400 <= status < 500 and self.lied(wish.relayed, exchange):
            return
        if status not in UNLUCKY | wish.also | self._too_large(exchange):
            known = "an unexpected status" if status in TYPES else "no status of the contract"
            self.wrong(exchange, f"{known}: {exchange.body[:300]!r}", "500" if status == 500 else "status")
        elif (fault := wrong_with_error(status, exchange.body, exchange.request_id)) is not None:
            self.wrong(exchange, fault, "error body")
        elif status in {429, 503} and not (retry_after or "").isdigit():
            self.wrong(exchange, f"Retry-After is {retry_after!r}: {exchange.body[:200]!r}", "error body")

    def _too_large(self, exchange: Exchange) -> set[int]:
        """Return 422 where a model service may have said that the input is too large."""
        faults = self.player.wrong("", exchange.began) if self.player else ()
        return {422} if any(fault.what == "lie:too-large" for fault in faults) else set()

    def _lost(self, exchange: Exchange, kills: int, wish: Wish, how: str) -> str:
        """Return the outcome of a request without a whole answer, which is right only where the server was killed."""
        if kills != self._server.kills or self._server.away:
            return "server killed"
        faults = self.player.wrong(wish.relayed, exchange.began) if self.player and wish.relayed else ()
        if faults and exchange.status == 200:
            return "cut off"  # half of a relayed answer, which nobody can take for a whole one
        tasks = "".join(f"\n    {place}" for place in self._server.tasks())
        self.wrong(exchange, f"{how} after {time.monotonic() - exchange.began:.1f} s; tasks:{tasks}", "no answer")
        return how
