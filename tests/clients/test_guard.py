"""The guard: which failures are tried again, how often, where and when, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hartonomous.clients import guard as module
from hartonomous.clients.admission import Place
from hartonomous.clients.failures import (
    AnswerTooLargeError,
    BackendBusyError,
    BackendFailedError,
    BackendRefusedError,
    BrokenOffError,
    CredentialsRefusedError,
    SlowAnswerError,
    UnreachableError,
    verdict,
)
from hartonomous.clients.guard import Guard, Request
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.errors import (
    BackendError,
    BackendUnavailableError,
    ConflictError,
    DeadlineExceededError,
    HartonomousError,
    NotFoundError,
    QueueFullError,
    ValidationFailedError,
)
from tests.clients.guarded import Stage, ticks

Error = Callable[[], BaseException]


def unreachable() -> HartonomousError:
    return UnreachableError("cannot be reached")


def failed() -> HartonomousError:
    return BackendFailedError("failed")


def busy(wait_s: float | None, is_overload: bool) -> Error:
    return lambda: BackendBusyError("busy", wait_s=wait_s, is_overload=is_overload)


class Backend:
    """What the guard sends to: fails as it is told, answers afterwards, and remembers every attempt."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.attempts: list[tuple[str, bool, float]] = []
        self.counted: list[bool] = []
        self.gate: asyncio.Event | None = None

    @property
    def addresses(self) -> list[str]:
        return [url[-1] for url, _, _ in self.attempts]

    async def send(self, place: Place, request: Request, may_repeat: bool) -> str:
        self.attempts.append((place.replica.url, may_repeat, time.perf_counter()))
        self.counted.append(place.counts)
        error: BaseException | None = None
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.failures:
                error = self.failures.pop(0)
                raise error
        except BaseException as caught:
            error = caught
            raise
        finally:
            place.leave(None if error is None else verdict(error))
        return place.replica.url[-1]


class Rig(Stage):
    """A guard in front of a backend."""

    def __init__(self, *failures: BaseException, **options: Any) -> None:
        super().__init__(**options)
        self.backend = Backend(*failures)
        self.guard = Guard(self.admission, self.replicas, self.metrics.service("embedding"))

    async def run(self, seconds: float = 30.0, *, is_idempotent: bool = True) -> str:
        request = Request("POST", "/", b"", Call("test", Deadline(seconds)), is_idempotent)
        return await self.guard.run(request, self.backend.send)


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The waits between attempts take no time; how often there was one is kept."""
    asked: list[int] = []

    def backoff(attempt: int) -> float:
        asked.append(attempt)
        return 0.0

    monkeypatch.setattr(module, "backoff", backoff)
    return asked


# Each failure: how often it is sent when it may be repeated, when it may not, and whether the address is to blame.
TABLE: dict[str, tuple[Error, int, int, bool | None]] = {
    "unreachable": (unreachable, 3, 3, True),
    "broken off": (lambda: BrokenOffError("broken"), 3, 1, True),
    "5xx": (failed, 3, 1, True),
    "slow": (lambda: SlowAnswerError("slow", is_blamed=True), 2, 1, True),
    "slow for a caller in a hurry": (lambda: SlowAnswerError("slow", is_blamed=False), 1, 1, None),
    "nonsense": (lambda: BackendError("nonsense"), 2, 1, True),
    "503 that asks to wait": (busy(0.0, False), 3, 1, True),
    "503 that loads its model": (busy(None, False), 1, 1, True),
    "429 that asks to wait": (busy(0.0, True), 3, 1, None),
    "429": (busy(None, True), 1, 1, None),
    "too large": (lambda: AnswerTooLargeError("large"), 1, 1, None),
    "401": (lambda: CredentialsRefusedError("key"), 1, 1, None),
    "400": (lambda: BackendRefusedError("refused", answered=400), 1, 1, False),
    "too long": (lambda: ValidationFailedError("long"), 1, 1, False),
    "404": (lambda: NotFoundError("collection"), 1, 1, False),
    "409": (lambda: ConflictError("collection"), 1, 1, False),
    "full line": (lambda: QueueFullError("line"), 1, 1, None),
    "shutting down": (lambda: BackendUnavailableError("draining"), 1, 1, None),
    "deadline": (lambda: DeadlineExceededError("late"), 1, 1, None),
    "a bug of ours": (lambda: RuntimeError("bug"), 1, 1, None),
}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("is_idempotent", [True, False])
async def test_each_failure_is_tried_again_as_often_as_the_table_says(name: str, is_idempotent: bool) -> None:
    error, repeated, once, blamed = TABLE[name]
    rig = Rig(*(error() for _ in range(5)), failures=2)
    expected = repeated if is_idempotent else once
    with pytest.raises(type(error())):
        await rig.run(is_idempotent=is_idempotent)
    assert len(rig.backend.attempts) == expected
    assert rig.active == [0]
    assert verdict(error()).failed is blamed
    assert rig.sample("retries_total", reason=verdict(error()).kind) == expected - 1


@pytest.mark.parametrize("name", TABLE)
async def test_what_goes_well_again_is_answered(name: str) -> None:
    error, repeated, _, _ = TABLE[name]
    rig = Rig(*(error() for _ in range(repeated - 1)))
    assert await rig.run() == "a"
    assert len(rig.backend.attempts) == repeated


async def test_only_a_connection_that_broke_off_is_made_anew_at_once_and_once(waits: list[int]) -> None:
    with pytest.raises(BrokenOffError):
        await Rig(*(BrokenOffError("broken") for _ in range(3))).run()
    assert waits == [1]
    with pytest.raises(BackendFailedError):
        await Rig(failed(), failed(), failed()).run()
    assert waits == [1, 0, 1]


async def test_what_a_backend_asks_for_is_waited_for() -> None:
    rig = Rig(busy(0.05, False)())
    assert await rig.run() == "a"
    (_, _, first), (_, _, second) = rig.backend.attempts
    assert second - first >= 0.049  # uvloop's timers know whole milliseconds


async def test_what_a_backend_asks_for_beyond_the_deadline_is_not_waited_for() -> None:
    rig = Rig(busy(5.0, False)())
    with pytest.raises(BackendBusyError) as told:
        await rig.run(1.0)
    assert told.value.retry_after == 5
    assert len(rig.backend.attempts) == 1


async def test_no_attempt_begins_for_which_the_deadline_leaves_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "backoff", lambda attempt: 0.5)
    rig = Rig(failed())
    with pytest.raises(BackendFailedError):
        await rig.run(0.4)
    assert len(rig.backend.attempts) == 1


async def test_only_the_first_attempt_is_told_that_there_may_be_another() -> None:
    rig = Rig(failed(), failed())
    await rig.run()
    assert [may_repeat for _, may_repeat, _ in rig.backend.attempts] == [True, False, False]


async def test_a_used_up_budget_ends_retries_and_says_so() -> None:
    rig = Rig(*(failed() for _ in range(500)), failures=1_000)
    for _ in range(100):
        with pytest.raises(BackendFailedError):
            await rig.run()
    # A tenth of 100 calls, and one a second of a window of ten.
    assert 100 + 19 <= len(rig.backend.attempts) <= 100 + 22
    assert rig.sample("retries_total", reason="refused") >= 70
    rig.backend.failures.clear()
    assert await rig.run() == "a"


async def test_another_attempt_goes_to_another_address() -> None:
    rig = Rig(failed(), failed(), slots=4, addresses=3)
    assert await rig.run() == "c"
    assert rig.backend.addresses == ["a", "b", "c"]


async def test_a_third_attempt_of_two_addresses_counts_against_neither_of_them_twice() -> None:
    rig = Rig(failed(), failed(), failed(), addresses=2, failures=2)
    with pytest.raises(BackendFailedError):
        await rig.run()
    assert rig.backend.addresses == ["a", "b", "a"]
    assert rig.backend.counted == [True, True, False]
    assert rig.circuits == ["closed", "closed"]


async def test_one_poisonous_call_does_not_open_a_circuit() -> None:
    rig = Rig(failed(), failed(), failed(), failed(), failures=2)
    with pytest.raises(BackendFailedError):
        await rig.run()
    assert rig.circuits == ["closed"]
    with pytest.raises(BackendFailedError):
        await rig.run()  # a second one does: it is the second failure in a row that counts
    assert rig.circuits == ["open"]
    assert len(rig.backend.attempts) == 4


async def test_a_full_line_behind_a_failure_leaves_the_failure_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "backoff", lambda attempt: 0.02)
    rig = Rig(failed(), queue=0)
    running = asyncio.create_task(rig.run())
    await ticks()
    rival = await rig.enter()
    with pytest.raises(BackendFailedError):
        await running
    rival.leave(None)


async def test_a_deadline_in_line_behind_a_failure_leaves_the_failure_to_be_told() -> None:
    rig = Rig(failed())
    rig.backend.gate = asyncio.Event()
    running = asyncio.create_task(rig.run(0.2))
    await ticks()
    rival = rig.entering()
    await ticks()
    rig.backend.gate.set()
    held = await rival  # gets the slot that the failed call gives back
    with pytest.raises(BackendFailedError):
        await running
    assert rig.admission.waiting == 0
    held.leave(None)
    assert rig.active == [0]


async def test_a_server_that_stops_between_two_attempts_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "backoff", lambda attempt: 0.02)
    rig = Rig(failed())
    running = asyncio.create_task(rig.run())
    await ticks()
    rig.admission.close(lambda: BackendUnavailableError("stops", code="draining"))
    with pytest.raises(BackendUnavailableError, match="stops"):
        await running


@asynccontextmanager
async def cancelled_while(rig: Rig) -> AsyncIterator[None]:
    """Cancel a call in the state that the block brings about, and see that nothing is left of it."""
    running = asyncio.create_task(rig.run())
    await ticks()
    yield
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_call_that_is_cancelled_under_way_leaves_its_place_and_blames_nobody() -> None:
    rig = Rig(failures=1)
    rig.backend.gate = asyncio.Event()
    async with cancelled_while(rig):
        assert rig.active == [1]
    assert (rig.active, rig.circuits) == ([0], ["closed"])


async def test_a_call_that_is_cancelled_between_two_attempts_holds_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "backoff", lambda attempt: 5.0)
    rig = Rig(failed())
    async with cancelled_while(rig):
        assert (rig.active, len(rig.backend.attempts)) == ([0], 1)
    assert len(rig.backend.attempts) == 1


async def test_a_call_that_is_cancelled_in_line_was_never_sent() -> None:
    rig = Rig()
    place = await rig.enter()
    async with cancelled_while(rig):
        assert rig.admission.waiting == 1
    assert (rig.admission.waiting, rig.active, rig.backend.attempts) == (0, [1], [])
    place.leave(None)


async def test_a_probe_that_is_cancelled_leaves_the_probe_to_the_next() -> None:
    rig = Rig(failed(), failures=1)
    with pytest.raises(BackendFailedError):
        await rig.run()
    rig.now += 1.0
    rig.backend.gate = asyncio.Event()
    async with cancelled_while(rig):
        assert rig.circuits == ["half-open"]
    rig.backend.gate.set()
    assert await rig.run() == "a"
    assert rig.circuits == ["closed"]


def test_a_caller_in_a_hurry_does_not_say_that_a_service_is_overloaded() -> None:
    assert verdict(SlowAnswerError("slow", is_blamed=True)).is_overload
    assert verdict(busy(None, True)()).is_overload
    assert not verdict(SlowAnswerError("slow", is_blamed=False)).is_overload
    assert not verdict(busy(None, False)()).is_overload
