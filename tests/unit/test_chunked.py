"""Chunks that came whole: what is in them, what is left to the parser, and that both ways lead to the same."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, cast

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.clients.exchange import Exchange
from hartonomous.clients.watch import Watch
from hartonomous.clients.wire import Kept, Wire
from hartonomous.core import chunked

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CONTENT = st.sampled_from([b"a", b"\r\n", b"1\r\n\r\n0\r\n\r\n", b"x" * 17, b"\n\n" * 140])
CONTENTS = st.lists(CONTENT, min_size=1, max_size=6)
# What is in a chunk, and where it is cut in two.
CHUNKS = st.lists(st.tuples(CONTENT, st.none() | st.integers(1, 20)), min_size=1, max_size=8)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@given(CONTENTS)
def test_whole_chunks_are_what_is_in_them(contents: list[bytes]) -> None:
    assert chunked.content_of(b"".join(map(chunk, contents))) == b"".join(contents)


@given(CONTENTS, st.integers(1, 400))
def test_what_is_cut_off_is_none_or_the_chunks_before(contents: list[bytes], cut: int) -> None:
    data = b"".join(map(chunk, contents))
    ends = list(accumulate(len(chunk(one)) for one in contents))
    content = chunked.content_of(data[:-cut])
    assert content is None or content == b"" or len(data) - cut in ends


@pytest.mark.parametrize(
    "data",
    [
        b"0\r\n\r\n",
        b"1\r\na\r\n0\r\n\r\n",
        b"+1\r\na\r\n",
        b"0x1\r\na\r\n",
        b" 1\r\na\r\n",
        b"1 \r\na\r\n",
        b"1_0\r\n0123456789abcdef\r\n",
        b"01\r\na\r\n",
        b"1;a=b\r\na\r\n",
        b"1\na\n",
        b"1\r\nab\r",
        b"2\r\na\r\n",
        b"1\r\na\r\r",
        b"ffffffff\r\na\r\n",
        b"\r\n",
        b"1",
    ],
)
def test_what_is_not_plainly_whole_chunks_is_left_to_the_parser(data: bytes) -> None:
    assert chunked.content_of(data) is None
    assert chunked.content_of(chunk(b"ab") + data) is None


@pytest.mark.parametrize(
    ("data", "is_before"),
    [
        (HEAD, True),
        (HEAD + chunk(b"ab"), True),
        (HEAD + b"5\r\n", False),
        (HEAD + chunk(b"ab") + b"5\r\nab", False),
        (HEAD[5:], False),
        (HEAD[:-1], False),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD, False),
    ],
)
def test_where_a_chunk_is_next(data: bytes, is_before: bool) -> None:
    assert chunked.is_before_chunk(data) is is_before


class _Transport(asyncio.Transport):
    """One that is never written to, nor closed by itself. What comes while it is held comes as soon as it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.wire: Wire | None = None
        self._is_held, self._pending = False, list[bytes]()

    def comes(self, data: bytes) -> None:
        """Let these bytes come."""
        assert self.wire is not None
        if self._is_held:
            self._pending.append(data)
        else:
            self.wire.data_received(data)

    def pause_reading(self) -> None:
        self._is_held = True

    def resume_reading(self) -> None:
        self._is_held = False
        while self._pending and not self._is_held:
            self.comes(self._pending.pop(0))

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        """Close nothing."""

    abort = close


class _Connection:
    def close(self) -> None:
        """Close nothing."""


class _Exchange(Exchange):
    def _succeeded(self) -> None:
        """Tell nobody."""

    def _gather(self, data: bytes) -> None:
        raise NotImplementedError


@dataclass
class Seen:
    """What became of a stream: its bytes, what ended it, and how many of its bytes the parser did not see."""

    taken: bytes = b""
    error: str = ""
    past: int = field(default=0, compare=False)


async def _read(pieces: list[bytes], held: frozenset[int], *, late: bool) -> Seen:
    """Give a connection these pieces; the taker holds it at those of its own that are counted in `held`.

    `late`: what comes while it is held comes all the same, as with transports that have read ahead.
    """
    loop, seen, count = asyncio.get_running_loop(), Seen(), 0
    transport = _Transport()
    transport.wire = wire = Wire(loop)
    wire.connection_made(transport)
    wire.kept, wire.connection = Kept(loop), cast("Any", _Connection())
    exchange = _Exchange(Watch(loop), loop.time() + 60, loop.time() + 60, 60, is_whole=False)
    wire.expect(exchange, is_without_body=False)

    def take(data: bytes) -> None:
        nonlocal count
        assert not exchange._is_held
        seen.taken += data
        count += 1
        if count in held:
            exchange.pause()

    wire.data_received(pieces[0])
    pouring = asyncio.create_task(exchange.pour(take))
    for at, piece in enumerate(pieces[1:]):
        (wire.data_received if late else transport.comes)(piece)
        await asyncio.sleep(0)
        if exchange._is_held and at % 3 == 2:
            exchange.resume()
    while exchange._is_held:
        exchange.resume()
    wire.connection_lost(None)
    seen.past = exchange._past
    try:
        await pouring
    except aiohttp.ClientError as error:
        seen.error = type(error).__name__
    exchange.close()
    exchange._watch.close()
    return seen


def _both_ways(pieces: list[bytes], held: frozenset[int] = frozenset(), *, late: bool = False) -> Seen:
    seen = asyncio.run(_read(pieces, held, late=late))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "is_before_chunk", lambda _: False)
        plain = asyncio.run(_read(pieces, held, late=late))
    assert seen == plain
    assert plain.past == 0
    return seen


def _pieces(chunks: list[tuple[bytes, int | None]]) -> list[bytes]:
    pieces = []
    for content, cut in chunks:
        whole = chunk(content)
        pieces += [whole] if cut is None else [whole[:cut], whole[cut:]]
    return [piece for piece in pieces if piece]


@given(
    CHUNKS,
    st.sampled_from([b"0\r\n\r\n", b"", b"zz\r\n", b"0\r\nA: b\r\n\r\n"]),
    st.frozensets(st.integers(1, 8)),
    st.booleans(),
)
def test_a_stream_in_any_pieces_is_the_same_by_both_ways(
    chunks: list[tuple[bytes, int | None]], end: bytes, held: frozenset[int], late: bool
) -> None:
    seen = _both_ways([HEAD, *_pieces(chunks), *([end] if end else [])], held, late=late)
    if end.startswith(b"0"):
        assert seen == Seen(b"".join(content for content, _ in chunks))


@given(CHUNKS, st.binary(max_size=12), st.integers(0, 300))
def test_what_is_malformed_is_so_by_both_ways(chunks: list[tuple[bytes, int | None]], wrong: bytes, where: int) -> None:
    pieces = [*_pieces(chunks), b"0\r\n\r\n"]
    piece = pieces[where % len(pieces)]
    at = where % len(piece)
    pieces[where % len(pieces)] = piece[:at] + wrong + piece[at + 1 :]
    _both_ways([HEAD, *filter(None, pieces)])


def test_whole_chunks_pass_the_parser_by() -> None:
    contents = [b"x" * size for size in (180, 181, 15, 16, 200, 4_000)]
    seen = _both_ways([HEAD, *map(chunk, contents), b"0\r\n\r\n"])
    assert seen == Seen(b"".join(contents))
    assert seen.past > 4_000
    cut = _both_ways([HEAD, chunk(b"ab")[:3], chunk(b"ab")[3:], *map(chunk, contents), b"0\r\n\r\n"])
    assert cut.past == 0
