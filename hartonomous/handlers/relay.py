"""A backend's answer to the client, byte for byte, as it arrives.

Bytes are passed, not parsed. Reading from the backend and writing to the client fail in different places, so that a
client that left never counts against the backend. Leaving early closes the backend's connection, which frees its
slot.
"""

from __future__ import annotations

import aiohttp
from aiohttp import hdrs, web

from hartonomous import codec
from hartonomous.clients.pool import Pool
from hartonomous.clients.status import raise_for_status
from hartonomous.core.call import Call
from hartonomous.errors import BackendError
from hartonomous.handlers.stream import ClientGoneError, begin, finish, write
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


async def relay(request: web.Request, pool: Pool, path: str, body: bytes, call: Call) -> web.StreamResponse:
    """Send `body` to the backend and pass its answer on.

    Raises what `Pool.open` and `raise_for_status` raise, as long as nothing has gone to the client.
    """
    async with pool.open("POST", path, call, body) as upstream:
        if not _passes(upstream.status):
            content = await pool.read(upstream)
            raise_for_status(pool.name, upstream.status, content, upstream.headers)
        response = web.StreamResponse(status=upstream.status, headers=_headers(upstream))
        if upstream.content_type == codec.SSE:
            await _relay_events(request, response, upstream, pool, call)
        else:
            await _relay_body(request, response, upstream)
        return response


def _passes(status: int) -> bool:
    """Whether an answer of this status is the caller's: success, and the caller's own faults."""
    return 200 <= status < 300 or (400 <= status < 500 and status not in {401, 403})


def _headers(upstream: aiohttp.ClientResponse) -> dict[str, str]:
    named = {name.strip().lower() for name in upstream.headers.get(hdrs.CONNECTION, "").split(",")}
    return {
        name: value
        for name, value in upstream.headers.items()
        if (lower := name.lower()) not in _DROPPED and lower not in named and not lower.startswith("access-control-")
    }


async def _relay_body(request: web.Request, response: web.StreamResponse, upstream: aiohttp.ClientResponse) -> None:
    """Pass a body on. Its first bytes are there before the status goes out; later a failure cuts the connection."""
    data = await upstream.content.readany()
    try:
        await begin(response, request)
        while data:
            await write(response, data)
            data = await upstream.content.readany()
        await finish(response)
    except ClientGoneError:
        logger.debug("the client left a relayed answer")


async def _relay_events(
    request: web.Request, response: web.StreamResponse, upstream: aiohttp.ClientResponse, pool: Pool, call: Call
) -> None:
    """Pass a stream of events on; one that breaks, or ends without `[DONE]`, ends with an error event instead."""
    try:
        await begin(response, request)
        if not await _pass_events(response, upstream):
            pool.count_failure("broken")
            logger.bind(request_id=call.request_id, service=pool.name).warning("a stream broke off")
            failure = BackendError(f"The {pool.name} service broke its stream off.")
            await write(response, b"data: " + codec.error_body(failure, call.request_id) + b"\n\n")
        await finish(response)
    except ClientGoneError:
        logger.bind(request_id=call.request_id).debug("the client left a stream")


async def _pass_events(response: web.StreamResponse, upstream: aiohttp.ClientResponse) -> bool:
    """Pass whole events on as they come; return whether the stream ended as it should.

    The beginning of an event waits for its end, so that a stream that breaks never leaves half of one behind.
    """
    waiting = tail = b""
    try:
        async for data in upstream.content.iter_any():
            waiting += data
            end = _end_of_events(waiting)
            if end:
                await write(response, waiting[:end])
                tail = (tail + waiting[:end])[-_TAIL:]
                waiting = waiting[end:]
    except (aiohttp.ClientError, TimeoutError, ConnectionError):
        return False
    if not (tail + waiting).rstrip().endswith(_DONE):
        return False
    if waiting:
        await write(response, waiting)
    return True


def _end_of_events(data: bytes) -> int:
    """Return where the last whole event in `data` ends, 0 when there is none; a huge one is not waited for."""
    if len(data) > _MAX_EVENT:
        return len(data)
    ends = [data.rfind(mark) + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if mark in data]
    return max(ends, default=0)
