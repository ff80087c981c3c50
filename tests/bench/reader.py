"""A client of many streams at once, which sees how long each token was under way:
`python -m tests.bench.reader PORT STREAMS WAVES HEAD APART_S`.

HEAD is a file with a whole request, which is sent for each stream APART_S after the one before. The tokens say when
they were sent (see `tests.bench.pacer`); when they came is what the kernel noted as it put them before the reader, who
may look a little later: what it takes to read 40,000 pieces a second is not part of what is measured. Prints as JSON
the times in ms, sorted, at each of a thousand steps from the shortest to the longest, and how many tokens there were.
"""

from __future__ import annotations

import json
import re
import select
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_TOKEN = re.compile(rb'"t(\d+)"')
# The last chunk, behind the last event.
_END, _LAST = b"0\r\n\r\n", b"\n\r\n0\r\n\r\n"
_LIMIT_S = 120.0
# Between two looks: a fifth of the time between two tokens of a stream, of which only the last would have a time.
_LOOKS_S = 0.001
# Linux' SO_TIMESTAMPNS (socket(7)), which Python does not name: seconds and nanoseconds beside what is read.
_NOTE_TIMES = 35
_TIME = struct.Struct("qq")


class Reader:
    """Connections over which streams are read, wave after wave."""

    def __init__(self, port: int, streams: int, request: bytes, apart_s: float) -> None:
        self._request = request
        self._apart_s = apart_s
        self._epoll = select.epoll()
        self._sockets = {}
        for _ in range(streams):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, _NOTE_TIMES, 1)
            self._sockets[connection.fileno()] = connection
            self._epoll.register(connection.fileno(), select.EPOLLIN)
        self._came: dict[int, list[tuple[int, bytes]]] = {number: [] for number in self._sockets}
        self.times: list[int] = []

    def wave(self) -> None:
        """Ask for a stream over each connection, and read all of them to their ends."""
        for connection in self._sockets.values():
            connection.sendall(self._request)
            if self._apart_s:
                time.sleep(self._apart_s)
        ends = time.monotonic() + _LIMIT_S
        left = len(self._sockets)
        while left:
            if time.monotonic() > ends:
                raise RuntimeError(f"{left} streams did not end")
            for number, _ in self._epoll.poll(1.0):
                left -= self._read(number)
            time.sleep(_LOOKS_S)
        # What can wait is not done while others measure.
        for came in self._came.values():
            self.times += times_of(came)
            came.clear()

    def _read(self, number: int) -> bool:
        """Read what is there; return whether the stream has ended."""
        data, beside, _, _ = self._sockets[number].recvmsg(1 << 14, 64)
        self._came[number].append((_noted(beside), data))
        if not data:
            raise RuntimeError(f"a stream broke off: {b''.join(data for _, data in self._came[number])[:1_000]!r}")
        # A head may end like that as well.
        return data.endswith(_END) and _LAST in b"".join(piece for _, piece in self._came[number][-2:])


def _noted(beside: Sequence[tuple[int, int, bytes]]) -> int:
    """Return when the last of what was read came, in nanoseconds; now, where the kernel does not say."""
    for _, kind, value in beside:
        if kind == _NOTE_TIMES:
            seconds, nanoseconds = _TIME.unpack(value)
            return int(seconds * 1_000_000_000 + nanoseconds)
    return time.time_ns()


def times_of(came: Sequence[tuple[int, bytes]]) -> list[int]:
    """Return how long each token was under way, by when which pieces of its stream came."""
    if b" 200 " not in came[0][1][:16]:
        raise RuntimeError(f"no stream: {came[0][1][:500]!r}")
    times, rest = [], b""
    for now, piece in came:
        data = rest + piece
        whole = data.rfind(b"\n\n") + 2
        if whole < 2:
            rest = data
            continue
        times += [now - int(sent) for sent in _TOKEN.findall(data, 0, whole)]
        rest = data[whole:]
    return times


def steps(times: Sequence[int]) -> list[float]:
    """Return a thousand and one times in ms, from the shortest to the longest, evenly through the sorted ones."""
    ordered = sorted(times)
    return [ordered[round(step / 1_000 * (len(ordered) - 1))] / 1e6 for step in range(1_001)]


def main(arguments: list[str]) -> None:
    """Read as the command line says."""
    port, streams, waves, head, apart_s = arguments
    reader = Reader(int(port), int(streams), Path(head).read_bytes(), float(apart_s))
    for _ in range(int(waves)):
        reader.wave()
    print(json.dumps({"tokens": len(reader.times), "steps": steps(reader.times)}))


if __name__ == "__main__":
    main(sys.argv[1:])
