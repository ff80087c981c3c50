"""A generative service that says a token of each of its streams every few milliseconds:
`python -m tests.bench.pacer PORT STREAMS TOKENS INTERVAL_S`.

Nobody gets a token before STREAMS of them were asked for; then all run at once, their ticks spread evenly, so that
there is no burst. With 0 for STREAMS each runs from the moment in which it is asked for. Each token says when it was
sent, in nanoseconds of the clock by which the kernel notes when something comes. It is one loop and one buffer: what
runs beside what it measures must be light.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import heappop, heappush

from tests.bench.backend import PLAIN, length, reply
from tests.bench.texts import MODEL

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENT = (
    b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"t%020d"}}],"created":1,"id":"chatcmpl-1",'
    b'"model":"%s","object":"chat.completion.chunk"}\n\n'
)
_LAST = (
    b'data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"created":1,"id":"chatcmpl-1",'
    b'"model":"%s","object":"chat.completion.chunk"}\n\n'
    b'data: {"choices":[],"created":1,"id":"chatcmpl-1","model":"%s","object":"chat.completion.chunk",'
    b'"usage":{"prompt_tokens":9,"completion_tokens":%d,"total_tokens":%d}}\n\n'
    b"data: [DONE]\n\n"
)
# It does not wake up more often than that, nor looks more seldom for who asks.
_SHORTEST_NS, _LONGEST_NS = 50_000, 200_000


@dataclass(slots=True)
class Peer:
    """A connection: what came of a request, whether it ends with the answer, and how many tokens it was sent."""

    socket: socket.socket
    data: bytes = b""
    closes: bool = False
    said: int = 0


@dataclass(slots=True)
class Pacer:
    """The service."""

    streams: int
    tokens: int
    interval_s: float
    listening: socket.socket
    epoll: select.epoll = field(default_factory=select.epoll)
    peers: dict[int, Peer] = field(default_factory=dict)
    waiting: list[Peer] = field(default_factory=list)
    # When the next token of a stream is due, and which; no two are due at the same time and of the same number.
    due: list[tuple[int, int, Peer]] = field(default_factory=list)

    def serve(self) -> None:
        """Serve until the process ends."""
        self.listening.setblocking(False)
        self.epoll.register(self.listening.fileno(), select.EPOLLIN)
        token, slot = _token()
        while True:
            if not self.due:
                self._look(-1)
                continue
            self._look(0)
            while self.due and self.due[0][0] <= time.monotonic_ns():
                token[slot] = b"%020d" % time.time_ns()
                self._say(token, *heappop(self.due))
            if self.due:
                until_due_ns = self.due[0][0] - time.monotonic_ns()
                time.sleep(min(max(_SHORTEST_NS, until_due_ns), _LONGEST_NS) / 1e9)

    def _say(self, token: bytearray, due: int, number: int, peer: Peer) -> None:
        """Send a token that is due; the end follows the last one where the next would be."""
        if peer.said == self.tokens:
            self._end(peer)
            return
        self._send(peer, token)
        peer.said += 1
        heappush(self.due, (due + self._interval_ns, number, peer))

    def _begin(self, peer: Peer) -> None:
        """Let a stream run; as soon as there are enough where they are to run together."""
        self.waiting.append(peer)
        if len(self.waiting) < self.streams:
            return
        running, self.waiting = self.waiting, []
        began, apart_ns = time.monotonic_ns(), self._interval_ns // len(running)
        for slot, one in enumerate(running, 1):
            one.said = 0
            heappush(self.due, (began + (slot * apart_ns if self.streams else self._interval_ns), id(one), one))

    @property
    def _interval_ns(self) -> int:
        return round(self.interval_s * 1e9)

    def _look(self, timeout_s: float) -> None:
        """Answer who asks."""
        for number, _ in self.epoll.poll(timeout_s):
            if number == self.listening.fileno():
                self._accept()
            elif number in self.peers:
                self._read(self.peers[number])

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            while True:
                connection, _ = self.listening.accept()
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.peers[connection.fileno()] = Peer(connection)
                self.epoll.register(connection.fileno(), select.EPOLLIN)

    def _read(self, peer: Peer) -> None:
        try:
            data = peer.socket.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            self._close(peer)
            return
        peer.data += data
        end = peer.data.find(b"\r\n\r\n") + 4
        if end >= 4 and len(peer.data) >= end + length(peer.data[:end]):
            head, peer.data = peer.data[:end], b""
            self._answer(peer, head)

    def _answer(self, peer: Peer, head: bytes) -> None:
        path = head.split(b" ", 2)[1].decode()
        if path != "/v1/chat/completions":
            self._send(peer, PLAIN.get(path) or reply(b"{}", status="404 Not Found"))
            return
        peer.closes = b"connection: close" in head.lower()
        self._send(peer, _HEAD)
        self._begin(peer)

    def _end(self, peer: Peer) -> None:
        name = MODEL.encode()
        self._send(peer, _chunk(_LAST % (name, name, self.tokens, self.tokens + 9)) + b"0\r\n\r\n")
        if peer.closes:
            self._close(peer)

    def _send(self, peer: Peer, data: bytes | bytearray) -> None:
        """Send it all: a whole stream fits into the buffer of a socket, and who has left does not want it."""
        try:
            peer.socket.send(data)
        except OSError:
            self._close(peer)

    def _close(self, peer: Peer) -> None:
        self.peers.pop(peer.socket.fileno(), None)
        if peer in self.waiting:
            self.waiting.remove(peer)
        peer.socket.close()


def _token() -> tuple[bytearray, slice]:
    """Return the chunk of a token, and where in it the time stands."""
    time_ = b"%020d" % 0
    token = bytearray(_chunk(_EVENT % (0, MODEL.encode())))
    start = token.index(time_)
    return token, slice(start, start + len(time_))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def main(arguments: list[str]) -> None:
    """Serve as the command line says."""
    port, streams, tokens, interval_s = arguments
    listening = socket.create_server(("127.0.0.1", int(port)), backlog=4096)
    Pacer(int(streams), int(tokens), float(interval_s), listening).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
