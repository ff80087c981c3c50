"""The queue between results and a client that does not read: bounded in memory and on disk, and in order."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous.handlers import spool as module
from hartonomous.handlers.spool import MEMORY_BYTES, PIECE_BYTES, Spool
from tests.service.application import eventually

LINE = b"x" * 999 + b"\n"


async def _all_of(spool: Spool) -> bytes:
    parts = []
    while piece := await spool.get():
        assert len(piece) <= PIECE_BYTES
        parts.append(piece)
    return b"".join(parts)


async def test_what_is_put_is_had_at_once() -> None:
    with Spool(1 << 20) as spool:
        getting = asyncio.create_task(spool.get())
        await asyncio.sleep(0)
        await spool.put(b"a\n")
        assert await getting == b"a\n"
        spool.end()
        assert await spool.get() == b""


@given(
    st.lists(st.tuples(st.integers(1, 30_000), st.integers(0, 6)), min_size=1, max_size=40),
    st.sampled_from([0, 1_000, 70_000, 150_000, 10_000_000]),
)
def test_bytes_come_out_in_order_whatever_the_limit(steps: list[tuple[int, int]], limit: int) -> None:
    async def run() -> tuple[bytes, bytes]:
        sent, had = bytearray(), bytearray()
        with Spool(limit) as spool:
            for number, (size, gets) in enumerate(steps):
                data = number.to_bytes(4, "big") * (size // 4 + 1)
                sent += data
                await spool.put(data)
                for _ in range(gets):
                    if spool.size:
                        had += await spool.get()
            spool.end()
            had += await _all_of(spool)
            assert spool.size == 0
        return bytes(sent), bytes(had)

    sent, had = asyncio.run(run())
    assert had == sent


async def test_reading_and_writing_side_by_side_keeps_the_order() -> None:
    with Spool(300_000) as spool:
        reading = asyncio.create_task(_all_of(spool))
        sent = b""
        for number in range(2_000):
            line = b"%d %s" % (number, LINE)
            sent += line
            await spool.put(line)
            if number % 7 == 0:
                await spool.room()
        spool.end()
        assert await reading == sent


async def test_memory_and_file_are_bounded_and_a_reader_makes_room() -> None:
    limit = 4 * MEMORY_BYTES
    with Spool(limit) as spool:
        lines = 0
        while spool.has_room:
            await spool.put(LINE)
            lines += 1
        assert spool.size == lines * len(LINE)
        assert limit - MEMORY_BYTES < spool.size <= limit + MEMORY_BYTES + 2 * len(LINE)
        assert spool._file is not None
        assert os.fstat(spool._file.fileno()).st_size <= limit
        waiting = asyncio.create_task(spool.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        spool.end()
        assert await _all_of(spool) == LINE * lines
        await waiting


async def test_the_file_has_no_name_and_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Spool(1 << 20) as spool:
        for _ in range(200):
            await spool.put(LINE)
        assert os.listdir(tmp_path) == []  # noqa: PTH208 - a Path would be for synchronous code
        file = spool._file
        assert file is not None
        assert not file.closed
    assert file.closed


async def test_without_room_on_the_disk_it_goes_on_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with Spool(1 << 20) as spool:
        for _ in range(150):
            await spool.put(LINE)
        monkeypatch.setattr(module, "_write_ring", full)
        for _ in range(150):
            await spool.put(LINE)
        assert not spool.has_room
        spool.end()
        assert await _all_of(spool) == LINE * 300


async def test_a_cancelled_put_leaves_no_thread_at_a_closed_file(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    real = module._write_ring

    def slow(file: Any, *args: Any) -> None:
        asyncio.run(asyncio.sleep(0.05))
        closed.append(file.closed)
        real(file, *args)

    monkeypatch.setattr(module, "_write_ring", slow)
    with Spool(1 << 20) as spool:
        putting = asyncio.create_task(spool.put(LINE * 100))
        await eventually(lambda: spool._file is not None, "the file")
        putting.cancel()
    await asyncio.wait({putting})
    assert putting.cancelled()
    assert closed == [False]
    assert spool._file is not None
    assert spool._file.closed
