"""Blocking work on files, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run short blocking work in a thread; a cancellation waits for its end.

    A thread cannot be stopped: who went on at once might close the file that it is still writing to.
    """
    task = asyncio.create_task(asyncio.to_thread(work, *args, **kwargs))
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        task.exception()  # read, for nobody else will
        raise asyncio.CancelledError
    return task.result()
