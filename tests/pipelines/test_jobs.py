"""Work that is finished once begun."""

from __future__ import annotations

import asyncio

import pytest

from hartonomous.pipelines.jobs import Jobs


async def test_a_cancelled_caller_leaves_its_job_to_finish() -> None:
    jobs, gate, ended = Jobs(), asyncio.Event(), []

    async def work() -> str:
        await gate.wait()
        ended.append("done")
        return "result"

    caller = asyncio.create_task(jobs.run(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (jobs.active_count, repr(jobs)) == (1, "<Jobs active=1>")
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert (jobs.active_count, ended) == (1, [])
    gate.set()
    await jobs.drain()
    assert (jobs.active_count, ended) == (0, ["done"])


async def test_the_caller_gets_the_result_or_the_failure() -> None:
    jobs = Jobs()

    async def good() -> int:
        return 7

    async def bad() -> int:
        raise ValueError("bad")

    assert await jobs.run(good()) == 7
    with pytest.raises(ValueError, match="bad"):
        await jobs.run(bad())
    assert jobs.active_count == 0


async def test_draining_waits_for_jobs_that_begin_meanwhile() -> None:
    jobs, order = Jobs(), []

    async def second() -> None:
        await asyncio.sleep(0)
        order.append("second")

    async def first() -> None:
        await asyncio.sleep(0)
        order.append("first")
        asyncio.get_running_loop().call_soon(lambda: tasks.append(asyncio.create_task(jobs.run(second()))))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    tasks = [asyncio.create_task(jobs.run(first()))]
    await asyncio.sleep(0)
    await jobs.drain()
    await asyncio.gather(*tasks)
    assert order == ["first", "second"]
