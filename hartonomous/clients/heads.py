"""The heads of answers: what has the same bytes as one before, but for the number of its length, says the same.

A service's answers begin with the same few lines. aiohttp's parser and its stream take 12 µs for an answer, to look
those lines up takes 2: so an answer that came whole, in one piece, is taken for what the parser made of one like it.
What is well formed the parser alone decides: whatever it has not read before, and whatever is not plainly one whole
answer (one length, nothing behind it, a connection that stays), goes to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from aiohttp import hdrs
from multidict import CIMultiDict

# One second's dates, with what addresses and paths differ in.
_MOST = 64
_LARGEST = 2_048
# Without zeros in front, which a number of another length would not have.
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: (0|[1-9][0-9]{0,8})\r\n")
_WITHOUT_BODY = frozenset({204, 304})


class Body:
    """A body that is there: as much of aiohttp's StreamReader as an exchange asks for."""

    __slots__ = ("_data", "total_bytes")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.total_bytes = len(data)

    def is_eof(self) -> bool:
        """Whether nothing more comes."""
        return True

    def at_eof(self) -> bool:
        """Whether it has been read."""
        return not self._data

    def exception(self) -> BaseException | None:
        """Nothing can go wrong with it."""
        return None

    def read_nowait(self) -> bytes:
        """Return it, once."""
        data, self._data = self._data, b""
        return data


READ = Body(b"")
"""A body that has been read."""


class Heads:
    """The heads that were read of late from one address."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[int, bytes, CIMultiDict[str]]] = {}

    def read(self, data: bytes) -> tuple[int, Mapping[str, str], bytes] | None:
        """Return status, headers and body of an answer whose head is known; None: the parser has to read it."""
        parts = _parts(data)
        if parts is None:
            return None
        head, length, end = parts
        known = self._known.get(head)
        if known is None:
            return None
        status, before, headers = known
        if length != before:
            headers = headers.copy()
            headers[hdrs.CONTENT_LENGTH] = length.decode()
        return status, headers, data[end:]

    def learn(self, data: bytes, status: int, headers: Mapping[str, str], size: int) -> None:
        """Keep the head of an answer that the parser has just read: it had a body of so many bytes.

        It must have come whole in `data`, and leave its connection open.
        """
        parts = _parts(data)
        # With the right size it is the head's own length, and its end where the parser has seen it.
        if parts is None or int(parts[1]) != size or status < 200 or status in _WITHOUT_BODY:
            return
        if hdrs.TRANSFER_ENCODING in headers or hdrs.UPGRADE in headers:
            return
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[parts[0]] = status, parts[1], CIMultiDict(headers)


def _parts(data: bytes) -> tuple[bytes, bytes, int] | None:
    """Return the head of a whole answer without the number of its length, that number, and where its body begins."""
    found = _LENGTH.search(data, 0, _LARGEST)
    if found is None:
        return None
    start, stop = found.span(1)
    length = data[start:stop]
    end = data.find(b"\r\n\r\n", stop, _LARGEST) + 4
    return (data[:start] + data[stop:end], length, end) if end + int(length) == len(data) else None
