"""The lines of a body of newline-delimited JSON, of any total length in constant memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable

_BOM = b"\xef\xbb\xbf"
# So many lines of one piece are looked at before others get their turn.
_AT_ONCE = 64


async def lines(pieces: AsyncIterable[bytes], limit: int) -> AsyncGenerator[tuple[int, bytes | None]]:
    r"""Yield the number, from 1, and the content of every line that is not blank.

    A line ends with `\n` or `\r\n`, the last one need not. The content of a line over `limit` bytes is None: it is
    thrown away as it comes. A byte order mark before the first line is left out.
    """
    line = _Line(limit, 1)
    async for piece in pieces:
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            line.add(piece[start:end])
            if not line.is_blank():
                yield line.number, line.content()
            if line.number % _AT_ONCE == 0:
                await asyncio.sleep(0)
            line = _Line(limit, line.number + 1)
            start = end + 1
        line.add(piece[start:])
    if not line.is_blank():
        yield line.number, line.content()


class _Line:
    """A line whose parts come one by one."""

    __slots__ = ("_data", "_limit", "_too_long", "number")

    def __init__(self, limit: int, number: int) -> None:
        self.number = number
        self._limit = limit
        self._data = bytearray()
        self._too_long = False

    def add(self, part: bytes) -> None:
        """Append a part, or forget all of them once they are too many; the ends that do not count are let through."""
        if self._too_long:
            return
        self._data += part
        if len(self._data) > self._limit + len(_BOM) + len(b"\r"):
            self._too_long = True
            self._data.clear()

    def is_blank(self) -> bool:
        """Whether there is nothing in it."""
        return not self._too_long and (not self._data or self._data.isspace() or self._data == _BOM)

    def content(self) -> bytes | None:
        """Return it without what surrounds it; None when that is too long."""
        data = bytes(self._data.removesuffix(b"\r"))
        if self.number == 1:
            data = data.removeprefix(_BOM)
        return None if self._too_long or len(data) > self._limit else data
