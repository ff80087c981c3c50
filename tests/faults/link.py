"""One connection through a fault proxy: two directions, each read at once and passed on as the faults of now say."""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from dataclasses import dataclass
from fcntl import ioctl
from socket import SO_LINGER, SOL_SOCKET
from termios import TIOCOUTQ
from typing import TYPE_CHECKING, Literal

from tests.faults.kinds import End, Flow

if TYPE_CHECKING:
    from tests.faults.proxy import FaultProxy

_READ = 1 << 16
# Read ahead of what is passed on, so that latency takes no throughput and a client's leaving is seen.
_AHEAD = 64
# How finely a bandwidth is dealt out.
_STEP_S = 0.02
# How often it is asked whether a peer's kernel has what was sent.
_POLL_S = 0.005


class _Ended(Exception):  # noqa: N818 - it ends a connection as the faults want, which is no error
    def __init__(self, how: End) -> None:
        super().__init__(how)
        self.how = how


@dataclass(slots=True, frozen=True)
class _Piece:
    data: bytes
    came: float
    jitter: float


class Link:
    """A client's connection and the one to the upstream that belongs to it."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.lost = False
        self._reader = reader
        self._client = _undelayed(writer)
        self._upstream: asyncio.StreamWriter | None = None
        self._connected = asyncio.Event()
        self._directions = 2

    @property
    def silent(self) -> bool:
        """Whether what comes is swallowed."""
        return self.lost or self.proxy.faults.state == "blackhole"

    @property
    def held(self) -> bool:
        """Whether everything waits where it is."""
        return self.proxy.faults.state == "hang" and not self.lost

    async def run(self) -> None:
        """Pass everything on until the connection ends."""
        how: End = "reset"
        try:
            how = await self._carried()
            if how == "close":
                await self._goodbye()
        finally:
            if how == "reset":
                self.reset()
            await self._released()

    def reset(self) -> None:
        """End both connections with a TCP reset."""
        for writer in self._writers():
            with suppress(OSError):
                # SO_LINGER with 0 s: close() sends RST at once.
                writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def sink(self, way: Literal["up", "down"]) -> asyncio.StreamWriter:
        """Return what a direction is written to, once it is connected."""
        if way == "down":
            return self._client
        await self._connected.wait()
        assert self._upstream is not None
        return self._upstream

    def finished(self) -> None:
        """Note that a direction has ended; the connection ends with the second."""
        self._directions -= 1
        if not self._directions:
            raise _Ended("close")

    async def _carried(self) -> End:
        """Carry until both directions have ended, or something ends them; return how."""
        how: End = "close"
        try:
            async with asyncio.TaskGroup() as group:
                up = _Pump(self, "up")
                group.create_task(up.read(self._reader))
                group.create_task(up.write())
                reader = await self._connect()
                down = _Pump(self, "down")
                group.create_task(down.read(reader))
                group.create_task(down.write())
        except* _Ended as ended:
            how = _how(ended)
        except* OSError:
            how = "reset"
        return how

    async def _connect(self) -> asyncio.StreamReader:
        while self.silent or self.held:
            await self.proxy.change()
        reader, writer = await asyncio.open_connection(*self.proxy.upstream)
        self._upstream = _undelayed(writer)
        self._connected.set()
        return reader

    async def _goodbye(self) -> None:
        """Say that nothing more comes, and hear the client out: closing over unread bytes would send a RST."""
        if self._upstream is not None:
            self._upstream.transport.abort()
        with suppress(OSError):
            self._client.write_eof()
            while await self._reader.read(_READ):
                pass

    def _writers(self) -> list[asyncio.StreamWriter]:
        return [self._client] if self._upstream is None else [self._client, self._upstream]

    async def _released(self) -> None:
        for writer in self._writers():
            # The kernel has everything that was to be sent, and delivers it; close() could wait for a peer for ever.
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


class _Pump:
    """One direction of a link."""

    def __init__(self, link: Link, way: Literal["up", "down"]) -> None:
        self._link = link
        self._proxy = link.proxy
        self._way: Literal["up", "down"] = way
        self._pieces: asyncio.Queue[_Piece] = asyncio.Queue(_AHEAD)
        self._round = self._proxy.round
        self._passed = 0
        self._shut = False

    def _flow(self) -> Flow:
        """Return what is wrong now; bytes are counted anew when that has changed."""
        if self._round != self._proxy.round:
            self._round, self._passed = self._proxy.round, 0
        return self._proxy.faults.up if self._way == "up" else self._proxy.faults.down

    async def read(self, source: asyncio.StreamReader) -> None:
        """Take what comes, and note when it came."""
        loop, data = asyncio.get_running_loop(), b"-"
        while data:
            data = await source.read(_READ)
            await self._pieces.put(_Piece(data, loop.time(), self._proxy.random.uniform(-1, 1)))
        if self._way == "up":
            while not (self._link.silent or self._link.held):
                await self._proxy.change()
            # Its end cannot be passed on, but it has left.
            raise _Ended("reset")

    async def write(self) -> None:
        """Pass on what came, and at last that nothing more comes."""
        while (piece := await self._pieces.get()).data:
            await self._due(piece)
            await self._pass(piece.data)
        await self._due(piece)
        if self._link.silent:
            self._link.lost = True
        else:
            await self._shut_down()
        self._link.finished()

    async def _due(self, piece: _Piece) -> None:
        """Wait until a piece may go: its latency is over and nothing is held."""
        now = asyncio.get_running_loop().time
        while not self._link.silent:
            flow = self._flow()
            left = piece.came + flow.latency_s + piece.jitter * flow.jitter_s - now()
            if left <= 0 and not self._link.held:
                return
            await self._proxy.change(None if self._link.held else left)

    async def _pass(self, data: bytes) -> None:
        while data:
            if self._link.silent or self._shut:
                self._swallow(data)
                break
            if self._link.held:
                await self._proxy.change()
                continue
            size = self._size()
            await self._send(data[:size])
            await self._sent(min(size, len(data)))
            data = data[size:]

    async def _sent(self, size: int) -> None:
        flow = self._flow()
        if flow.end is not None and self._passed >= flow.end_after:
            await self._end(flow.end)
        elif wait := max(flow.gap_s, size / flow.bytes_per_s):
            await self._proxy.change(wait)
        else:
            await asyncio.sleep(0)

    def _size(self) -> int:
        """Return how many bytes go next."""
        flow = self._flow()
        size = min(flow.slice_bytes, max(1.0, flow.bytes_per_s * _STEP_S))
        return int(size if flow.end is None else min(size, max(0, flow.end_after - self._passed)))

    def _swallow(self, data: bytes) -> None:
        self._link.lost = self._link.silent
        self._proxy.counts.bytes_swallowed += len(data)

    async def _send(self, data: bytes) -> None:
        sink = await self._link.sink(self._way)
        sink.write(data)
        await sink.drain()
        self._passed += len(data)
        if self._way == "up":
            self._proxy.counts.bytes_up += len(data)
        else:
            self._proxy.counts.bytes_down += len(data)

    async def _end(self, how: End) -> None:
        if how != "half-close":
            await self._delivered()
            raise _Ended(how)
        await self._shut_down()

    async def _delivered(self) -> None:
        """Wait until the peer's kernel has everything: a reset drops what is still to be sent."""
        sink = await self._link.sink(self._way)
        socket = sink.get_extra_info("socket")
        while not sink.is_closing() and any(ioctl(socket.fileno(), TIOCOUTQ, bytes(4))):  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(_POLL_S)

    async def _shut_down(self) -> None:
        if not self._shut:
            self._shut = True
            (await self._link.sink(self._way)).write_eof()


def _undelayed(writer: asyncio.StreamWriter) -> asyncio.StreamWriter:
    """Let `drain` wait until the kernel has everything: what is counted as passed on has then been passed on."""
    writer.transport.set_write_buffer_limits(high=0)
    return writer


def _how(ended: BaseExceptionGroup[_Ended]) -> End:
    first = ended.exceptions[0]
    return first.how if isinstance(first, _Ended) else _how(first)
