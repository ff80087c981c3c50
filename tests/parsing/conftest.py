"""Parsers with limits that a test can reach in no time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from hartonomous.config import Parsing
from hartonomous.errors import ValidationFailedError
from hartonomous.parsing.parser import Parser
from hartonomous.parsing.protocol import Kind

MIB = 1024 * 1024

MakeParser = Callable[..., Parser]


@pytest.fixture
async def make_parser() -> AsyncIterator[MakeParser]:
    """Make parsers, with settings of `parsing` and with `idle_s` and `max_files`; they are closed after the test."""
    async with AsyncExitStack() as stack:

        def make(*, idle_s: float = 60.0, max_files: int = 200, **settings: Any) -> Parser:
            settings = {"workers": 1, "timeout_s": 30.0, **settings}
            parser = Parser(Parsing(**settings), idle_s=idle_s, max_files=max_files)
            stack.push_async_callback(parser.close)
            return parser

        yield make


async def eventually(holds: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Wait until `holds()`, and fail when it does not within `limit_s`."""
    async with asyncio.timeout(limit_s):
        while not holds():  # noqa: ASYNC110 - it looks at processes, which set no event
            await asyncio.sleep(0.01)


async def refusal(parser: Parser, data: str | bytes | Path, kind: Kind, limit_s: float = 60.0) -> str:
    """Return the code with which a file is refused, having checked that the sentence says nothing of its insides."""
    with pytest.raises(ValidationFailedError) as caught:
        await parser.parse(data, kind, limit_s)
    assert caught.value.message.endswith(".")
    assert "/" not in caught.value.message
    return caught.value.error_code


def resident_bytes(pid: int | str) -> int:
    """Return what a process holds in memory."""
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * 4096


def gone(pid: int) -> bool:
    """Whether a process has ended and was waited for."""
    return not Path(f"/proc/{pid}").exists()
