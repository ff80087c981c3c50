"""The engine's supervisor over workers of a few lines: real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

# Waits are halved by a chance of 0: 0, 0.25 and 0.5 s.
SUPERVISOR = """
import os, sys
from hartonomous.engine.supervisor import supervise
from hartonomous.supervision import Restarts

def tell(code, wait_s):
    print("died", code, wait_s, flush=True)
    raise OSError("nobody reads this")

def command(before):
    return [sys.executable, "-S", "-c", sys.argv[1], str(before)]

{prelude}
sys.exit(supervise(command, tell, Restarts(lambda: 0.0)))
"""
READY = """
import os, signal, sys, time
def on_signal(number, frame):
    os.write(1, f"got {signal.Signals(number).name}\\n".encode())  # print may be under way
    os._exit(7)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, on_signal)
os.write(int(os.environ["HARTONOMOUS_READY_FD"]), b"here:4711\\n")
print("up", os.getpid(), sys.argv[1], flush=True)
"""
STAYS = READY + "time.sleep(30)\n"
SECOND_FORK_FAILS = """
fork, forks = os.fork, []
def failing_fork():
    forks.append(1)
    if len(forks) == 2:
        raise BlockingIOError("too many processes")
    return fork()
os.fork = failing_fork
"""


class Supervised:
    """A supervisor and its worker, whose lines are read."""

    def __init__(self, worker: str, prelude: str) -> None:
        command = [sys.executable, "-c", SUPERVISOR.format(prelude=prelude), worker]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def line(self) -> list[str]:
        """Return the words of the next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().split()

    def up(self) -> int:
        """Return the id of the worker that says next that it is up."""
        word, pid, _ = self.line()
        assert word == "up"
        return int(pid)

    def end(self, number: signal.Signals | None = None) -> tuple[int, str, str]:
        """Send a signal, if one is given; when nobody writes any more return exit code, standard output and error."""
        if number is not None:
            self.process.send_signal(number)
        out, error = self.process.communicate(timeout=20)
        return self.process.returncode, out, error


Start = Callable[..., Supervised]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Supervised] = []

    def make(worker: str, prelude: str = "") -> Supervised:
        started.append(Supervised(worker, prelude))
        return started[-1]

    yield make
    for each in started:
        each.process.kill()
        each.process.communicate()


def test_a_worker_that_was_killed_is_started_again_at_once_where_it_listened(start: Start) -> None:
    supervised = start(STAYS)
    word, pid, before = supervised.line()
    assert (word, before) == ("up", "None")
    os.kill(int(pid), signal.SIGKILL)
    assert supervised.line() == ["died", "-9", "0.0"]
    word, again, before = supervised.line()
    assert (word, before) == ("up", "here:4711")
    assert again != pid


def test_a_worker_that_goes_on_dying_waits_longer_each_time_and_a_signal_ends_the_wait(start: Start) -> None:
    supervised = start(READY + "sys.exit(3)\n")
    waits: list[float] = []
    while len(waits) < 4:
        word, *told = supervised.line()
        if word == "died":
            assert told[0] == "3"
            waits.append(float(told[1]))
    assert waits == [0.0, 0.25, 0.5, 1.0]
    assert supervised.end(signal.SIGTERM)[:2] == (0, "")


def test_what_is_wrong_at_the_first_start_ends_it_with_the_worker_s_code_and_words(start: Start) -> None:
    assert start("import sys; print('The port is taken.', file=sys.stderr); sys.exit(5)").end() == (
        5,
        "",
        "The port is taken.\n",
    )


def test_a_worker_killed_before_any_was_ready_is_not_started_again(start: Start) -> None:
    assert start("import os; os.kill(os.getpid(), 9)").end() == (128 + 9, "", "")


def test_a_worker_that_ends_in_order_is_not_started_again(start: Start) -> None:
    supervised = start(READY)
    supervised.up()
    assert supervised.end() == (0, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_the_worker_s_code_is_the_supervisor_s(start: Start, number: signal.Signals) -> None:
    supervised = start(STAYS)
    supervised.up()
    assert supervised.end(number) == (7, f"got {number.name}\n", "")


def test_a_signal_before_the_worker_handles_it_ends_both_with_0(start: Start) -> None:
    supervised = start("import time; print('up 0 None', flush=True); time.sleep(30)")
    supervised.up()
    assert supervised.end(signal.SIGTERM) == (0, "", "")


def test_the_worker_never_outlives_a_supervisor_that_is_killed(start: Start) -> None:
    """Standard output ends when its last writer, the worker, is gone; SIGKILL leaves it no word."""
    supervised = start(STAYS)
    supervised.up()
    assert supervised.end(signal.SIGKILL) == (-9, "", "")


def test_a_worker_has_no_signal_blocked(start: Start) -> None:
    worker = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    assert start(worker).end() == (0, "set()\n", "")


def test_a_worker_that_cannot_be_started_again_now_is_started_later(start: Start) -> None:
    supervised = start(STAYS, SECOND_FORK_FAILS)
    os.kill(supervised.up(), signal.SIGKILL)
    assert supervised.line() == ["died", "-9", "0.0"]
    assert supervised.line() == ["died", str(os.EX_OSERR), "0.25"]
    assert supervised.up()
