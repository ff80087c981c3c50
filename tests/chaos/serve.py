"""`hartonomous` as it is, but that it writes on standard error where each of its tasks stands when SIGUSR1 comes."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import orjson

from hartonomous.__main__ import main

MARK = b"TASKS "
"""What the line begins with in which the tasks stand as a list in JSON."""


def _tell(number: int, frame: FrameType | None) -> None:
    tasks = [" < ".join(_places(task.get_coro())) for task in asyncio.all_tasks()]
    sys.stderr.buffer.write(MARK + orjson.dumps(tasks) + b"\n")
    sys.stderr.buffer.flush()


def _places(waiting: Any) -> Iterator[str]:
    """Yield where a coroutine stands, and what it waits for, from the outside in."""
    while (code := getattr(waiting, "cr_code", None) or getattr(waiting, "gi_code", None)) is not None:
        where = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        yield f"{code.co_qualname}:{where.f_lineno if where is not None else '?'}"
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _tell)
    sys.exit(main())
