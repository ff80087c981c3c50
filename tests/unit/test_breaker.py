"""The circuit breaker: what counts, the one probe, what comes too late, how long it stays open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from hartonomous.clients.breaker import Breaker, State, Ticket
from hartonomous.core.breaking import open_time


class Circuit:
    """A breaker with a clock and a jitter that a test turns by hand, and the changes that it told."""

    def __init__(self, failures: int = 3, open_s: float = 1.0, max_open_s: float = 30.0) -> None:
        self.now = 1_000.0
        self.jitter = 0.5
        self.changes: list[str] = []
        self.breaker = Breaker("a", failures, open_s, max_open_s, self._changed, lambda: self.now, lambda: self.jitter)

    def _changed(self, name: str, state: State) -> None:
        assert name == "a"
        assert self.breaker.state == state
        self.changes.append(state)

    @property
    def state(self) -> str:
        return self.breaker.state

    def ticket(self) -> Ticket:
        ticket = self.breaker.admit()
        assert ticket is not None
        return ticket

    def fail(self, times: int = 3) -> None:
        for _ in range(times):
            self.ticket().failed()

    def wait(self) -> None:
        self.now += self.breaker.retry_after_s


@pytest.fixture
def circuit() -> Circuit:
    return Circuit()


def test_failures_in_a_row_open_the_circuit(circuit: Circuit) -> None:
    circuit.fail(2)
    assert (circuit.state, circuit.changes) == ("closed", [])
    circuit.fail(1)
    assert (circuit.state, circuit.changes) == ("open", ["open"])
    assert circuit.breaker.admit() is None
    assert not circuit.breaker.admits
    assert circuit.breaker.name == "a"


def test_a_success_ends_the_row_of_failures(circuit: Circuit) -> None:
    for _ in range(5):
        circuit.fail(2)
        circuit.ticket().succeeded()
    assert circuit.state == "closed"


def test_a_cancellation_counts_neither_as_failure_nor_as_success(circuit: Circuit) -> None:
    for _ in range(50):
        circuit.ticket().cancelled()
    circuit.fail(2)
    for _ in range(50):
        circuit.ticket().cancelled()
    assert circuit.state == "closed"
    circuit.fail(1)
    assert circuit.state == "open"


async def test_a_cancellation_at_the_threshold_stays_a_cancellation(circuit: Circuit) -> None:
    async def call() -> None:
        ticket = circuit.ticket()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ticket.cancelled()
            raise

    circuit.fail(2)
    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert circuit.state == "closed"


def test_half_open_lets_one_probe_through_whoever_waits(circuit: Circuit) -> None:
    circuit.fail()
    circuit.wait()
    assert (circuit.breaker.due, circuit.breaker.admits, circuit.state) == (True, True, "open")
    tickets = [ticket for ticket in (circuit.breaker.admit() for _ in range(50)) if ticket is not None]
    assert [ticket.is_probe for ticket in tickets] == [True]
    assert (circuit.state, circuit.breaker.admits, circuit.breaker.retry_after_s) == ("half-open", False, 0.0)


def test_a_probe_that_succeeds_closes_the_circuit(circuit: Circuit) -> None:
    circuit.fail()
    circuit.wait()
    circuit.ticket().succeeded()
    assert circuit.changes == ["open", "half-open", "closed"]
    assert not circuit.ticket().is_probe
    circuit.fail(2)
    assert circuit.state == "closed", "the failures from before the probe count no more"


def test_a_probe_that_is_cancelled_leaves_its_place_to_the_next(circuit: Circuit) -> None:
    circuit.fail()
    circuit.wait()
    for _ in range(5):
        circuit.ticket().cancelled()
        assert (circuit.state, circuit.breaker.admits) == ("half-open", True)
    circuit.ticket().succeeded()
    assert circuit.changes == ["open", "half-open", "closed"]


def test_the_monitor_lets_a_due_circuit_be_tried_and_changes_nothing_else(circuit: Circuit) -> None:
    circuit.breaker.half_open()
    assert circuit.state == "closed"
    circuit.fail()
    circuit.breaker.half_open()
    assert circuit.state == "open", "its time has not passed"
    circuit.wait()
    circuit.breaker.half_open()
    circuit.breaker.half_open()
    assert circuit.changes == ["open", "half-open"]
    assert circuit.ticket().is_probe
    circuit.breaker.half_open()
    assert circuit.breaker.admit() is None, "a probe under way stays the only one"


def test_late_failures_do_not_open_a_circuit_that_a_probe_has_closed(circuit: Circuit) -> None:
    late = [circuit.ticket() for _ in range(10)]
    circuit.fail()
    circuit.wait()
    circuit.ticket().succeeded()
    for ticket in late:
        ticket.failed()
    assert circuit.changes == ["open", "half-open", "closed"]


@pytest.mark.parametrize("settle", [Ticket.succeeded, Ticket.failed, Ticket.cancelled])
def test_what_comes_late_neither_moves_a_half_open_circuit_nor_frees_its_probe(
    circuit: Circuit, settle: Callable[[Ticket], None]
) -> None:
    early, late = circuit.ticket(), circuit.ticket()
    circuit.fail()
    settle(early)
    assert circuit.state == "open"
    circuit.wait()
    circuit.ticket()
    settle(late)
    assert (circuit.state, circuit.breaker.admits) == ("half-open", False)


def test_a_ticket_is_settled_once(circuit: Circuit) -> None:
    ticket = circuit.ticket()
    for _ in range(5):
        ticket.failed()
    assert circuit.state == "closed"
    circuit.fail(2)
    circuit.wait()
    first = circuit.ticket()
    first.cancelled()
    circuit.ticket()
    first.succeeded()
    first.cancelled()
    assert (circuit.state, circuit.breaker.admits) == ("half-open", False)


def test_the_open_time_doubles_while_the_backend_flaps_and_starts_over_after_a_calm_time(circuit: Circuit) -> None:
    times = []
    for calm in (0, 0, 29, 0, 0, 0, 31, 0):
        circuit.now += calm
        circuit.fail()
        times.append(circuit.breaker.retry_after_s)
        circuit.wait()
        circuit.ticket().succeeded()
    assert times == pytest.approx([0.75 * whole for whole in (1, 2, 4, 8, 16, 30, 1, 2)])


def test_the_open_time_doubles_with_each_probe_that_fails(circuit: Circuit) -> None:
    circuit.fail()
    for whole in (1, 2, 4, 8, 16, 30, 30):
        assert circuit.breaker.retry_after_s == pytest.approx(0.75 * whole)
        circuit.wait()
        circuit.now += 1_000  # nobody called for a long time: still, it never worked in between
        circuit.ticket().failed()


def test_the_wall_clock_moves_nothing(circuit: Circuit, monkeypatch: pytest.MonkeyPatch) -> None:
    circuit.fail()
    monkeypatch.setattr("time.time", lambda: 4e9)
    assert circuit.breaker.admit() is None
    circuit.now += circuit.breaker.retry_after_s - 0.001
    assert circuit.breaker.admit() is None
    circuit.now += 0.002
    assert circuit.breaker.admit() is not None


def test_a_listener_that_raises_leaves_the_circuit_whole() -> None:
    def refuse(name: str, state: State) -> None:
        raise RuntimeError(state)

    breaker = Breaker("a", 1, 1.0, 30.0, refuse)
    ticket = breaker.admit()
    assert ticket is not None
    with pytest.raises(RuntimeError, match="open"):
        ticket.failed()
    assert breaker.admit() is None


@given(st.integers(0, 5_000), st.floats(0.01, 10), st.floats(10, 600), st.floats(0, 1, exclude_max=True))
def test_an_open_time_is_within_half_of_its_whole_and_the_cap(
    flaps: int, base: float, cap: float, chance: float
) -> None:
    time = open_time(flaps, base=base, cap=cap, random=lambda: chance)
    whole = min(cap, base * 2.0 ** min(flaps, 100))
    assert whole / 2 <= time <= whole
    assert time <= open_time(flaps + 1, base=base, cap=cap, random=lambda: chance)


class Model(RuleBasedStateMachine):
    """Any order of calls, outcomes and pauses, beside a model that knows nothing of pybreaker."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.circuit = Circuit(failures=2)
        self.state, self.failures, self.changes = "closed", 0, 0
        self.opened = self.wait = 0.0
        self.current: set[Ticket] = set()  # handed out since the last change and not settled

    def _change(self, state: str) -> None:
        self.state, self.failures = state, 0
        self.changes += 1
        self.current.clear()
        if state == "open":
            self.opened, self.wait = self.circuit.now, self.circuit.breaker.retry_after_s
            assert 0.5 <= self.wait <= 30

    def _due(self) -> bool:
        return self.state == "open" and self.circuit.now >= self.opened + self.wait

    @rule(target=tickets)
    def admit(self) -> object:
        if self._due():
            self._change("half-open")
        expected = self.state == "closed" or (self.state == "half-open" and not self.current)
        ticket = self.circuit.breaker.admit()
        assert (ticket is not None) == expected
        if ticket is None:
            return multiple()
        assert ticket.is_probe == (self.state == "half-open")
        self.current.add(ticket)
        return ticket

    @rule(ticket=tickets)
    def succeed(self, ticket: Ticket) -> None:
        ticket.succeeded()
        if ticket in self.current:
            self.current.discard(ticket)
            self.failures = 0
            if self.state == "half-open":
                self._change("closed")

    @rule(ticket=tickets)
    def fail(self, ticket: Ticket) -> None:
        ticket.failed()
        if ticket in self.current:
            self.current.discard(ticket)
            self.failures += 1
            if self.state == "half-open" or self.failures == 2:
                self._change("open")

    @rule(ticket=tickets)
    def cancel(self, ticket: Ticket) -> None:
        ticket.cancelled()
        self.current.discard(ticket)

    @rule(seconds=st.floats(0, 40), jitter=st.floats(0, 1, exclude_max=True))
    def pause(self, seconds: float, jitter: float) -> None:
        self.circuit.now += seconds
        self.circuit.jitter = jitter

    @rule()
    def monitor(self) -> None:
        self.circuit.breaker.half_open()
        if self._due():
            self._change("half-open")

    @invariant()
    def agree(self) -> None:
        breaker = self.circuit.breaker
        assert breaker.state == self.state
        assert len(self.circuit.changes) == self.changes
        assert breaker.due == self._due()
        free = self.state == "half-open" and not self.current
        assert breaker.admits == (self.state == "closed" or self._due() or free)
        assert breaker.retry_after_s <= (30 if self.state == "open" else 0)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
