"""Lines of a body, however it is cut into pieces."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Iterable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.handlers.ndjson import lines
from tests.effort import Work, growth
from tests.turns import counted_turns

LIMIT = 8


async def _each(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def _read(*pieces: bytes, limit: int = LIMIT) -> list[tuple[int, bytes | None]]:
    async def read() -> list[tuple[int, bytes | None]]:
        return [line async for line in lines(_each(pieces), limit)]

    return asyncio.run(read())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", []),
        (b"\n\r\n  \n\t", []),
        (b"\xef\xbb\xbf", []),
        (b"a\nb", [(1, b"a"), (2, b"b")]),
        (b"a\r\n\r\nb\r\n", [(1, b"a"), (3, b"b")]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", [(1, b"a"), (2, b"\xef\xbb\xbfb")]),
        (b"\n\xef\xbb\xbfa\n", [(2, b"\xef\xbb\xbfa")]),
        (b"a\rb\n", [(1, b"a\rb")]),
        (b"12345678\n123456789\n1\n", [(1, b"12345678"), (2, None), (3, b"1")]),
        (b"\xef\xbb\xbf12345678\r\n12345678\r\n", [(1, b"12345678"), (2, b"12345678")]),
        (b"1234567890123456789", [(1, None)]),
        (b" " * 20 + b"\na", [(1, None), (2, b"a")]),
    ],
)
def test_lines_are_numbered_and_told_without_their_ends(body: bytes, expected: list[tuple[int, bytes | None]]) -> None:
    assert _read(body) == expected
    assert _read(*(body[place : place + 1] for place in range(len(body)))) == expected


@given(st.lists(st.binary(max_size=12).filter(lambda line: b"\n" not in line), max_size=8), st.integers(1, 20))
def test_where_the_pieces_are_cut_makes_no_difference(parts: list[bytes], size: int) -> None:
    body = b"\n".join(parts)
    assert _read(*(body[place : place + size] for place in range(0, len(body), size))) == _read(body)


def test_a_line_without_end_takes_no_memory() -> None:
    piece = b"x" * 65_536
    tracemalloc.start()
    try:
        assert _read(*(piece for _ in range(1_000)), limit=100_000) == [(1, None)]
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_many_short_lines_are_read_in_linear_time() -> None:
    assert len(_read(b"{}\n" * 5_000)) == 5_000
    assert growth(lambda lines: partial(_read, b"{}\n" * lines), 5_000, 80_000, 48) < 48  # 256 if it were quadratic


def test_a_long_line_in_bytes_is_read_in_linear_time() -> None:
    assert _read(*([b"x"] * 5_000), limit=5_000) == [(1, b"x" * 5_000)]

    def prepared(size: int) -> Work:
        return lambda: _read(*([b"x"] * size), limit=size)

    assert growth(prepared, 5_000, 160_000, 100) < 100  # 32 when it is linear, 1,024 when it is quadratic


async def test_others_get_their_turn_among_blank_lines() -> None:
    async with counted_turns() as turns:
        assert [line async for line in lines(_each([b"\n" * 10_000]), LIMIT)] == []
    assert turns() > 100
