"""The threads that compute: few at once, earlier ones first, and their places whoever leaves."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from hartonomous.pipelines.threads import Threads


class Work:
    """Work that goes on until it is let go; `has_begun` counts what has."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._go = Event()
        self.has_begun = asyncio.Semaphore(0)
        self.began: list[str] = []
        self.active = self.most = 0

    def start(self, name: str, number: int | None = None) -> asyncio.Task[str]:
        number = self._threads.number() if number is None else number
        return asyncio.create_task(self._threads.run(number, self._do, name))

    def finish(self) -> None:
        self._go.set()

    def _do(self, name: str) -> str:
        self.began.append(name)
        self.active += 1
        self.most = max(self.most, self.active)
        self._loop.call_soon_threadsafe(self.has_begun.release)
        assert self._go.wait(30)
        self.active -= 1
        return name


@pytest.fixture
async def work() -> Work:
    return Work(Threads())


async def began(work: Work, count: int) -> None:
    for _ in range(count):
        await work.has_begun.acquire()


async def test_no_more_than_two_compute_at_once(work: Work) -> None:
    tasks = [work.start(name) for name in "abcdef"]
    await began(work, 2)
    work.finish()
    assert await asyncio.gather(*tasks) == list("abcdef")
    assert work.most <= 2


async def test_the_next_place_is_of_who_came_first() -> None:
    threads = Threads()
    first, second = Work(threads), Work(threads)
    held = first.start("a")  # to the end: where two places come free side by side, either may begin first
    second.start("b")
    await began(first, 1)
    await began(second, 1)
    later = [second.start(name, number) for name, number in (("late", 30), ("early", 10), ("middle", 20))]
    await asyncio.sleep(0)
    second.finish()
    await asyncio.gather(*later)
    assert second.began == ["b", "early", "middle", "late"]
    first.finish()
    await held


async def test_what_is_cancelled_while_it_waits_never_runs(work: Work) -> None:
    first = [work.start(name) for name in "ab"]
    await began(work, 2)
    waiting = work.start("never")
    behind = work.start("behind")
    await asyncio.sleep(0)
    waiting.cancel()
    work.finish()
    assert await asyncio.gather(*first, behind) == ["a", "b", "behind"]
    assert waiting.cancelled()
    assert "never" not in work.began


async def test_what_is_cancelled_as_it_computes_has_its_place_until_it_is_done(work: Work) -> None:
    left = [work.start(name) for name in "ab"]
    await began(work, 2)
    for task in left:
        task.cancel()
    await asyncio.wait(left)
    behind = [work.start(name) for name in "cd"]
    await asyncio.sleep(0)
    assert sorted(work.began) == ["a", "b"]
    work.finish()
    await asyncio.gather(*behind)
    assert work.most == 2


async def test_a_place_that_comes_in_the_moment_of_the_cancellation_is_passed_on() -> None:
    threads = Threads()
    first, second = Work(threads), Work(threads)
    held = [first.start("a"), second.start("b")]
    await began(first, 1)
    await began(second, 1)
    waiting, behind = first.start("never"), first.start("behind")
    await asyncio.sleep(0)
    first.finish()
    await asyncio.wait(held[:1])
    waiting.cancel()  # its turn may have come by now
    assert await behind == "behind"
    second.finish()
    await asyncio.wait(held[1:])
    assert await threads.run(threads.number(), lambda: "free") == "free"


async def test_what_the_work_raises_comes_out_and_its_place_is_free() -> None:
    threads = Threads()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await threads.run(threads.number(), lambda: 1 / 0)


async def test_where_no_thread_can_be_started_the_place_is_free_again() -> None:
    class Exhausted(ThreadPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            raise RuntimeError("can't start new thread")

    threads, loop = Threads(), asyncio.get_running_loop()
    loop.set_default_executor(Exhausted())
    for _ in range(3):
        with pytest.raises(RuntimeError):
            await threads.run(threads.number(), lambda: None)
    loop.set_default_executor(ThreadPoolExecutor())
    tasks = [asyncio.create_task(threads.run(threads.number(), lambda: "free")) for _ in range(3)]
    assert await asyncio.gather(*tasks) == ["free"] * 3


async def test_what_fails_after_whoever_asked_has_left_is_told_nobody() -> None:
    threads, go, told = Threads(), Event(), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def fail() -> None:
        go.wait(30)
        raise ZeroDivisionError

    left = [asyncio.create_task(threads.run(threads.number(), fail)) for _ in range(2)]
    await asyncio.sleep(0)
    for task in left:
        task.cancel()
    await asyncio.wait(left)
    del left, task  # their frames know of it
    go.set()
    assert await threads.run(threads.number(), lambda: "next") == "next"
    assert await threads.run(threads.number(), lambda: "next") == "next"
    gc.collect()
    assert not told
