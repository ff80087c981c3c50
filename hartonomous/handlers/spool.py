"""Bytes on their way to a client that does not read yet: a queue of bounded memory over a bounded temporary file.

The newest bytes are in memory; when these are too many they are appended to a file without a name, which is used as a
ring, so that it never grows beyond its limit. Who fills the queue never waits for the client: `room` is there to be
asked before more work is begun. Without room on the disk the queue lives in memory alone.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from io import FileIO
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from hartonomous.handlers.offload import in_thread
from hartonomous.log import logger

P = ParamSpec("P")
T = TypeVar("T")

MEMORY_BYTES = 65_536
PIECE_BYTES = 16_384


class Spool:
    """A queue of bytes; `limit` is of its file. Used as a context manager, which closes the file."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._newest = bytearray()
        self._file: FileIO | None = None
        # Places in the endless stream of bytes that goes through the file: a byte's place in it is modulo the limit.
        self._read = 0
        self._written = 0
        self._moving = False
        self._operations = 0
        self._usable = limit > 0
        self._ended = False
        self._closed = False
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()

    @property
    def size(self) -> int:
        """How many bytes have been put and not been taken."""
        return len(self._newest) + self._written - self._read

    @property
    def has_room(self) -> bool:
        """Whether more should be put in."""
        return len(self._newest) <= MEMORY_BYTES

    async def room(self) -> None:
        """Wait until there is room."""
        while not self.has_room:
            self._drained.clear()
            await self._drained.wait()

    async def put(self, data: bytes) -> None:
        """Append bytes, also beyond the limit: what is under way has to go somewhere."""
        self._newest += data
        self._filled.set()
        while self._must_move():
            await self._move()

    def end(self) -> None:
        """Say that nothing more comes."""
        self._ended = True
        self._filled.set()

    async def get(self) -> bytes:
        """Return the oldest bytes, at most `PIECE_BYTES` of them, as soon as there are any; nothing at the end."""
        while True:
            if self._read < self._written:
                return await self._from_file()
            if self._newest and not self._moving:
                piece = bytes(self._newest[:PIECE_BYTES])
                del self._newest[:PIECE_BYTES]
                self._drained.set()
                return piece
            if self._ended and not self._moving:
                return b""
            self._filled.clear()
            await self._filled.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._close_file()

    def _must_move(self) -> bool:
        if self._moving or self._closed or not self._usable or self.has_room:
            return False
        return len(self._newest) <= self._limit - (self._written - self._read)

    async def _move(self) -> None:
        """Move what is in memory to the file."""
        piece = bytes(self._newest)
        self._newest.clear()
        self._moving = True
        try:
            await self._with_file(_write_ring, piece, self._written % self._limit, self._limit)
            self._written += len(piece)
        except OSError as error:
            self._newest[:0] = piece
            self._usable = False
            logger.bind(cause=error.strerror).warning("the temporary file of a stream cannot be written")
        finally:
            self._moving = False
            self._filled.set()
            self._drained.set()

    async def _from_file(self) -> bytes:
        place = self._read % self._limit
        size = min(PIECE_BYTES, self._written - self._read, self._limit - place)
        piece = await self._with_file(_read_at, size, place)
        self._read += size
        return piece

    async def _with_file(self, work: Callable[Concatenate[FileIO, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._operations += 1
        try:
            if self._file is None:
                self._file = _temporary()
            return await in_thread(work, self._file, *args, **kwargs)
        finally:
            self._operations -= 1
            self._close_file()

    def _close_file(self) -> None:
        """Close the file once nobody needs it."""
        if self._closed and not self._operations and self._file is not None:
            self._file.close()

    def __repr__(self) -> str:
        return f"<Spool size={self.size} on_disk={self._written - self._read}>"


def _temporary() -> FileIO:
    # Not in a thread: a cancellation would lose it, and with it who closes it.
    return tempfile.TemporaryFile(buffering=0)


def _write_ring(file: FileIO, data: bytes, place: int, limit: int) -> None:
    """Write `data` from `place` on, and from the beginning when the end is reached. Raises OSError."""
    first = data[: limit - place]
    _write_at(file, first, place)
    _write_at(file, data[len(first) :], 0)


def _write_at(file: FileIO, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file.fileno(), view, place)
        view, place = view[written:], place + written


def _read_at(file: FileIO, size: int, place: int) -> bytes:
    parts = []
    while size:
        part = os.pread(file.fileno(), size, place)
        if not part:
            raise OSError("the temporary file is shorter than it was")
        parts.append(part)
        size, place = size - len(part), place + len(part)
    return b"".join(parts)
