"""The queue before the embedding service: full batches over all callers, and how it gives way to queries."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from hartonomous.errors import BackendError, BackendUnavailableError, DeadlineExceededError, ValidationFailedError
from hartonomous.pipelines.batching import EmbeddingQueue
from hartonomous.pipelines.traffic import Traffic
from tests.pipelines.fakes import Embedding, call, until


class Clock:
    """Time by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Line:
    """A queue before a fake service whose calls end when `gate` is set."""

    def __init__(self, batch_size: int = 4, concurrency: int = 2, share: float = 0.25) -> None:
        self.service = Embedding(batch_size)
        self.service.concurrency = concurrency
        self.service.gate = asyncio.Event()
        self.clock = Clock()
        self.traffic = Traffic(self.clock)
        self.queue = EmbeddingQueue(cast("Any", self.service), self.traffic, share, self.clock)

    def embed(self, texts: Sequence[str], seconds: float = 60.0) -> asyncio.Task[Any]:
        return asyncio.create_task(self.queue.embed(texts, call(seconds)))

    async def embed_in_two_calls(self, count: int, *, of: int) -> None:
        """Embed texts to the end; fail unless two calls of so many are under way at first, and no more."""
        task = self.embed(texts(count))
        await until(lambda: self.service.active == 2)
        assert self.sizes == [of, of]
        self.open()
        await task

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.service.batches]

    def open(self) -> None:
        assert self.service.gate is not None
        self.service.gate.set()


def texts(count: int, name: str = "t") -> list[str]:
    return [f"{name}{number}" for number in range(count)]


async def test_batches_are_filled_across_callers() -> None:
    line = Line(batch_size=4, concurrency=8)
    tasks = [line.embed(texts(3, name)) for name in "abcd"]
    await until(lambda: line.service.active)
    line.open()
    outcomes = [await task for task in tasks]
    assert line.sizes == [4, 4, 4]
    assert [len(vectors) for vectors, _ in outcomes] == [3, 3, 3, 3]
    assert sum(tokens for _, tokens in outcomes) == pytest.approx(12)


async def test_a_lone_text_does_not_wait_and_the_next_wait_for_a_full_batch_or_its_end() -> None:
    line = Line(batch_size=4, concurrency=8)
    first = line.embed(["one"])
    await until(lambda: line.service.active == 1)
    others = [line.embed([name]) for name in ("two", "three")]
    await asyncio.sleep(0.01)
    assert line.sizes == [1]
    others.append(line.embed(texts(2)))
    await until(lambda: line.service.active == 2)
    line.open()
    await asyncio.gather(first, *others)
    assert line.sizes == [1, 4]


async def test_a_batch_waits_a_moment_for_texts_that_are_being_prepared() -> None:
    line = Line()
    line.open()
    announcement = line.queue.announce()
    first = line.embed(["one"])
    await asyncio.sleep(0.001)
    assert line.sizes == []
    second = asyncio.create_task(line.queue.embed(["two"], call(), announcement))
    await asyncio.gather(first, second)
    assert line.sizes == [2]


async def test_a_batch_waits_no_longer_than_that_for_them() -> None:
    line = Line()
    line.open()
    line.queue.announce()
    task = line.embed(["one"])
    await asyncio.sleep(0.001)
    line.clock.now += 1.0
    await task
    assert line.sizes == [1]
    line.queue.announce().over()


async def test_no_more_calls_are_under_way_than_the_service_takes() -> None:
    line = Line(batch_size=1, concurrency=2)
    tasks = [line.embed(["x"]) for _ in range(6)]
    await until(lambda: line.service.active == 2)
    line.open()
    await asyncio.gather(*tasks)
    assert line.service.most_active == 2


async def test_beside_queries_one_short_call_goes_out_and_then_the_service_rests() -> None:
    line = Line(batch_size=64, concurrency=8, share=0.25)
    with line.traffic.query():
        task = line.embed(texts(100))
        await until(lambda: line.service.active)
        assert line.service.active == 1
        assert line.sizes == [8]
        line.clock.now += 0.004
        line.open()
        await until(lambda: line.service.active == 0)
        await asyncio.sleep(0.005)
        assert line.sizes == [8]  # four milliseconds of work, twelve of rest
        line.clock.now += 0.013
        await until_time(lambda: len(line.sizes) >= 2)
    line.clock.now += 60.0  # no query for a long time
    vectors, _ = await task
    assert len(vectors) == 100
    assert max(line.sizes) == 64


async def test_a_call_that_hung_does_not_make_the_service_rest_for_as_long() -> None:
    line = Line(batch_size=64, concurrency=8, share=0.25)
    line.service.typical_s = 0.01
    with line.traffic.query():
        task = line.embed(texts(64))
        await until(lambda: line.service.active)
        line.clock.now += 30.0
        line.open()
        await until(lambda: line.service.active == 0)
        sent = len(line.sizes)
        line.clock.now += 0.121  # the rest of four hundredths of work
        await until_time(lambda: len(line.sizes) > sent)
    line.clock.now += 60.0
    await task


async def test_the_rest_is_over_when_the_queries_are() -> None:
    line = Line(batch_size=64, concurrency=8, share=0.25)
    with line.traffic.query():
        task = line.embed(texts(64))
        await until(lambda: line.service.active)
        line.clock.now += 30.0
        line.open()
        await until(lambda: line.service.active == 0)
    line.clock.now += 0.3  # far less than the ninety seconds of rest
    await task


async def test_for_a_while_after_a_query_little_is_under_way() -> None:
    line = Line(batch_size=64, concurrency=3)
    with line.traffic.query():
        pass
    line.clock.now += 5.0
    await line.embed_in_two_calls(64, of=8)


async def test_after_a_query_a_quick_service_is_kept_as_busy_as_before() -> None:
    line = Line(batch_size=64, concurrency=4)
    with line.traffic.query():
        pass
    line.clock.now += 5.0
    task = line.embed(texts(2_000))
    await until(lambda: line.service.active == 3)
    line.clock.now += 0.001  # fifteen texts in a millisecond
    line.open()
    await task
    assert max(line.sizes) == 64
    assert len(line.sizes) < 2_000 / 64 + 20


async def test_a_share_of_one_gives_way_to_nothing() -> None:
    line = Line(batch_size=8, concurrency=2, share=1.0)
    with line.traffic.query():
        await line.embed_in_two_calls(32, of=8)


async def test_a_service_that_refuses_everything_is_asked_a_few_times() -> None:
    line = Line(batch_size=64)
    line.service.refuses = "t"
    line.open()
    outcomes, _ = await line.embed(texts(64))
    assert all(isinstance(outcome, ValidationFailedError) for outcome in outcomes)
    assert len(line.sizes) == 7  # 64, 32, 16, 8, 4, 2, 1


async def test_a_text_that_is_too_long_is_told_in_its_place_and_costs_nobody_else_anything() -> None:
    line = Line(batch_size=8)
    line.open()
    vectors, tokens = await line.embed(["a", "b", "too long", "c"])
    assert [isinstance(vector, ValidationFailedError) for vector in vectors] == [False, False, True, False]
    assert tokens == 3


async def test_a_failed_call_fails_every_caller_in_it_with_an_error_of_its_own() -> None:
    line = Line(batch_size=8)
    line.open()
    line.service.error = BackendError("nonsense")
    outcomes = await asyncio.gather(*(line.embed(texts(2, name)) for name in "ab"), return_exceptions=True)
    assert all(isinstance(outcome, BackendError) for outcome in outcomes)
    assert outcomes[0] is not outcomes[1]


async def test_a_failure_of_one_batch_drops_what_its_caller_still_has_in_line() -> None:
    line = Line(batch_size=2, concurrency=1)
    line.service.error = BackendUnavailableError("down")
    task = line.embed(texts(10))
    await until(lambda: line.service.active)
    line.open()
    with pytest.raises(BackendUnavailableError):
        await task
    line.service.error = None
    await line.embed(["next"])
    assert line.service.batches == [["t0", "t1"], ["next"]]


async def test_a_call_that_nobody_waits_for_is_ended_and_one_with_another_caller_goes_on() -> None:
    line = Line(batch_size=4, concurrency=2)
    shared = [line.embed(texts(2, name)) for name in "ab"]
    alone = line.embed(texts(4, "c"))
    await until(lambda: line.service.active == 2)
    alone.cancel()
    shared[0].cancel()
    await until(lambda: line.service.active == 1)
    line.open()
    vectors, _ = await shared[1]
    assert len(vectors) == 2
    assert alone.cancelled()


async def test_the_deadline_passes_in_the_line_too() -> None:
    line = Line(batch_size=1, concurrency=1)
    blocked = line.embed(["one"])
    await until(lambda: line.service.active)
    with pytest.raises(DeadlineExceededError):
        await line.embed(["two"], seconds=0.01)
    line.open()
    await blocked
    assert line.service.batches == [["one"]]


async def test_no_texts_cost_no_call_and_close_ends_the_calls() -> None:
    line = Line()
    assert await line.embed([]) == ([], 0.0)
    task = line.embed(["one"])
    await until(lambda: line.service.active)
    await line.queue.close()
    assert line.service.active == 0
    task.cancel()
    await asyncio.wait({task})


async def until_time(state: Any) -> None:
    """Wait for a state that a timer brings about."""
    for _ in range(30_000):
        if state():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the state was not reached")
