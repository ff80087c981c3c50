"""A generative service that says a token of each of its streams every few milliseconds:
`python -m tests.bench.pacer PORT STREAMS TOKENS INTERVAL_S`.

Nobody gets a token before STREAMS of them were asked for; then all run at once, their ticks spread evenly, so that
there is no burst. Each token says when it was sent, in nanoseconds of the clock that all processes share. It is one
loop over epoll: what runs beside what it measures must be light.
"""

from __future__ import annotations

import heapq
import select
import socket
import sys
import time
from dataclasses import dataclass, field

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


# All tokens have the same length: the chunk is made beforehand, but for its number.
_TOKEN = b"%x\r\n%s\r\n" % (len(_EVENT % (0, MODEL.encode())), _EVENT.replace(b"%s", MODEL.encode()))


@dataclass(slots=True)
class Peer:
    """A connection: what came of a request, what could not be sent yet, how many tokens of a stream are left."""

    socket: socket.socket
    data: bytes = b""
    unsent: bytes = b""
    left: int = 0
    closes: bool = False


@dataclass(slots=True)
class Pacer:
    """The service."""

    streams: int
    tokens: int
    interval_s: float
    epoll: select.epoll = field(default_factory=select.epoll)
    peers: dict[int, Peer] = field(default_factory=dict)
    waiting: list[Peer] = field(default_factory=list)
    due: list[tuple[float, int]] = field(default_factory=list)

    def serve(self, listening: socket.socket) -> None:
        """Serve until the process ends."""
        listening.setblocking(False)
        self.epoll.register(listening.fileno(), select.EPOLLIN)
        while True:
            timeout = max(0.0, self.due[0][0] - time.monotonic()) if self.due else -1
            for number, _ in self.epoll.poll(timeout):
                if number == listening.fileno():
                    self._accept(listening)
                elif number in self.peers:
                    self._read(self.peers[number])
            self._tick()

    def _accept(self, listening: socket.socket) -> None:
        connection, _ = listening.accept()
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
        self.waiting.append(peer)
        if len(self.waiting) == self.streams:
            self._begin()

    def _begin(self) -> None:
        """Let all streams that wait run."""
        began = time.monotonic() + self.interval_s
        for number, peer in enumerate(self.waiting):
            peer.left = self.tokens
            heapq.heappush(self.due, (began + self.interval_s * number / self.streams, peer.socket.fileno()))
        self.waiting = []

    def _tick(self) -> None:
        """Say what is due."""
        now = time.monotonic()
        while self.due and self.due[0][0] <= now:
            due, number = self.due[0]
            peer = self.peers.get(number)
            if peer is None or not peer.left:
                heapq.heappop(self.due)
                continue
            peer.left -= 1
            self._send(peer, _TOKEN % time.monotonic_ns())
            if peer.left:
                heapq.heapreplace(self.due, (due + self.interval_s, number))
            else:
                heapq.heappop(self.due)
                self._end(peer)

    def _end(self, peer: Peer) -> None:
        name = MODEL.encode()
        self._send(peer, _chunk(_LAST % (name, name, self.tokens, self.tokens + 9)) + b"0\r\n\r\n")
        if peer.closes:
            self._close(peer)

    def _send(self, peer: Peer, data: bytes) -> None:
        data = peer.unsent + data
        try:
            peer.unsent = data[peer.socket.send(data) :]
        except BlockingIOError:
            peer.unsent = data
        except ConnectionError:
            peer.left = 0

    def _close(self, peer: Peer) -> None:
        self.peers.pop(peer.socket.fileno(), None)
        if peer in self.waiting:
            self.waiting.remove(peer)
        peer.socket.close()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def main(arguments: list[str]) -> None:
    """Serve as the command line says."""
    port, streams, tokens, interval_s = arguments
    listening = socket.create_server(("127.0.0.1", int(port)), backlog=4096)
    Pacer(int(streams), int(tokens), float(interval_s)).serve(listening)


if __name__ == "__main__":
    main(sys.argv[1:])
