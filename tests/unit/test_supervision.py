"""When a process that died is started again, and that it never outlives who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from hartonomous.supervision import LONGEST_WAIT_S, STABLE_S, Restarts, ending


def waits(count: int, chance: float) -> list[float]:
    restarts = Restarts(lambda: chance)
    return [restarts.wait_after(0.1) for _ in range(count)]


def test_the_first_death_is_mended_at_once_and_the_waits_after_it_double_up_to_a_cap() -> None:
    most = waits(12, 1.0)
    assert most[:5] == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert most[-1] == LONGEST_WAIT_S
    assert waits(2_000, 1.0)[-1] == LONGEST_WAIT_S


def test_jitter_takes_away_half_of_a_wait_at_most() -> None:
    assert waits(12, 0.0) == [wait / 2 for wait in waits(12, 1.0)]


def test_a_long_life_makes_up_for_the_deaths_before_it() -> None:
    restarts = Restarts(lambda: 1.0)
    lives = (1.0, 1.0, 1.0, STABLE_S, STABLE_S - 1)
    assert [restarts.wait_after(lived_s) for lived_s in lives] == [0.0, 0.5, 1.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "with exit code 0"), (3, "with exit code 3"), (-9, "by SIGKILL"), (-40, "by signal 40")],
)
def test_an_end_is_told_in_words(code: int, words: str) -> None:
    assert ending(code) == words


def test_a_process_whose_parent_died_before_it_was_tied_to_it_ends() -> None:
    program = f"from hartonomous.supervision import *; die_with_parent({os.getppid()}, {int(signal.SIGKILL)}); print(1)"
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert (ended.returncode, ended.stdout) == (1, b"")
