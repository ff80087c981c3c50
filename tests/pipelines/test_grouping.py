"""Many callers' items in one call: how groups form, whose failure is whose, what a cancellation takes along."""

from __future__ import annotations

import asyncio
import io
import json

import pytest
from msgspec.structs import replace

from hartonomous import log
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.errors import BackendError, BackendUnavailableError
from hartonomous.pipelines.grouping import Grouper, joint
from hartonomous.pipelines.jobs import Jobs
from tests.pipelines.fakes import call, until


class Doubling:
    """Doubles numbers; waits at `gate`, refuses a group that holds `bad`."""

    def __init__(self) -> None:
        self.groups: list[tuple[str, list[int]]] = []
        self.active = self.most_active = 0
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None
        self.bad: int | None = None
        self.jobs = Jobs()

    def grouper(self, most: int = 10, concurrency: int = 1) -> Grouper[str, int, int]:
        return Grouper(self._work, self.jobs, most=most, concurrency=concurrency, blames=(BackendError,))

    async def _work(self, key: str, items: list[int], joined: Call) -> list[int]:
        self.groups.append((key, items))
        self.active += 1
        self.most_active = max(self.active, self.most_active)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.error is not None and (self.bad is None or self.bad in items):
                raise self.error
            return [item * 2 for item in items]
        finally:
            self.active -= 1


async def test_what_comes_during_a_call_goes_together_into_the_next() -> None:
    doubling = Doubling()
    grouper, doubling.gate = doubling.grouper(most=3), asyncio.Event()
    first = asyncio.create_task(grouper.do("a", 1, call()))
    await until(lambda: doubling.active)
    others = [asyncio.create_task(grouper.do("a", number, call())) for number in range(2, 6)]
    await asyncio.sleep(0)
    doubling.gate.set()
    assert [await task for task in (first, *others)] == [2, 4, 6, 8, 10]
    assert doubling.groups == [("a", [1]), ("a", [2, 3, 4]), ("a", [5])]


async def test_what_comes_in_one_moment_is_one_group_and_keys_stay_apart() -> None:
    doubling = Doubling()
    grouper = doubling.grouper()
    tasks = [asyncio.create_task(grouper.do(key, number, call())) for number, key in enumerate("aabb")]
    assert [await task for task in tasks] == [0, 2, 4, 6]
    assert doubling.groups == [("a", [0, 1]), ("b", [2, 3])]


async def test_groups_of_one_key_run_side_by_side_up_to_the_bound() -> None:
    doubling = Doubling()
    grouper, doubling.gate = doubling.grouper(most=1, concurrency=2), asyncio.Event()
    tasks = [asyncio.create_task(grouper.do("a", number, call())) for number in range(6)]
    await until(lambda: doubling.active == 2)
    doubling.gate.set()
    await asyncio.gather(*tasks)
    assert doubling.most_active == 2


async def test_a_weight_beyond_the_bound_goes_alone() -> None:
    doubling = Doubling()
    grouper = doubling.grouper(most=4)
    tasks = [asyncio.create_task(grouper.do("a", number, call(), weight)) for number, weight in enumerate((3, 9, 1, 3))]
    await asyncio.gather(*tasks)
    assert [items for _, items in doubling.groups] == [[0], [1], [2, 3]]


async def test_a_failure_of_all_is_everybodys_and_nobody_shares_the_error() -> None:
    doubling = Doubling()
    grouper, doubling.error = doubling.grouper(), BackendUnavailableError("down")
    outcomes = await asyncio.gather(*(grouper.do("a", number, call()) for number in range(3)), return_exceptions=True)
    assert all(isinstance(outcome, BackendUnavailableError) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 3
    assert len(doubling.groups) == 1


async def test_one_items_fault_is_found_by_halving() -> None:
    doubling = Doubling()
    grouper, doubling.error, doubling.bad = doubling.grouper(), BackendError("wrong"), 2
    outcomes = await asyncio.gather(*(grouper.do("a", number, call()) for number in range(5)), return_exceptions=True)
    assert isinstance(outcomes.pop(2), BackendError)
    assert outcomes == [0, 2, 6, 8]


async def test_a_bug_reaches_whoever_waits() -> None:
    doubling = Doubling()
    doubling.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await doubling.grouper().do("a", 1, call())


async def test_an_item_whose_caller_left_is_not_worked_on_and_a_group_that_began_is_finished() -> None:
    doubling = Doubling()
    grouper, doubling.gate = doubling.grouper(), asyncio.Event()
    begun = asyncio.create_task(grouper.do("a", 1, call()))
    await until(lambda: doubling.active)
    waiting = [asyncio.create_task(grouper.do("a", number, call())) for number in (2, 3)]
    await asyncio.sleep(0)
    for task in (begun, waiting[0]):
        task.cancel()
        await asyncio.wait({task})
    doubling.gate.set()
    assert await waiting[1] == 6
    assert doubling.groups == [("a", [1]), ("a", [3])]
    await doubling.jobs.drain()
    assert repr(doubling.jobs) == "<Jobs active=0>"


def test_a_joint_call_has_the_first_ones_id_and_the_longest_time() -> None:
    first, second = Call("first", Deadline(1.0)), Call("second", Deadline(60.0))
    assert joint([first]) is first
    assert joint([second, first]) is second
    joined = joint([first, second])
    assert joined.request_id == "first"
    assert joined.deadline is second.deadline


async def test_what_is_logged_of_a_group_has_the_id_of_its_first_caller() -> None:
    """The task that works on it may have been begun by another request."""
    text, asked = io.StringIO(), [replace(call(), request_id=name) for name in ("first", "second", "third")]
    log.configure("INFO", text)

    async def work(_: str, items: list[int], joined: Call) -> list[int]:
        await asyncio.sleep(0)
        log.logger.info("worked for {}", joined.request_id)
        return items

    grouper: Grouper[str, int, int] = Grouper(work, Jobs(), most=1)
    with log.about(request_id="first"):
        tasks = [asyncio.create_task(grouper.do("a", number, one)) for number, one in enumerate(asked)]
    await asyncio.gather(*tasks)
    log.logger.remove()
    records = [json.loads(line) for line in text.getvalue().splitlines()]
    assert [(one["message"], one["request_id"]) for one in records] == [
        (f"worked for {name}", name) for name in ("first", "second", "third")
    ]
