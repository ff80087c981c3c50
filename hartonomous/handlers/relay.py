"""A backend's answer to the client, byte for byte, as it arrives.

Bytes are passed, not parsed. Reading from the backend and writing to the client fail in different places, so that a
client that left never counts against the backend. Leaving early closes the backend's connection, which frees its
slot.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import hdrs, web

from hartonomous import codec, tracing
from hartonomous.clients.opened import Opened
from hartonomous.clients.pool import Pool
from hartonomous.clients.status import raise_for_status
from hartonomous.core.call import Call
from hartonomous.core.usage import UsageReader
from hartonomous.errors import HartonomousError
from hartonomous.handlers import metering
from hartonomous.handlers.stream import ClientGoneError, ClientStream
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
_DONE = b"[DONE]"
_TAIL = 32
_MAX_EVENT = 1024 * 1024


async def relay(
    request: web.Request, pool: Pool, path: str, body: bytes, call: Call, *, is_idempotent: bool = False
) -> web.StreamResponse:
    """Send `body` to the backend and pass its answer on. What is idempotent is sent again where that may help.

    Raises what `Pool.open` and `raise_for_status` raise, as long as nothing has gone to the client, and
    InvalidRequestError when the backend stumbled over a body that is no JSON.
    """
    if is_idempotent:
        codec.loads_request(body)  # the backend's 500 to what is no JSON is not its failure, and not to be repeated
    response = web.StreamResponse()
    reader = metering.reader_of(request, body)
    try:
        async with (
            metering.relayed(request, reader),
            pool.open("POST", path, call, body, is_idempotent=is_idempotent) as opened,
        ):
            if not _passes(opened.status):
                content = await opened.read()
                codec.loads_request(body)
                raise_for_status(pool.name, opened.status, content, opened.headers)
            response = web.StreamResponse(status=opened.status, headers=_headers(opened))
            if opened.content_type == codec.SSE:
                await _relay_events(request, ClientStream(request, response), opened, call, reader)
            else:
                await _relay_body(ClientStream(request, response), opened, reader)
    except ClientGoneError:
        logger.bind(request_id=call.request_id).debug("the client left a relayed answer")
    except HartonomousError as error:
        if not response.prepared:
            raise
        _cut(request, error, call)
    return response


def _cut(request: web.Request, error: HartonomousError, call: Call) -> None:
    """End the connection in the middle of an answer that cannot be completed: the client must not take it for whole."""
    tracing.broken_off(call, error)
    logger.bind(request_id=call.request_id, code=error.error_code).warning("an answer broke off")
    if request.transport is not None:
        request.transport.abort()


def _passes(status: int) -> bool:
    """Whether an answer of this status is the caller's: success, and the caller's own faults."""
    return 200 <= status < 300 or (400 <= status < 500 and status not in {401, 403})


def _headers(opened: Opened) -> dict[str, str]:
    named = {name.strip().lower() for name in opened.headers.get(hdrs.CONNECTION, "").split(",")}
    if opened.content_type == codec.SSE:
        named.add("content-length")  # an error event may follow
    return {
        name: value
        for name, value in opened.headers.items()
        if (lower := name.lower()) not in _DROPPED and lower not in named and not lower.startswith("access-control-")
    }


def _pieces(opened: Opened, reader: UsageReader | None) -> AsyncGenerator[bytes]:
    return opened.pieces() if reader is None else metering.read_by(reader, opened.pieces())


async def _relay_body(client: ClientStream, opened: Opened, reader: UsageReader | None) -> None:
    """Pass a body on. Its first bytes are there before the status goes out; later a failure cuts the connection."""
    async with aclosing(_pieces(opened, reader)) as pieces:
        data = await anext(pieces, b"")
        await client.begin()
        if data:
            await client.write(data)
        async for data in pieces:
            await client.write(data)
    await client.finish()


async def _relay_events(
    request: web.Request, client: ClientStream, opened: Opened, call: Call, reader: UsageReader | None
) -> None:
    """Pass a stream of events on; one that breaks, or ends without `[DONE]`, ends with an error event instead."""
    await client.begin()
    try:
        await _pass_events(request, client, opened, reader)
    except HartonomousError as error:
        tracing.broken_off(call, error)
        logger.bind(request_id=call.request_id, code=error.error_code).warning("a stream broke off")
        await client.write(b"data: " + codec.error_body(error, call.request_id) + b"\n\n")
    await client.finish()


async def _pass_events(request: web.Request, client: ClientStream, opened: Opened, reader: UsageReader | None) -> None:
    """Pass whole events on as they come; raise what breaks the stream, BackendError when `[DONE]` is missing.

    The beginning of an event waits for its end, so that a stream that breaks never leaves half of one behind.
    """
    waiting = tail = b""
    async with aclosing(_pieces(opened, reader)) as pieces:
        async for data in pieces:
            waiting += data
            end = _end_of_events(waiting)
            if end:
                metering.first_token(request)
                await client.write(waiting[:end])
                tail = (tail + waiting[:end])[-_TAIL:]
                waiting = waiting[end:]
    if not (tail + waiting).rstrip().endswith(_DONE):
        raise opened.broken()
    if waiting:
        await client.write(waiting)


def _end_of_events(data: bytes) -> int:
    """Return where the last whole event in `data` ends, 0 when there is none; a huge one is not waited for."""
    if len(data) > _MAX_EVENT:
        return len(data)
    ends = [data.rfind(mark) + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if mark in data]
    return max(ends, default=0)
