"""The line in front of a service: whose turn it is, who is told at once to come again, that no turn is lost."""

from __future__ import annotations

import asyncio
import gc
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hartonomous.clients.admission import Place
from hartonomous.clients.failures import Verdict
from hartonomous.core.call import Priority
from hartonomous.errors import BackendUnavailableError, DeadlineExceededError, HartonomousError, QueueFullError
from tests.clients.guarded import FAILED, GONE, Stage, call, complaints, ticks


async def test_queries_come_before_batches_and_batches_before_ingests_each_in_their_order() -> None:
    stage = Stage()
    place = await stage.enter()
    order: list[str] = []

    async def one(name: str, priority: Priority) -> None:
        mine = await stage.enter(priority=priority)
        order.append(name)
        mine.leave(None)

    wanted = [("i1", 2), ("b1", 1), ("q1", 0), ("i2", 2), ("q2", 0), ("b2", 1)]
    async with asyncio.TaskGroup() as group:
        for name, priority in wanted:
            group.create_task(one(name, Priority(priority)))
        await ticks()
        assert stage.admission.waiting == 6
        place.leave(None)
    assert order == ["q1", "q2", "b1", "b2", "i1", "i2"]


async def test_whoever_comes_later_does_not_overtake_those_who_wait() -> None:
    stage = Stage(slots=2)
    places = [await stage.enter() for _ in range(2)]
    first = (await stage.waiting(1))[0]
    places[0].leave(None)  # the turn is given to the first before it runs
    second = stage.entering()
    await ticks()
    assert (first.done(), second.done()) == (True, False)
    places[1].leave(None)
    (await second).leave(None)
    (await first).leave(None)


async def test_a_query_overtakes_ingests_that_wait() -> None:
    stage = Stage(slots=2)
    stage.replicas[0].slots = 1
    place = await stage.enter()
    ingest = stage.entering(priority=Priority.INGEST)
    await ticks()
    stage.replicas[0].slots = 2  # a slot is free before anybody in line was told
    later = stage.entering(priority=Priority.INGEST)
    await ticks()
    query = await stage.enter()
    assert (ingest.done(), later.done()) == (False, False)
    for held in (place, query):
        held.leave(None)
    (await ingest).leave(None)
    (await later).leave(None)


async def test_the_least_busy_address_is_asked() -> None:
    stage = Stage(slots=3, addresses=3)
    places = [await stage.enter() for _ in range(4)]
    assert sorted(stage.active) == [1, 1, 2]
    assert [place.replica.url for place in places[:3]] == ["http://a", "http://b", "http://c"]


async def test_an_address_that_is_down_is_asked_only_when_there_is_no_other() -> None:
    stage = Stage(addresses=2)
    stage.replicas[0].up = False
    assert (await stage.enter()).replica is stage.replicas[1]
    waiting = (await stage.waiting(1))[0]
    stage.replicas[1].breaker.half_open()
    for _ in range(1_000):
        ticket = stage.replicas[1].breaker.admit()
        assert ticket is not None
        ticket.failed()
    stage.admission.hand_on()
    assert (await waiting).replica is stage.replicas[0]


async def test_a_full_line_is_a_429_with_the_time_after_which_to_come_again() -> None:
    stage = Stage(queue=2)
    stage.admission.service_time.observe(7.0)
    place = await stage.enter()
    line = await stage.waiting(2)
    with pytest.raises(QueueFullError) as refused:
        await stage.enter()
    # Three would go before the next one that comes: 21 s with one slot at 7 s each.
    assert (refused.value.status, refused.value.error_code, refused.value.retry_after) == (429, "queue_full", 21)
    assert stage.sample("refusals_total", reason="queue_full") == 1
    ingest = stage.entering(99.0, Priority.INGEST)  # bounds what it has under way itself
    await ticks()
    assert not ingest.done()
    assert [stage.sample("queue_length", priority=who) for who in ("query", "batch", "ingest")] == [2, 0, 1]
    for task in (*line, ingest):
        task.cancel()
    await asyncio.wait((*line, ingest))
    place.leave(None)


async def test_a_line_of_length_0_lets_nobody_wait() -> None:
    stage = Stage(queue=0)
    place = await stage.enter()
    with pytest.raises(QueueFullError):
        await stage.enter()
    place.leave(None)
    (await stage.enter()).leave(None)


async def test_a_turn_that_would_come_too_late_for_an_answer_is_refused_at_once() -> None:
    stage = Stage(slots=2)
    stage.admission.service_time.observe(4.0)
    places = [await stage.enter() for _ in range(2)]
    line = await stage.waiting(3)  # the next one's turn comes after 4 * 4 / 2 s, and it should have 8 s more then
    with pytest.raises(BackendUnavailableError) as refused:
        await stage.enter(15.5)
    assert (refused.value.error_code, refused.value.retry_after) == ("overloaded", 8)
    assert stage.sample("refusals_total", reason="too_late") == 1
    line.append(stage.entering(16.5))
    await ticks()
    assert stage.admission.waiting == 4
    for place in places:
        place.leave(GONE)
    await asyncio.gather(*(_pass(task) for task in line))
    assert stage.active == [0]


async def test_what_ingests_wait_for_does_not_count_for_a_query() -> None:
    stage = Stage()
    stage.admission.service_time.observe(4.0)
    place = await stage.enter()
    ingests = [stage.entering(priority=Priority.INGEST) for _ in range(5)]
    await ticks()
    query = stage.entering(12.5)
    await ticks()
    assert stage.admission.waiting == 6
    place.leave(GONE)
    await _pass(query)
    await asyncio.gather(*map(_pass, ingests))


async def test_addresses_whose_circuit_is_open_take_nobody_from_the_line() -> None:
    stage = Stage(addresses=2, failures=1)
    stage.admission.service_time.observe(4.0)
    (await stage.enter()).leave(FAILED)
    place = await stage.enter()
    with pytest.raises(BackendUnavailableError) as refused:
        await stage.enter(11.0)  # with both it would be 10 s
    assert (refused.value.error_code, refused.value.retry_after) == ("overloaded", 4)
    place.leave(None)


async def test_a_deadline_that_passes_in_line_is_a_504_and_leaves_the_line() -> None:
    stage = Stage()
    place = await stage.enter()
    with pytest.raises(DeadlineExceededError):
        await stage.enter(0.02)
    assert stage.admission.waiting == 0
    place.leave(None)
    assert stage.active == [0]


async def test_a_deadline_that_has_passed_takes_no_place() -> None:
    stage = Stage()
    with pytest.raises(DeadlineExceededError):
        await stage.enter(0.0)
    assert stage.active == [0]


async def test_whoever_is_cancelled_before_the_turn_leaves_the_line() -> None:
    stage = Stage()
    place = await stage.enter()
    first, second, third = await stage.waiting(3)
    second.cancel()
    await asyncio.wait([second])
    assert stage.admission.waiting == 2
    assert stage.sample("cancelled_total", state="queued") == 1
    place.leave(None)
    (await first).leave(None)
    (await third).leave(None)


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_whoever_is_cancelled_in_the_moment_of_the_turn_passes_it_on(cancelled_first: bool) -> None:
    stage = Stage()
    place = await stage.enter()
    first, second = await stage.waiting(2)
    if cancelled_first:
        first.cancel()
    place.leave(None)
    if not cancelled_first:
        first.cancel()
    await ticks()
    assert first.cancelled()
    (await second).leave(None)
    assert (stage.active, stage.admission.waiting) == ([0], 0)


@pytest.mark.parametrize("turn_after_s", [0.049, 0.051])
async def test_a_deadline_in_the_moment_of_the_turn_passes_it_on(turn_after_s: float) -> None:
    stage = Stage()
    place = await stage.enter()
    loop = asyncio.get_running_loop()
    late = stage.entering(0.05)
    await ticks()
    (patient,) = await stage.waiting(1)
    loop.call_later(turn_after_s, place.leave, None)
    loop.call_soon(time.sleep, 0.06)  # both are due when the loop looks next, and run before any task
    with pytest.raises(DeadlineExceededError):
        await late
    (await patient).leave(None)
    assert stage.active == [0]


async def test_when_the_last_circuit_opens_all_who_wait_are_told() -> None:
    stage = Stage(addresses=2, failures=1)
    heard = complaints(asyncio.get_running_loop())
    places = [await stage.enter() for _ in range(2)]
    line = await stage.waiting(3)
    places[0].leave(FAILED)
    await ticks()
    assert not any(task.done() for task in line)  # the other address will serve them
    line[0].cancel()
    places[1].leave(FAILED)
    for told in (line[1], line[2], stage.entering()):
        with pytest.raises(BackendUnavailableError, match="left alone") as refused:
            await told
        assert refused.value.retry_after == 1
    assert stage.sample("refusals_total", reason="open") == 3
    assert (stage.active, stage.admission.waiting) == ([0, 0], 0)
    del line, told
    gc.collect()
    assert heard == []


async def test_looking_for_a_hedge_behind_open_circuits_refuses_nobody() -> None:
    stage = Stage(addresses=2, failures=1)
    for _ in range(2):
        (await stage.enter()).leave(FAILED)
    assert stage.admission.enter_at_once(stage.replicas[0]) is None
    assert stage.sample("refusals_total", reason="open") == 0


async def test_a_half_open_circuit_lets_one_in_and_its_success_lets_in_all() -> None:
    stage = Stage(slots=8, failures=1)
    (await stage.enter()).leave(FAILED)
    stage.now += 1.0
    probe = await stage.enter()
    for _ in range(3):
        with pytest.raises(BackendUnavailableError):
            await stage.enter()
    probe.leave(None)
    assert len([await stage.enter() for _ in range(8)]) == 8


async def test_a_probe_whose_client_leaves_hands_the_probe_on() -> None:
    stage = Stage(slots=8, failures=1)
    (await stage.enter()).leave(FAILED)
    stage.now += 1.0
    (await stage.enter()).leave(GONE)
    assert stage.circuits == ["half-open"]
    (await stage.enter()).leave(None)
    assert stage.circuits == ["closed"]


async def test_the_headers_of_a_streamed_probe_let_in_those_who_wait_for_another_address() -> None:
    stage = Stage(slots=2, addresses=2, failures=1)
    held = [await stage.enter() for _ in range(4)]
    broken = [place for place in held if place.replica is stage.replicas[1]]
    for place in broken:
        place.leave(FAILED)
    stage.now += 1.0
    probe = await stage.enter()
    assert probe.replica is stage.replicas[1]
    (waiting,) = await stage.waiting(1)
    probe.answering(is_stream=False)
    await ticks()
    assert not waiting.done()  # an answer that is read whole may still break off
    probe.answering(is_stream=True)
    assert (await waiting).replica is stage.replicas[1]


async def test_a_server_that_stops_tells_all_who_wait_and_all_who_come() -> None:
    stage = Stage()
    place = await stage.enter()
    line = await stage.waiting(3)
    stage.admission.close(lambda: BackendUnavailableError("The server is shutting down.", code="draining"))
    for task in (*line, stage.entering()):
        with pytest.raises(BackendUnavailableError, match="shutting down"):
            await task
    assert stage.admission.enter_at_once(stage.replicas[0]) is None
    place.leave(None)
    assert stage.active == [0]


async def test_more_slots_let_in_those_who_wait() -> None:
    stage = Stage()
    place = await stage.enter()
    line = await stage.waiting(3)
    stage.replicas[0].resize(3)
    stage.admission.hand_on()
    await ticks()
    assert [task.done() for task in line] == [True, True, False]
    place.leave(None)
    await asyncio.gather(*map(_pass, line))
    assert stage.active == [0]


async def test_a_service_with_fewer_slots_than_calls_under_way_takes_no_more_until_they_end() -> None:
    stage = Stage(slots=3)
    places = [await stage.enter() for _ in range(3)]
    stage.replicas[0].resize(1)
    (waiting,) = await stage.waiting(1)
    for place in places[:2]:
        place.leave(None)
    await ticks()
    assert not waiting.done()
    places[2].leave(None)
    (await waiting).leave(None)


async def test_a_place_is_given_back_once() -> None:
    stage = Stage(slots=2, failures=1)
    place, other = await stage.enter(), await stage.enter()
    place.leave(None)
    place.leave(FAILED)
    assert (stage.active, stage.circuits) == ([1], ["closed"])
    other.leave(None)


async def test_a_hedge_takes_only_what_is_free_elsewhere_while_nobody_waits() -> None:
    stage = Stage(addresses=2)
    first = await stage.enter()
    second = stage.admission.enter_at_once(first.replica)
    assert second is not None
    assert second.replica is stage.replicas[1]
    assert stage.admission.enter_at_once(first.replica) is None
    (waiting,) = await stage.waiting(1)
    stage.replicas[1].slots = 2  # a slot is free before anybody in line was told
    assert stage.admission.enter_at_once(first.replica) is None
    second.leave(None)
    (await waiting).leave(None)
    first.leave(None)
    assert stage.active == [0, 0]


async def test_a_hedge_leaves_a_dead_address_alone() -> None:
    stage = Stage(slots=2, addresses=2, failures=1)
    first, second = await stage.enter(), await stage.enter()
    second.leave(FAILED)
    assert stage.admission.enter_at_once(first.replica) is None
    assert stage.active == [1, 0]


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), slots=st.integers(1, 4), addresses=st.integers(1, 3), queue=st.integers(0, 60))
def test_no_place_is_ever_lost_whatever_comes_and_leaves(seed: int, slots: int, addresses: int, queue: int) -> None:
    asyncio.run(_crowd(random.Random(seed), Stage(slots, addresses=addresses, queue=queue, failures=2)))


async def _crowd(dice: random.Random, stage: Stage) -> None:
    """Let 150 callers come, wait, leave, fail and be cancelled at random."""
    heard = complaints(asyncio.get_running_loop())
    tasks = []
    for _ in range(150):
        tasks.append(asyncio.create_task(_visitor(dice, stage)))
        await ticks(dice.choice((0, 0, 0, 1, 3)))
        _meddle(dice, stage, tasks)
        assert min(stage.active) >= 0
    done, stuck = await asyncio.wait(tasks, timeout=20)
    assert not stuck
    assert (sum(stage.active), stage.admission.waiting) == (0, 0)
    told = [task.exception() for task in done if not task.cancelled()]
    assert all(error is None or isinstance(error, HartonomousError) for error in told)
    stage.now += 100.0
    (await stage.enter()).leave(None)  # nor is a probe
    del done, tasks, told
    gc.collect()
    assert heard == []


async def _visitor(dice: random.Random, stage: Stage) -> None:
    seconds = dice.choice((0.001, 0.01, 30.0, 30.0, 30.0))
    place = await stage.admission.enter(call(seconds, Priority(dice.randrange(3))))
    verdict: Verdict | None = GONE
    try:
        assert place.replica.active <= 5
        await ticks(dice.randrange(4))
        verdict = dice.choice((None, None, None, None, FAILED, GONE))
    finally:
        place.leave(verdict)


def _meddle(dice: random.Random, stage: Stage, tasks: list[asyncio.Task[None]]) -> None:
    match dice.randrange(8):
        case 0 | 1:
            dice.choice(tasks).cancel()
        case 2:
            stage.now += dice.choice((0.1, 1.0, 10.0))
        case 3:
            dice.choice(stage.replicas).resize(dice.randint(1, 5))
            stage.admission.hand_on()
        case 4:
            dice.choice(stage.replicas).up = dice.choice((True, False, None))
            stage.admission.hand_on()


async def _pass(entering: asyncio.Task[Place]) -> None:
    (await entering).leave(GONE)
