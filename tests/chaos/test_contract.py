"""What the callers of a chaos run call wrong: bodies of errors, and streams that end half-way."""

from __future__ import annotations

import orjson
import pytest

from tests.chaos.contract import wrong_with_error
from tests.chaos.report import Report
from tests.chaos.streams import Events

_ERROR = {"message": "Busy.", "type": "backend_unavailable", "param": None, "code": "backend_unavailable"}
_SOURCES, _DONE = ("sources", b'{"sources": []}'), ("done", b'{"answer": "ab", "request_id": "r"}')
_DELTAS = [("delta", b'{"text": "a"}'), ("delta", b'{"text": "b"}')]
_CHUNK = ("message", b'{"choices": []}')


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (502, {}),
        (503, {"request_id": "another"}),
        (503, {"error": {"message": "Busy."}}),
        (503, {"error": _ERROR | {"type": "internal_error"}}),
    ],
)
def test_an_error_of_another_shape_is_wrong(status: int, changes: dict[str, object]) -> None:
    right = {"error": _ERROR, "request_id": "r"}
    assert wrong_with_error(503, orjson.dumps(right), "r") is None
    assert wrong_with_error(status, orjson.dumps(right | changes), "r") is not None
    assert wrong_with_error(503, b"<html>", "r") is not None


@pytest.mark.parametrize(
    "events",
    [
        [],
        [_SOURCES],
        [_SOURCES, *_DELTAS],
        [_SOURCES, *_DELTAS, _DONE, _DONE],
        [_SOURCES, _DELTAS[0], _DONE],
        [*_DELTAS, _DONE],
        [_SOURCES, ("error", b'{"error": {}, "request_id": "r"}')],
    ],
)
def test_a_query_that_is_not_told_to_its_end_is_wrong(events: list[tuple[str, bytes]]) -> None:
    assert Events(events=[_SOURCES, *_DELTAS, _DONE]).wrong_with_query("r") is None
    assert Events(events=events).wrong_with_query("r") is not None


def test_a_chat_ends_with_done_or_with_an_error() -> None:
    done, error = ("message", b"[DONE]"), ("message", orjson.dumps({"error": _ERROR, "request_id": "r"}))
    for right in ([_CHUNK, done], [_CHUNK, error]):
        assert Events(events=right).wrong_with_chat() is None
    for wrong in ([], [_CHUNK], [_CHUNK, error, done], [("message", b"{"), done]):
        assert Events(events=wrong).wrong_with_chat() is not None
    assert Events(events=[_CHUNK, done], rest=b"data: ").wrong_with_chat() is not None


def test_a_run_fails_by_any_violation_and_names_its_seed() -> None:
    assert not Report(seed=7, seconds=30.0).failed
    report = Report(seed=7, seconds=30.0)
    report.violate("duplicate", "the same", about=1)
    report.violate("duplicate", "the same", about=1)
    report.violate("duplicate", "another")
    lines = list(report.lines())
    assert report.failed
    assert report.count("duplicate") == 2
    assert lines[-2:] == ["FAILED", "to repeat: python -m tests.chaos --seed 7 --seconds 30"]
