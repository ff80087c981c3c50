"""One connection, and how long its client may take: for a request's headers, and to take what it is answered.

aiohttp closes a connection between two requests (`keepalive_s`) and has no other timer. So the listener has each
connection `look` at itself now and then, which costs a request next to nothing:

- Headers: from the first byte of them, and for the first request of a connection from its beginning, so that a
  connection on which nothing is ever sent is closed as soon as one that sends slowly. While an earlier request is being
  answered the time stands still. The beginning of a request that came together with the end of the one before is not
  seen before more of it comes: until then the connection counts as one between two requests.
- Answers: what is written waits in the transport. When nothing of it is taken for `write_timeout_s` the connection is
  aborted, whatever its handler is doing; one that is being closed as well, which would wait for its client for ever.
  A client need not read while the handler says so (`keys.HELD`) or while it sends what the handler reads.

Bodies are timed where they are read (`handlers.body`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD

from hartonomous import codec, eventloop
from hartonomous.config import Server
from hartonomous.errors import RequestTimedOutError
from hartonomous.keyring import Presented
from hartonomous.keys import HELD, Peer
from hartonomous.pausing import Pausing
from hartonomous.shedding import Shedder

_LINGER_S = 10.0

HEADER_TIMEOUT = "header_timeout"
WRITE_TIMEOUT = "write_timeout"


class Connection(Pausing, Peer):
    """A connection from `address` ("" where there is none), which tells of its end."""

    __slots__ = (
        "_answering",
        "_begun",
        "_below",
        "_body",
        "_counted",
        "_head_since",
        "_host",
        "_lost",
        "_quiet_since",
        "_sent",
        "_shedder",
        "_stirred",
        "_was_paused",
        "_wire",
        "address",
    )

    def __init__(
        self,
        manager: web.Server,
        address: str,
        limits: Server,
        lost: Callable[[Connection], None],
        shedder: Shedder | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=limits.keepalive_s,
            # What nobody wants to read of a body is thrown away for so long, so that its sender sees the answer.
            lingering_time=min(_LINGER_S, limits.body_timeout_s),
            access_log=None,  # type: ignore[arg-type]  # which is how aiohttp has none
            auto_decompress=False,  # a compressed body is refused; what is thrown away of it need not be read
        )
        self.address = address
        self._host: str | None = None  # of the peer, once it was asked for
        self.presented = Presented()
        self._lost = lost
        self._shedder = shedder
        # Unlike aiohttp's own reference it stays until the end, also when the connection is being closed.
        self._wire: asyncio.Transport | None = None
        # The one that carries it with TLS: closed twice, asyncio's own forgets it, and then neither aborts nor counts;
        # uvloop's own counts nothing of what waits there.
        self._below: asyncio.Transport | None = None
        # How many requests have been noted, and the body of the newest.
        self._counted = 0
        self._body = EMPTY_PAYLOAD
        # Since when headers are waited for, and whether any of them have come.
        self._head_since: float | None = None
        self._begun = False
        self._answering: web.BaseRequest | None = None
        self._sent = 0
        self._was_paused = False
        self._stirred = False
        self._quiet_since = loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wire = self.transport
        self._below = None if self._wire is None else eventloop.below(self._wire)
        self._head_since = self._loop.time()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell of the end."""
        super().connection_lost(exc)
        self._wire = self._below = self._answering = None
        self._body = EMPTY_PAYLOAD  # which knows its connection
        self._lost(self)

    def data_received(self, data: bytes) -> None:
        """Pass on what came, and note what it is a part of."""
        in_body = not self._body.is_eof()
        shedder = self._shedder
        if shedder is not None and shedder.crowd.is_crowded and not in_body and self._is_refused(data, shedder):
            return
        super().data_received(data)
        if self._note_requests() or not data:
            return
        if in_body:
            self._stirred = True
            return
        self._begun = True
        if self._head_since is None:
            self._head_since = self._loop.time()

    def _is_refused(self, data: bytes, shedder: Shedder) -> bool:
        """Whether what came was a request that has been answered already: with a refusal."""
        # The first request of a connection may come before aiohttp has begun to wait for it: on uvloop it does.
        is_between = self._is_waiting or not self._request_count
        if self._begun or not is_between or self._close or self.transport is None or not shedder.looks_at(self):
            return False
        if self._host is None:
            self._host = self._peer
        answer = shedder.answer(data, self._host)
        if answer is None:
            return False
        self.transport.write(answer)
        now = self._loop.time()
        self._next_keepalive_close_time = now + self._keepalive_timeout
        if self._head_since is not None:  # no request before was answered in the usual way: no other timer runs
            self._head_since = now
        return True

    @property
    def _peer(self) -> str:
        peer = None if self.transport is None else self.transport.get_extra_info("peername")
        return str(peer[0]) if isinstance(peer, tuple) else ""

    def _note_requests(self) -> bool:
        """Return whether the headers of another request are complete."""
        if self._counted == self._request_count:
            return False
        self._counted, self._head_since, self._begun = self._request_count, None, False
        if self._messages:
            self._body = self._messages[-1][1]
        return True

    def _process_keepalive(self) -> None:
        """Leave a connection alone on which a request has begun: it has the time of its headers."""
        if self._head_since is None:
            super()._process_keepalive()
        else:
            self._keepalive_handle = None

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request, and all that was answered has been sent."""
        return self._is_waiting and self._wire is not None and not self._unsent

    @property
    def idle_since(self) -> float:
        """When its last request ended, or it began, in the loop's time."""
        return self._next_keepalive_close_time - self._keepalive_timeout

    def drop(self) -> None:
        """Close it at once, without a farewell that would wait for the peer."""
        self.force_close()
        if self._wire is not None:
            (self._wire if self._below is None else self._below).abort()

    def look(self, now: float, limits: Server) -> str | None:
        """Close the connection when its client has taken too long; return for what (`HEADER_TIMEOUT`, …)."""
        if self._is_stuck(now, limits.write_timeout_s):
            self.drop()
            return WRITE_TIMEOUT
        if self._note_requests() or self._head_since is None or self.transport is None:
            return None
        if not self._is_waiting:
            self._head_since = now
            return None
        if now - self._head_since < limits.header_timeout_s:
            return None
        if self._begun:
            self.transport.write(_too_slow())
        self.force_close()
        return HEADER_TIMEOUT

    @property
    def _is_waiting(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    @property
    def _unsent(self) -> int:
        """How many bytes wait to be sent, in the transport and, with TLS, in the one below it."""
        assert self._wire is not None
        if self._below is None:
            return self._wire.get_write_buffer_size()
        is_forgotten = getattr(self._wire, "_ssl_protocol", self._below) is None
        return self._below.get_write_buffer_size() + (0 if is_forgotten else self._wire.get_write_buffer_size())

    def _is_stuck(self, now: float, limit_s: float) -> bool:
        """Whether there has been something to send for so long, of which nothing was taken."""
        if self._wire is None:
            return False
        unsent, request, stirred = self._unsent, self._current_request, self._stirred
        # An answer that is there as a whole is written when its handler has ended: `unsent` only shrinks from then on.
        sent = (0 if request is None else request.writer.output_size) - unsent
        self._stirred = False
        is_excused = request is not None and (stirred or HELD in request)
        if not unsent or is_excused or sent > self._sent or request is not self._answering:
            self._answering, self._sent, self._quiet_since = request, sent, now
        return now - self._quiet_since >= limit_s


def _too_slow() -> bytes:
    """Return the answer to a request whose headers do not come."""
    request_id = os.urandom(16).hex()
    body = codec.error_body(RequestTimedOutError("The headers did not come in time."), request_id)
    head = (
        "HTTP/1.1 408 Request Timeout\r\n"
        f"Content-Type: {codec.JSON}\r\nContent-Length: {len(body)}\r\n"
        f"X-Request-ID: {request_id}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
