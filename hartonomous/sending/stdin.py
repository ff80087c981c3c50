"""Documents from standard input: lines of NDJSON, passed on as they are.

A thread reads, for a pipe, a file and a terminal alike. It is a daemon, so that a read that never returns holds up
neither Ctrl-C nor the end.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError

from hartonomous.sending.content import LINE_BYTES, LineItem
from hartonomous.sending.tally import Tally, reason

_PIECE = 262_144
_AHEAD = 2


class StdinFeed:
    """The lines of a file descriptor as documents; see `sender.Feed`."""

    def __init__(self, tally: Tally, fd: int = 0) -> None:
        self.ended = False
        self._tally = tally
        self._fd = fd
        self._items: deque[LineItem] = deque()
        self._pieces: asyncio.Queue[list[LineItem] | OSError | None] = asyncio.Queue(_AHEAD)
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    async def get(self) -> LineItem:
        """Return the next line; raise StopAsyncIteration after the last."""
        while not self._items:
            if self.ended:
                raise StopAsyncIteration
            piece = await self._pieces.get()
            if isinstance(piece, list):
                self._items.extend(piece)
                continue
            self.ended = True
            if piece is not None:
                self._tally.fail("standard input", f"cannot be read: {reason(piece)}")
        return self._items.popleft()

    def _read(self) -> None:
        cutter = _Cutter()
        try:
            while data := os.read(self._fd, _PIECE):
                self._hand_over(list(cutter.cut(data)))
            self._hand_over(list(cutter.end()))
            self._hand_over(None)
        except OSError as error:
            self._hand_over(error)

    def _hand_over(self, piece: list[LineItem] | OSError | None) -> None:
        if piece == []:
            return
        putting = self._pieces.put(piece)
        try:
            asyncio.run_coroutine_threadsafe(putting, self._loop).result()
        except (RuntimeError, CancelledError):
            # The loop is gone, and whoever wanted the lines with it.
            putting.close()
            raise SystemExit from None


class _Cutter:
    """Cuts bytes into lines. Blank ones are counted, and no documents; one that is too long is not kept."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._number = 0
        self._too_long = False

    def cut(self, data: bytes) -> Iterator[LineItem]:
        """Take in a piece; yield the lines that are complete."""
        *whole, rest = data.split(b"\n")
        for part in whole:
            self._add(part)
            yield from self.end()
        self._add(rest)

    def _add(self, part: bytes) -> None:
        if self._too_long or len(self._rest) + len(part) > LINE_BYTES:
            self._too_long = True
            self._rest.clear()
        else:
            self._rest += part

    def end(self) -> Iterator[LineItem]:
        """Yield the line that has come so far, if there is one."""
        self._number += 1
        line, too_long = bytes(self._rest), self._too_long
        self._rest.clear()
        self._too_long = False
        if too_long:
            yield LineItem(self._number, None)
        elif line.strip():
            yield LineItem(self._number, line)
