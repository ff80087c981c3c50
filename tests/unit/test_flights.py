"""Single flight: one call for all, each with their own end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from hartonomous.cache.flights import Flights
from hartonomous.errors import BackendUnavailableError, DeadlineExceededError, HartonomousError
from tests.pipelines.fakes import call, until


class Work:
    """Work that a test lets go on: two items, or an error behind the first one."""

    def __init__(self, flights: Flights[str]) -> None:
        self.flights = flights
        self.calls = 0
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def _run(self) -> AsyncGenerator[str]:
        self.calls += 1
        yield "first"
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        yield "last"

    async def ask(self, seconds: float = 60.0) -> list[str]:
        flight = self.flights.get("key") or self.flights.start(["key"], self._run())
        async with aclosing(flight.items(call(seconds))) as items:
            return [item async for item in items]


@pytest.fixture
def work() -> Work:
    return Work(Flights())


async def test_a_hundred_callers_share_one_call_and_each_reads_everything(work: Work) -> None:
    tasks = [asyncio.create_task(work.ask()) for _ in range(99)]
    await until(lambda: work.calls)
    tasks.append(asyncio.create_task(work.ask()))
    work.gate.set()
    assert await asyncio.gather(*tasks) == [["first", "last"]] * 100
    assert (work.calls, len(work.flights)) == (1, 0)


async def test_the_first_callers_cancellation_leaves_the_others_alone(work: Work) -> None:
    tasks = [asyncio.create_task(work.ask()) for _ in range(100)]
    await until(lambda: work.calls)
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    work.gate.set()
    assert await asyncio.gather(*tasks[1:]) == [["first", "last"]] * 99
    assert (work.calls, work.cancelled) == (1, 0)


async def test_when_the_last_one_leaves_the_call_is_cancelled_and_the_next_begins_anew(work: Work) -> None:
    tasks = [asyncio.create_task(work.ask()) for _ in range(3)]
    await until(lambda: work.calls)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert work.flights.get("key") is None
    await until(lambda: work.cancelled == 1)
    work.gate.set()
    assert await work.ask() == ["first", "last"]
    assert work.calls == 2


async def test_a_callers_own_deadline_is_theirs_alone(work: Work) -> None:
    patient = asyncio.create_task(work.ask())
    with pytest.raises(DeadlineExceededError):
        await work.ask(seconds=0.01)
    work.gate.set()
    assert await patient == ["first", "last"]
    assert work.calls == 1


async def test_an_error_is_given_to_all_who_wait_and_to_nobody_after(work: Work) -> None:
    work.error = BackendUnavailableError("down", retry_after=3)
    tasks = [asyncio.create_task(work.ask()) for _ in range(10)]
    await until(lambda: work.calls)
    work.gate.set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [(type(error), str(error)) for error in errors] == [(BackendUnavailableError, "down")] * 10
    assert {error.retry_after for error in errors if isinstance(error, HartonomousError)} == {3}
    assert len({id(error) for error in errors}) == 10, "an error that a caller changes must be its own"
    work.error = None
    assert await work.ask() == ["first", "last"]


async def test_an_error_that_nobody_waits_for_is_no_warning(work: Work) -> None:
    work.error = BackendUnavailableError("down")
    flight = work.flights.start(["key"], work._run())
    work.gate.set()
    await until(lambda: not len(work.flights))
    del flight
    gc.collect()


async def test_at_the_end_of_the_application_who_waits_is_told(work: Work) -> None:
    waiting = asyncio.create_task(work.ask())
    another = asyncio.create_task(work.ask())
    await until(lambda: work.calls)
    await work.flights.close()
    for task in (waiting, another):
        with pytest.raises(BackendUnavailableError):
            await task
    assert len(work.flights) == 0


async def test_a_slow_reader_keeps_nobody_waiting(work: Work) -> None:
    flight = work.flights.start(["key"], work._run())
    async with aclosing(flight.items(call())) as slow:
        assert await anext(slow) == "first"
        work.gate.set()
        assert await work.ask() == ["first", "last"]
        assert [item async for item in slow] == ["last"]


async def test_who_comes_right_after_the_end_begins_anew(work: Work) -> None:
    work.gate.set()
    for count in range(1, 4):
        assert await work.ask() == ["first", "last"]
        assert work.calls == count
