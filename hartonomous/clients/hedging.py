"""Two calls for one answer: the second begins when the first takes too long, and what comes first counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def race(first: Coroutine[Any, Any, T], second: Callable[[], Coroutine[Any, Any, T] | None], delay_s: float) -> T:
    """Run `first`; without an outcome after `delay_s` seconds, run `second()` beside it (None: no hedge is possible).

    The first success is returned. A call that fails leaves the other to decide; when both fail, the error of `first`
    is raised. Whatever ends the race, cancellation too, no call outlives it: what still runs is cancelled, and its
    cleanup is waited for. A result that loses is dropped, so it must be a plain value, nothing that wants closing.

    Await it right where `first` is made: a coroutine that is never awaited warns.
    """
    calls = [asyncio.create_task(first)]
    try:
        await asyncio.wait(calls, timeout=delay_s)
        if not calls[0].done() and (hedge := second()) is not None:
            calls.append(asyncio.create_task(hedge))
        return (await _winner(calls)).result()
    finally:
        await _end(calls)


async def _winner(calls: list[asyncio.Task[T]]) -> asyncio.Task[T]:
    """Wait for the first success; without one, it is the first call that tells what went wrong."""
    while True:
        for call in calls:
            if call.done() and not _has_failed(call):
                return call
        running = [call for call in calls if not call.done()]
        if not running:
            return calls[0]
        await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)


async def _end(calls: list[asyncio.Task[T]]) -> None:
    """Cancel what runs and wait for it; a cancellation meanwhile does not cut the cleanup short: it is raised after."""
    interrupted: asyncio.CancelledError | None = None
    for call in calls:
        call.cancel()
    while running := [call for call in calls if not call.done()]:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError as error:
            interrupted = error
    for call in calls:
        _has_failed(call)  # a loser's error is nobody's: asking for it marks it as seen
    if interrupted is not None:
        raise interrupted


def _has_failed(call: asyncio.Task[T]) -> bool:
    return call.cancelled() or call.exception() is not None
