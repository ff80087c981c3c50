"""What is said of a course; a soak itself takes half an hour (`make soak`)."""

from __future__ import annotations

import random

import pytest

from tests.soak.course import judge

_SECONDS = 1_800.0
_TIMES = [float(number) for number in range(0, 1_800, 5)]


def _course(**changes: list[float]) -> dict[str, list[float]]:
    chance = random.Random(1)
    steady = {"memory": 90.0, "tasks": 40.0, "sockets": 60.0, "files": 80.0, "threads": 9.0}
    made = {name: [value + chance.uniform(-0.4, 0.4) for _ in _TIMES] for name, value in steady.items()}
    return {**made, **changes}


def test_what_scatters_does_not_grow() -> None:
    assert all(verdict.holds for verdict in judge(_TIMES, _course(), _SECONDS))


def test_what_grows_in_the_warm_up_alone_holds() -> None:
    filling = [min(90.0, 60.0 + at / 10) for at in _TIMES]
    assert all(verdict.holds for verdict in judge(_TIMES, _course(memory=filling), _SECONDS))


@pytest.mark.parametrize("name", ["memory", "tasks", "sockets", "files", "threads"])
def test_what_grows_slowly_and_for_ever_is_found(name: str) -> None:
    growing = [50.0 + at / 100 for at in _TIMES]
    assert [verdict.name for verdict in judge(_TIMES, _course(**{name: growing}), _SECONDS) if not verdict.holds] == [
        name
    ]


def test_memory_of_a_short_run_is_not_judged() -> None:
    times = [at / 100 for at in _TIMES]
    verdicts = judge(times, _course(memory=[float(at) for at in _TIMES]), 18.0)
    assert all(verdict.holds for verdict in verdicts)
    assert "too short a run" in verdicts[0].line()


def test_memory_is_judged_from_ten_minutes_on_though_the_last_look_is_before_the_end() -> None:
    times = [at / 3 - 1 for at in _TIMES[1:]]
    memory = [50.0 + at / 10 for at in times]
    course = {name: values[1:] for name, values in _course().items()} | {"memory": memory}
    assert times[-1] < 600
    assert [verdict.name for verdict in judge(times, course, 600.0) if not verdict.holds] == ["memory"]


def test_too_few_looks_say_nothing() -> None:
    with pytest.raises(ValueError, match="too few"):
        judge([1.0, 2.0, 3.0], {"tasks": [1.0, 1.0, 1.0]}, 3.0)
