"""Nothing is left behind, whatever ends the stack: real processes under the real supervisor."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.trial.supervisor import Supervised, wait_for

Start = Callable[..., Supervised]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Supervised] = []

    def make(*stages: dict[str, tuple[str, ...]], **seconds: float) -> Supervised:
        started.append(Supervised(tmp_path, *stages, **seconds))
        return started[-1]

    yield make
    for stack in started:
        stack.kill_everything()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_every_part_and_the_exit_code_is_0(start: Start, number: signal.Signals) -> None:
    stack = start({"models": (), "engine": ()}, {"api": ()})
    stack.wait_until_ready()
    assert len(stack.living()) == 3
    assert stack.end(number) == (0, "")
    assert stack.living() == {}


def test_parts_stop_in_the_reverse_order_of_their_start(start: Start) -> None:
    stack = start({"models": (), "engine": ()}, {"api": ()})
    stack.wait_until_ready()
    stack.end(signal.SIGTERM)
    assert stack.journal.read_text().splitlines() == ["api SIGTERM", "engine SIGTERM", "models SIGTERM"]


def test_the_interrupt_of_a_terminal_reaches_the_parts_only_through_the_supervisor(start: Start) -> None:
    stack = start({"engine": ()}, {"api": ()})
    stack.wait_until_ready()
    os.killpg(stack.process.pid, signal.SIGINT)
    assert stack.end()[0] == 0
    assert stack.journal.read_text().splitlines() == ["api SIGTERM", "engine SIGTERM"]


def test_a_killed_supervisor_leaves_no_part_behind(start: Start) -> None:
    stack = start({"models": (), "engine": ()}, {"api": ()})
    stack.wait_until_ready()
    stack.end(signal.SIGKILL)
    wait_for(lambda: not stack.living())


@pytest.mark.parametrize("name", ["models", "api"])
def test_row_29_a_part_that_dies_is_started_again_and_the_others_go_on(start: Start, name: str) -> None:
    stack = start({"models": (), "engine": ()}, {"api": ()})
    stack.wait_until_ready()
    before = stack.pids()
    os.kill(before[name], signal.SIGKILL)
    assert stack.line() == (
        f"  The {name} ended by SIGKILL; it is started again now. Its log: {stack.logs / f'{name}.log'}\n"
    )
    wait_for(lambda: _log(stack, name) == f"{name} listens\n" * 2)
    after = stack.pids()
    assert after.pop(name) != before.pop(name)
    assert after == before
    assert stack.end(signal.SIGTERM) == (0, "")
    assert stack.journal.read_text().splitlines() == ["api SIGTERM", "engine SIGTERM", "models SIGTERM"]
    assert stack.living() == {}


def test_what_a_part_that_died_has_left_is_ended_before_it_is_started_again(start: Start) -> None:
    stack = start({"engine": ("--grandchild",)})
    stack.wait_until_ready()
    wait_for(lambda: len(stack.living()) == 2)
    before = stack.living()
    os.kill(stack.pids()["engine"], signal.SIGKILL)
    wait_for(lambda: len(stack.living()) == 2 and not stack.living().keys() & before.keys())


def test_a_signal_ends_the_wait_for_the_next_start(start: Start) -> None:
    stack = start({"engine": ()}, {"api": ()})
    stack.wait_until_ready()
    for death in range(3):
        wait_for(lambda: "api" in stack.pids())
        os.kill(stack.pids()["api"], signal.SIGKILL)
        line = stack.line()
        assert line.startswith("  The api ended by SIGKILL; it is started again ")
        assert ("now" in line) == (death == 0)
    assert stack.end(signal.SIGTERM) == (0, "")
    assert stack.journal.read_text() == "engine SIGTERM\n"


def test_a_part_that_dies_before_it_was_healthy_is_told_with_the_end_of_its_log(start: Start) -> None:
    stack = start({"models": (), "engine": ("--healthy-when", "/nonexistent")})
    wait_for(lambda: "engine listens" in _log(stack, "engine"))
    os.kill(stack.pids()["engine"], signal.SIGKILL)
    code, error = stack.end()
    assert code == 1
    assert error.startswith("The engine ended by SIGKILL, so everything was stopped.")
    assert "engine listens" in error
    assert stack.living() == {}


def test_a_part_that_dies_while_others_start_ends_all(start: Start) -> None:
    stack = start({"models": ("--no-such-option",), "engine": ("--healthy-when", "/nonexistent")})
    code, error = stack.end()
    assert code == 1
    assert error.startswith("The models ended with exit code 2")
    assert "unrecognized arguments: --no-such-option" in error
    assert stack.living() == {}


def test_a_signal_during_the_start_ends_what_was_started(start: Start) -> None:
    stack = start({"models": ("--healthy-when", "/nonexistent")}, {"api": ()})
    wait_for(lambda: any("fake_part" in command for command in stack.living().values()))
    assert stack.end(signal.SIGINT) == (0, "")
    assert stack.living() == {}


def test_a_part_that_is_never_healthy_ends_all(start: Start) -> None:
    stack = start({"models": ("--healthy-when", "/nonexistent"), "engine": ()}, start=0.5)
    assert stack.end() == (1, "The models did not become healthy within 0.5 s.\n")
    assert stack.living() == {}


def test_a_stage_waits_for_the_health_of_the_one_before(start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    stack = start({"engine": ("--healthy-when", str(gate))}, {"api": ()})
    wait_for(lambda: "engine listens" in _log(stack, "engine"))
    assert _log(stack, "api") == ""
    gate.touch()
    stack.wait_until_ready()
    assert _log(stack, "api") == "api listens\n"


def test_a_part_that_ignores_sigterm_is_killed_after_its_grace(start: Start) -> None:
    stack = start({"engine": ("--stubborn",)}, {"api": ("--stubborn",)}, grace=0.3)
    stack.wait_until_ready()
    assert stack.end(signal.SIGTERM) == (0, "")
    assert stack.living() == {}


def test_a_second_signal_waits_for_nobody(start: Start) -> None:
    stack = start({"engine": ("--stubborn",)}, {"api": ("--stubborn",)}, grace=600)
    stack.wait_until_ready()
    stack.process.send_signal(signal.SIGINT)
    wait_for(lambda: "api SIGTERM" in stack.journal.read_text())
    assert stack.end(signal.SIGINT) == (0, "")
    assert stack.living() == {}


def test_what_a_part_has_started_goes_with_it(start: Start) -> None:
    stack = start({"engine": ("--grandchild",)})
    stack.wait_until_ready()
    wait_for(lambda: len(stack.living()) == 2)
    stack.end(signal.SIGTERM)
    wait_for(lambda: not stack.living())


def test_a_reader_that_is_gone_does_not_keep_the_stack_from_stopping(start: Start) -> None:
    stack = start({"engine": ()}, {"api": ()})
    assert stack.process.stdout is not None
    stack.process.stdout.close()
    wait_for(lambda: "api listens" in _log(stack, "api"))
    stack.process.send_signal(signal.SIGTERM)
    assert stack.process.wait(30) == 0
    assert stack.living() == {}


def test_the_log_of_the_run_before_is_kept_beside_the_new_one(start: Start) -> None:
    for _ in range(2):
        stack = start({"engine": ()})
        stack.wait_until_ready()
        stack.end(signal.SIGTERM)
    assert _log(stack, "engine") == (stack.logs / "engine.log.1").read_text() == "engine listens\n"


def _log(stack: Supervised, name: str) -> str:
    path = stack.logs / f"{name}.log"
    return path.read_text() if path.exists() else ""
