"""Server-sent events: bytes in, events out, and back.

The parser follows the WHATWG HTML standard, 9.2.6 "Interpreting an event stream": lines end in CR, LF or CRLF, a blank
line dispatches, a comment begins with a colon, an event that the stream's end cuts off is dropped. Input may be cut
anywhere, inside a UTF-8 sequence as well: lines are cut as bytes and decoded whole. `id` and `retry` are of no use
to a proxy and are ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

from hartonomous.errors import BackendError

PING = b": ping\n\n"
"""A comment that keeps the connection alive."""

_BOM = b"\xef\xbb\xbf"
_DATA = b"data: "
_END = b"\n\n"


@dataclass(slots=True, frozen=True)
class Event:
    """One event: its type (`message` where the stream names none) and its data, lines joined by LF."""

    event: str
    data: str


class SSEParser:
    """An incremental parser. It holds at most `max_bytes` of an unfinished event."""

    __slots__ = ("_after_cr", "_data", "_event", "_head", "_line", "_max_bytes", "_size")

    def __init__(self, max_bytes: int = 1 << 20) -> None:
        self._max_bytes = max_bytes
        self._line: list[bytes] = []  # the pieces of the line that is not finished
        self._data: list[str] = []
        self._event = ""
        self._size = 0  # bytes held in _line and _data
        self._after_cr = False
        self._head: bytes | None = b""  # until the stream's first three bytes are known not to be a BOM

    def feed(self, data: bytes) -> list[Event]:
        """Take the next bytes of the stream; return the events that they complete, in order.

        Raises `BackendError` when an event is larger than `max_bytes`.
        """
        if self._head is not None:
            data = self._skip_bom(data)
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if not self._size and not self._event and (whole := self._whole(data)) is not None:
            return whole
        events: list[Event] = []
        for piece in data.splitlines(keepends=True):
            self._grow(len(piece))
            self._line.append(piece)
            if piece.endswith((b"\n", b"\r")):
                self._end_line(events)
        self._after_cr = data.endswith(b"\r") or (self._after_cr and not data)
        return events

    def _whole(self, data: bytes) -> list[Event] | None:
        """Return the events of bytes that hold nothing else, of a line each, as a rule all; None of others."""
        if len(data) > self._max_bytes or not data.startswith(_DATA) or not data.endswith(_END) or b"\r" in data:
            return None
        texts = data[len(_DATA) : -len(_END)].split(_END + _DATA)
        if data.count(b"\n") != len(_END) * len(texts):
            return None
        return [Event("message", text.decode("utf-8", "replace")) for text in texts]

    def _skip_bom(self, data: bytes) -> bytes:
        head = (self._head or b"") + data
        if len(head) < len(_BOM) and _BOM.startswith(head):
            self._head = head
            return b""
        self._head = None
        return head.removeprefix(_BOM)

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._max_bytes:
            raise BackendError("The backend sent an event that is too large.", code="event_too_large")

    def _end_line(self, events: list[Event]) -> None:
        whole = b"".join(self._line)
        line = whole.rstrip(b"\r\n")
        self._line.clear()
        self._size -= len(whole)
        if line:
            self._take_field(line)
            return
        if self._data:
            events.append(Event(self._event or "message", "\n".join(self._data)))
        self._data.clear()
        self._event = ""
        self._size = 0

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            self._size += len(line)
        elif name == "event":
            self._event = value


def encode(event: str, data: bytes) -> bytes:
    """Return one event on the wire; `data` may have several lines. Raises ValueError for a name with a line end."""
    if "\n" in event or "\r" in event:
        raise ValueError(f"not an event name: {event!r}")
    if b"\n" not in data and b"\r" not in data:
        return b"event: %b\ndata: %b\n\n" % (event.encode(), data)
    lines = data.splitlines()
    if data.endswith((b"\n", b"\r")):
        lines.append(b"")
    return b"event: %b\n%b\n" % (event.encode(), b"".join(b"data: %b\n" % line for line in lines))
