"""A backend's stream of events to the client: whole events only, in the moment in which they come.

The beginning of an event waits for its end, so that a stream that breaks never leaves half of one behind.
"""

from __future__ import annotations

from aiohttp import web

from hartonomous.handlers import metering
from hartonomous.handlers.stream import ClientStream

_DONE = b"[DONE]"
_TAIL = 32
_MAX_EVENT = 1024 * 1024


class Events:
    """Passes events on that come in pieces of any size."""

    __slots__ = ("_begun", "_client", "_relayed", "_request", "_tail", "_waiting")

    def __init__(self, request: web.Request, client: ClientStream, relayed: metering.Relayed) -> None:
        self._request = request
        self._client = client
        self._relayed = relayed
        self._begun = False
        # What was sent last, and what has come of the event after it.
        self._tail = b""
        self._waiting = b""

    def take(self, data: bytes) -> None:
        """Send the events that these bytes complete. Raises ClientGoneError."""
        self._relayed.feed(data)
        # As a rule a piece is an event, or several.
        if self._waiting or not data.endswith(b"\n\n"):
            data = self._completed(data)
            if not data:
                return
        if not self._begun:
            self._begun = True
            metering.first_token(self._request)
        self._client.send(data)
        self._tail = data if len(data) >= _TAIL else (self._tail + data)[-_TAIL:]

    def _completed(self, data: bytes) -> bytes:
        """Return what is whole with these bytes."""
        data = self._waiting + data
        end = _end_of_events(data)
        self._waiting = data[end:]
        return data[:end]

    @property
    def rest(self) -> bytes:
        """What has come behind the last event."""
        return self._waiting

    @property
    def are_done(self) -> bool:
        """Whether the stream has come to its end."""
        return (self._tail[-_TAIL:] + self._waiting).rstrip().endswith(_DONE)


def _end_of_events(data: bytes) -> int:
    """Return where the last whole event in `data` ends, 0 when there is none; a huge one is not waited for."""
    if len(data) > _MAX_EVENT:
        return len(data)
    ends = [data.rfind(mark) + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if mark in data]
    return max(ends, default=0)
