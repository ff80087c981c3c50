"""A call and its hedge: who wins, what errors mean, and that nothing outlives the race."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from hartonomous.clients.hedging import race

NO_TIME = 0.0
LONG = 30.0


class Call:
    """A call that a test ends as it likes, and that cleans up over as many awaits as the test wants."""

    def __init__(self, cleanup: int = 0) -> None:
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.started = asyncio.Event()
        self.over = asyncio.Event()
        self._cleanup = cleanup

    async def run(self) -> str:
        self.started.set()
        try:
            return await self.outcome
        finally:
            try:
                for _ in range(self._cleanup):
                    await asyncio.sleep(0)
            finally:
                self.over.set()

    @property
    def ended(self) -> bool:
        return self.over.is_set()

    def succeed(self, answer: str) -> None:
        self.outcome.set_result(answer)

    def fail(self, error: str) -> None:
        self.outcome.set_exception(RuntimeError(error))


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    """No task outlives its race, and the event loop has nothing to complain of."""
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await asyncio.sleep(0)
    assert complaints == []


def nothing() -> None:
    return None


def never() -> Coroutine[Any, Any, str]:
    raise AssertionError("no hedge was due")


async def both(first: Call, second: Call) -> asyncio.Task[str]:
    """A race in which both calls run."""
    running = asyncio.create_task(race(first.run(), second.run, NO_TIME))
    await second.started.wait()
    return running


async def test_an_answer_in_time_needs_no_hedge() -> None:
    call = Call()
    call.succeed("first")
    assert await race(call.run(), never, LONG) == "first"


async def test_a_failure_in_time_is_raised_at_once() -> None:
    call = Call()
    call.fail("first")
    with pytest.raises(RuntimeError, match="first"):
        await race(call.run(), never, LONG)


async def test_the_hedge_goes_out_after_the_delay_and_not_before() -> None:
    first, second = Call(), Call()
    second.succeed("second")
    began = asyncio.get_running_loop().time()
    assert await race(first.run(), second.run, 0.05) == "second"
    assert asyncio.get_running_loop().time() - began >= 0.045


async def test_where_no_hedge_is_possible_the_first_is_waited_for() -> None:
    call = Call()
    running = asyncio.create_task(race(call.run(), nothing, NO_TIME))
    await asyncio.sleep(0.01)
    call.succeed("first")
    assert await running == "first"


@pytest.mark.parametrize("hedge_wins", [False, True])
async def test_the_first_success_wins_and_the_loser_has_cleaned_up(hedge_wins: bool) -> None:
    first, second = Call(cleanup=5), Call(cleanup=5)
    running = await both(first, second)
    (second if hedge_wins else first).succeed("winner")
    assert await running == "winner"
    assert first.ended
    assert second.ended


@pytest.mark.parametrize("hedge_fails", [False, True])
async def test_a_failure_waits_for_the_call_beside_it(hedge_fails: bool) -> None:
    first, second = Call(), Call()
    running = await both(first, second)
    loser, winner = (second, first) if hedge_fails else (first, second)
    loser.fail("loser")
    await loser.over.wait()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not running.done()
    winner.succeed("winner")
    assert await running == "winner"


@pytest.mark.parametrize("hedge_fails_first", [False, True])
async def test_when_both_fail_the_error_of_the_first_is_raised(hedge_fails_first: bool) -> None:
    first, second = Call(), Call()
    running = await both(first, second)
    for call, error in ((second, "second"), (first, "first"))[:: 1 if hedge_fails_first else -1]:
        call.fail(error)
        await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="first"):
        await running


async def test_a_success_beats_a_failure_of_the_same_moment() -> None:
    first, second = Call(), Call()
    running = await both(first, second)
    first.fail("first")
    second.succeed("second")
    assert await running == "second"


async def test_a_loser_that_fails_in_its_cleanup_hurts_nobody() -> None:
    async def breaks() -> str:
        try:
            return await Call().run()
        finally:
            raise RuntimeError("cleanup")

    second = Call()
    second.succeed("second")
    assert await race(breaks(), second.run, NO_TIME) == "second"


async def test_a_hedge_that_cannot_be_made_ends_the_first() -> None:
    first = Call(cleanup=3)
    with pytest.raises(AssertionError, match="no hedge"):
        await race(first.run(), never, NO_TIME)
    assert first.ended


@pytest.mark.parametrize("second", [never, nothing])
async def test_a_cancelled_race_ends_its_only_call(second: Callable[[], Coroutine[Any, Any, str] | None]) -> None:
    first = Call(cleanup=5)
    running = asyncio.create_task(race(first.run(), second, LONG if second is never else NO_TIME))
    await first.started.wait()
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert first.ended


async def test_a_cancelled_race_ends_both_calls() -> None:
    first, second = Call(cleanup=5), Call(cleanup=3)
    running = await both(first, second)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert first.ended
    assert second.ended


@pytest.mark.parametrize("steps", range(12))
async def test_a_race_may_be_cancelled_at_every_step(steps: int) -> None:
    """Whichever await the cancellation meets, both calls are over when the race is."""
    first, second = Call(cleanup=3), Call(cleanup=3)
    second.succeed("second")

    async def here() -> str:
        return await race(first.run(), second.run, NO_TIME)

    running = asyncio.create_task(here())
    await asyncio.sleep(0)
    for _ in range(steps):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled() or running.result() == "second"
    assert first.ended or not first.started.is_set()
    assert second.ended or not second.started.is_set()


async def test_a_cancellation_while_the_loser_cleans_up_waits_for_it_and_is_not_lost() -> None:
    cleaning, may_end = asyncio.Event(), asyncio.Event()

    async def slow_to_go() -> str:
        try:
            return await Call().run()
        finally:
            cleaning.set()
            await may_end.wait()

    winner = Call()
    winner.succeed("second")
    running = asyncio.create_task(race(slow_to_go(), winner.run, NO_TIME))
    await cleaning.wait()
    for _ in range(3):
        running.cancel()
        await asyncio.sleep(0)
    assert not running.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_timeout_around_the_race_is_a_timeout() -> None:
    first, second = Call(cleanup=2), Call(cleanup=2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await race(first.run(), second.run, NO_TIME)
    assert first.ended
    assert second.ended
