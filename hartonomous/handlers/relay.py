"""A backend's answer to the client, byte for byte, as it arrives.

Bytes are passed, not parsed. Reading from the backend and writing to the client fail in different places, so that a
client that left never counts against the backend. Leaving early closes the backend's connection, which frees its
slot.
"""

from __future__ import annotations

import re
from functools import lru_cache

from aiohttp import hdrs, web

from hartonomous import codec, tracing
from hartonomous.clients.opened import Opened
from hartonomous.clients.pool import Pool
from hartonomous.clients.status import raise_for_status
from hartonomous.core.call import Call
from hartonomous.errors import HartonomousError
from hartonomous.handlers import metering
from hartonomous.handlers.events import Events
from hartonomous.handlers.stream import ClientGoneError, ClientStream
from hartonomous.handlers.whole import Whole
from hartonomous.keys import STATE
from hartonomous.log import logger

# What belongs to one connection or to the backend's own policy, never to our client (all lower case).
_DROPPED = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "server",
        "set-cookie",
        "date",
        "x-request-id",
        "alt-svc",
    )
)
# What a connection is said to do without naming a header.
_PLAIN = frozenset(("keep-alive", "close"))
# What aiohttp refuses to send in a header: the answer would be lost with it.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
_STREAM = b'"stream"'
_IS_TRUE = re.compile(rb"\s*:\s*true")


async def relay(
    request: web.Request, pool: Pool, path: str, body: bytes, call: Call, *, is_idempotent: bool = False
) -> web.StreamResponse:
    """Send `body` to the backend and pass its answer on. What is idempotent is sent again where that may help.

    Raises what `Pool.open` and `raise_for_status` raise, as long as nothing has gone to the client, and
    InvalidRequestError when the backend stumbled over a body that is no JSON.
    """
    if is_idempotent:
        codec.loads_request(body)  # the backend's 500 to what is no JSON is not its failure, and not to be repeated
    relayed = _Relayed(request, call, body)
    turns, is_stream = request.app[STATE].turns, not is_idempotent and _asks_for_stream(body)
    turns.streams += is_stream
    try:
        with relayed.tokens:
            async with pool.open("POST", path, call, body, is_idempotent=is_idempotent) as opened:
                if not _passes(opened.status):
                    content = await opened.read()
                    codec.loads_request(body)
                    raise_for_status(pool.name, opened.status, content, opened.headers)
                await relayed.take(opened)
    except ClientGoneError:
        logger.bind(request_id=call.request_id).debug("the client left a relayed answer")
    except HartonomousError as error:
        if relayed.response is None or not relayed.response.prepared:
            raise
        _cut(request, error, call)
    finally:
        turns.streams -= is_stream
    assert relayed.response is not None
    return relayed.response


class _Relayed:
    """An answer on its way; `response` is there once it has begun."""

    __slots__ = ("_call", "_request", "response", "tokens")

    def __init__(self, request: web.Request, call: Call, body: bytes) -> None:
        self._request = request
        self._call = call
        self.response: web.StreamResponse | None = None
        self.tokens = metering.Relayed(request, body)

    async def take(self, opened: Opened) -> None:
        """Pass an answer on. Raises what `Opened.piece` raises."""
        if opened.content_type == codec.SSE:
            await self._take_events(opened)
        else:
            await self._take_body(opened)

    async def _take_body(self, opened: Opened) -> None:
        """Take a body. Its first bytes are there before the status goes out; later a failure cuts the connection."""
        data, headers = await opened.piece(), _headers(opened)
        if len(data) == opened.length:
            # A small one is there at once, and goes out at once: headers and all in one write.
            self.tokens.whole(data)
            self.response = Whole(data, status=opened.status, headers=headers)
            return
        client = await self._begin(opened, headers)
        while data:
            self.tokens.feed(data)
            await client.write(data)
            data = await opened.piece()
        await client.finish()

    async def _take_events(self, opened: Opened) -> None:
        """Take a stream of events; one that breaks, or ends without `[DONE]`, ends with an error event instead."""
        client = await self._begin(opened, _headers(opened))
        try:
            await Events(self._request, client, opened, self.tokens).relay()
        except HartonomousError as error:
            tracing.broken_off(self._call, error)
            logger.bind(request_id=self._call.request_id, code=error.error_code).warning("a stream broke off")
            await client.write(b"data: " + codec.error_body(error, self._call.request_id) + b"\n\n")
        await client.finish()

    async def _begin(self, opened: Opened, headers: dict[str, str]) -> ClientStream:
        self.response = web.StreamResponse(status=opened.status, headers=headers)
        client = ClientStream(self._request, self.response)
        await client.begin()
        return client


def _cut(request: web.Request, error: HartonomousError, call: Call) -> None:
    """End the connection in the middle of an answer that cannot be completed: the client must not take it for whole."""
    tracing.broken_off(call, error)
    logger.bind(request_id=call.request_id, code=error.error_code).warning("an answer broke off")
    if request.transport is not None:
        request.transport.abort()


def _asks_for_stream(body: bytes) -> bool:
    """Whether a body asks for its answer as a stream, or looks like that: nothing but others' turns depends on it."""
    at = body.find(_STREAM)
    return at >= 0 and _IS_TRUE.match(body, at + len(_STREAM)) is not None


def _passes(status: int) -> bool:
    """Whether an answer of this status is the caller's: success, and the caller's own faults."""
    return 200 <= status < 300 or (400 <= status < 500 and status not in {401, 403})


def _headers(opened: Opened) -> dict[str, str]:
    """Return the headers that go on to the client."""
    passed = {
        name: value
        for name, value in opened.headers.items()
        if _is_passed(name) and (value.isprintable() or _CONTROL.search(value) is None)
    }
    if opened.content_type == codec.SSE:
        passed = _without(passed, {"content-length"})  # an error event may follow
    if (named := opened.headers.get(hdrs.CONNECTION)) is not None and named not in _PLAIN:
        passed = _without(passed, {name.strip().lower() for name in named.split(",")})
    return passed


@lru_cache(maxsize=256)
def _is_passed(name: str) -> bool:
    """Whether a header of this name goes on to the client; backends have few, each time the same."""
    lower = name.lower()
    return lower not in _DROPPED and not lower.startswith("access-control-")


def _without(headers: dict[str, str], dropped: set[str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in dropped}
