"""A backend's stream of events to the client: whole events only, each in the callback in which it comes.

No task is woken for an event: there are some 40,000 in a second. The beginning of an event waits for its end, so that a
stream that breaks never leaves half of one behind. While the client takes less than it is sent, the backend waits.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiohttp import web

from hartonomous.clients.opened import Opened
from hartonomous.handlers import metering
from hartonomous.handlers.stream import ClientGoneError, ClientStream

_DONE = b"[DONE]"
_TAIL = 32
_MAX_EVENT = 1024 * 1024


class Events:
    """Passes the events of one stream on, which may come in pieces of any size."""

    __slots__ = ("_client", "_is_speaking", "_opened", "_request", "_resuming", "_tail", "_tokens", "_waiting")

    def __init__(self, request: web.Request, client: ClientStream, opened: Opened, tokens: metering.Relayed) -> None:
        self._request = request
        self._client = client
        self._opened = opened
        self._tokens = tokens
        self._is_speaking = False
        self._resuming: asyncio.Task[None] | None = None
        # What was sent last, and what has come of the event after it.
        self._tail = b""
        self._waiting = b""

    async def relay(self) -> None:
        """Pass all of them on.

        Raises ClientGoneError, what breaks the stream (`Opened.pour`), and BackendError when `[DONE]` is missing.
        """
        try:
            await self._opened.pour(self._take)
        finally:
            self._tokens.feed_events(self._waiting)
            if self._resuming is not None:
                self._resuming.cancel()
        if not (self._tail[-_TAIL:] + self._waiting).rstrip().endswith(_DONE):
            raise self._opened.broken()
        await self._client.write(self._waiting)

    def _take(self, data: bytes) -> None:
        """Send the events that these bytes complete."""
        # As a rule a piece is an event, or several.
        if self._waiting or not data.endswith(b"\n\n"):
            data = self._completed(data)
            if not data:
                return
        if not self._is_speaking:
            self._is_speaking = True
            metering.first_token(self._request)
        self._tokens.feed_events(data)
        self._client.send(data)
        self._tail = data if len(data) >= _TAIL else (self._tail + data)[-_TAIL:]
        if self._client.is_full:
            self._opened.pause()
            self._resuming = asyncio.create_task(self._resume())

    def _completed(self, data: bytes) -> bytes:
        """Return the events that are whole with these bytes."""
        data = self._waiting + data
        end = _end_of_events(data)
        self._waiting = data[end:]
        return data[:end]

    async def _resume(self) -> None:
        """Go on when the client has taken what it was sent; one that has left instead is found out by the next send."""
        with suppress(ClientGoneError):
            await self._client.drained()
        self._opened.resume()


def _end_of_events(data: bytes) -> int:
    """Return where the last whole event in `data` ends, 0 when there is none; a huge one is not waited for."""
    if len(data) > _MAX_EVENT:
        return len(data)
    ends = [data.rfind(mark) + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if mark in data]
    return max(ends, default=0)
