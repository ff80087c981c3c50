"""The bound on what is in flight: its order, what is too large, what a cancellation gives back."""

from __future__ import annotations

import asyncio

import pytest

from hartonomous.pipelines.window import Window
from tests.pipelines.fakes import until


async def test_who_finds_no_room_waits_in_line() -> None:
    window = Window(lambda: 10)
    await window.take(6)
    order: list[int] = []

    async def wait(size: int) -> None:
        await window.take(size)
        order.append(size)

    tasks = [asyncio.create_task(wait(size)) for size in (5, 1, 2)]
    await asyncio.sleep(0)
    assert order == []  # 1 would fit, but 5 came first
    window.give(6)
    await asyncio.gather(*tasks)
    assert order == [5, 1, 2]
    assert window.used == 8


async def test_what_is_larger_than_the_window_goes_alone() -> None:
    window = Window(lambda: 10)
    async with window.place(1_000):
        assert window.used == 10
        other = asyncio.create_task(window.take(1))
        await asyncio.sleep(0)
        assert not other.done()
    await other
    assert window.used == 1


async def test_a_cancelled_wait_lets_the_next_one_through_and_takes_nothing() -> None:
    window = Window(lambda: 10)
    await window.take(6)
    large, small = asyncio.create_task(window.take(8)), asyncio.create_task(window.take(4))
    await asyncio.sleep(0)
    large.cancel()
    await small
    assert large.cancelled()
    assert window.used == 10


async def test_a_place_given_at_the_moment_of_cancellation_is_given_back() -> None:
    window = Window(lambda: 1)
    await window.take(1)
    waiting = asyncio.create_task(window.take(1))
    await asyncio.sleep(0)
    window.give(1)  # the turn is given
    waiting.cancel()  # and the task cancelled before it wakes
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert window.used == 0


async def test_a_place_is_given_back_whatever_happens() -> None:
    window = Window(lambda: 3)
    with pytest.raises(ZeroDivisionError):
        async with window.place(2):
            raise ZeroDivisionError
    await until(lambda: window.used == 0)
    assert repr(window) == "<Window used=0 size=3 waiting=0>"


async def test_a_window_that_grows_takes_more_and_one_that_shrinks_waits_until_enough_is_given_back() -> None:
    size = 2
    window = Window(lambda: size)
    held = [await window.take(2)]
    size = 6
    held.append(await window.take(4))
    size = 3
    waiting = asyncio.create_task(window.take(100))
    window.give(held.pop())
    await asyncio.sleep(0)
    assert (waiting.done(), window.used) == (False, 2)
    window.give(held.pop())
    assert await waiting == 3
    window.give(3)
    assert window.used == 0
