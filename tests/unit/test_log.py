"""Log records: one printable JSON line each, whatever is in them, and a sink that cannot break its caller."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from datetime import datetime
from select import PIPE_BUF
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartonomous import log
from hartonomous.core.kept import KeptRecord
from hartonomous.log import logger


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the log goes during a test; afterwards nowhere."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    text = io.StringIO()
    log.configure("DEBUG", text)
    yield text
    logger.remove()
    root.handlers[:] = handlers
    root.setLevel(level)


def _records(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().split("\n")[:-1]]


def test_a_record_is_one_json_line_with_its_context(stream: io.StringIO) -> None:
    logger.bind(request_id="r1", status=200).info("request")
    (record,) = _records(stream)
    assert record["time"].count("T") == 1
    assert {key: record[key] for key in ("level", "logger", "message", "request_id", "status")} == {
        "level": "INFO",
        "logger": __name__,
        "message": "request",
        "request_id": "r1",
        "status": 200,
    }


HOSTILE = "a\r\nINFO faked\x1b[31m\x00\x7f\x85\x9b31m\u2028\u2029\u202egnp.exe\u2066"


def test_control_characters_are_escaped_in_messages_fields_and_names(stream: io.StringIO) -> None:
    logger.bind(**{"field": HOSTILE, HOSTILE: 1}).warning("{}", HOSTILE)
    text = stream.getvalue()
    assert text.isascii()
    assert text.endswith("\n")
    assert text.removesuffix("\n").isprintable()
    (record,) = _records(stream)
    assert record["message"] == record["field"] == HOSTILE
    assert record[HOSTILE] == 1


@given(st.text(st.characters(codec=None)), st.integers(), st.dictionaries(st.text(), st.binary(), max_size=2))
def test_whatever_is_logged_is_one_line(text: str, number: int, value: dict[str, bytes]) -> None:
    target = io.StringIO()
    log.configure("INFO", target)
    try:
        logger.bind(text=text, number=number, value=value, odd=object()).info("{}", text)
    finally:
        logger.remove()
    line = target.getvalue()
    assert line.splitlines(keepends=True) == [line]
    assert json.loads(line)["message"] == text


@pytest.mark.parametrize("value", ["\ud800", 2**70, {("a", 1): 2}, {1: "a"}, float("nan"), b"\xff", object()])
def test_what_json_cannot_say_is_logged_all_the_same(stream: io.StringIO, value: Any) -> None:
    logger.bind(value=value).info("odd")
    assert _records(stream)[0]["message"] == "odd"


def test_a_traceback_shows_the_lines_and_no_values(stream: io.StringIO) -> None:
    prompt = "the secret prompt"
    try:
        _fail(prompt)
    except ValueError:
        logger.exception("failed")
    (record,) = _records(stream)
    assert "in _fail" in record["exception"]
    assert "ValueError: no" in record["exception"]
    assert prompt not in record["exception"]


def _fail(prompt: str) -> None:
    assert prompt
    raise ValueError("no")


def test_the_standard_librarys_records_come_along(stream: io.StringIO) -> None:
    logging.getLogger("some.library").warning("it is %s", "late")
    try:
        _fail("x")
    except ValueError:
        logging.getLogger("some.library").exception("oh")
    logging.getLogger("some.library").log(35, "between")
    first, second, third = _records(stream)
    assert (first["level"], first["logger"], first["message"]) == ("WARNING", "some.library", "it is late")
    assert "ValueError: no" in second["exception"]
    assert third["message"] == "between"


@pytest.mark.parametrize("name", ["aiocache", "asyncio", "httpx", "httpcore", "aiohttp.access"])
def test_chatty_libraries_are_quiet_below_a_warning(stream: io.StringIO, name: str) -> None:
    logging.getLogger(name).info("GET / 200")
    logging.getLogger(name).warning("slow")
    assert [record["message"] for record in _records(stream)] == ["slow"]


def test_the_level_is_honoured() -> None:
    for level, expected in (("WARNING", ["w", "e"]), ("ERROR", ["e"]), ("DEBUG", ["d", "i", "w", "e"])):
        text = io.StringIO()
        log.configure(level, text)
        logger.debug("d")
        logger.info("i")
        logger.warning("w")
        logger.error("e")
        logger.remove()
        assert [record["message"] for record in _records(text)] == expected


class _Full(io.StringIO):
    """A file on a full disk."""

    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


class _NoFlush(io.StringIO):
    def flush(self) -> None:
        raise BrokenPipeError


@pytest.mark.parametrize("broken", [_Full(), _NoFlush()])
def test_a_sink_that_cannot_be_written_breaks_nothing(broken: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("INFO", broken)
    logger.info("lost")
    logging.getLogger("library").error("lost")
    logger.remove()
    assert capsys.readouterr().err == ""


def test_a_closed_stream_breaks_nothing() -> None:
    closed = io.StringIO()
    log.configure("INFO", closed)
    closed.close()
    logger.info("lost")
    logger.remove()


def test_a_value_that_cannot_be_shown_breaks_nothing(stream: io.StringIO) -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("no")

    endless: list[Any] = []
    endless.append(endless)
    logger.bind(value=Odd()).info("odd")
    logger.bind(value=endless).info("endless")
    assert [record["message"] for record in _records(stream)] == ["odd", "endless"]


def test_the_default_is_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure()
    logger.info("here")
    logger.remove()
    assert json.loads(capsys.readouterr().err)["message"] == "here"
    assert sys.stderr is not None


def test_what_is_told_past_the_library_is_the_line_that_the_library_writes(stream: io.StringIO) -> None:
    fields = {"status": 200, "route": HOSTILE, "key": None}
    with log.about(request_id="r1"):
        logger.bind(**fields).info("request")
    said = log.members({"request_id": "r1", **fields})
    log.tell([log.record_of(__name__, "request", 1_700_000_000.25, "r1", said)])
    written, told = _records(stream)
    assert list(told) == list(written)
    assert told == written | {"time": told["time"]}
    assert datetime.fromisoformat(told["time"]).timestamp() == 1_700_000_000.25
    assert len(told["time"]) == len(written["time"])
    assert [(record.level, record.request_id) for record in log.kept.all()[0][-2:]] == [(20, "r1"), (20, "r1")]


def test_what_is_told_keeps_to_the_level() -> None:
    text = io.StringIO()
    log.configure("WARNING", text)
    log.tell([log.record_of(__name__, "request", 0.0, None, "")])
    logger.remove()
    assert text.getvalue() == ""


class _Partial(io.StringIO):
    """Takes so many characters in all, then nothing, as a disk that is full does, until there is room again."""

    room = 0

    def write(self, text: str) -> int:
        taken = super().write(text[: self.room])
        self.room -= taken
        return taken


def _told(*names: str) -> list[KeptRecord]:
    return [log.record_of(__name__, "request", 1e9, name, log.members({"request_id": name})) for name in names]


def test_of_lines_that_are_written_together_those_are_lost_that_are_not_whole(stream: io.StringIO) -> None:
    full, names = _Partial(), ("one", "two", "three", "four")
    log.configure("INFO", full)
    before, first = log.lost(), _told("one")[0].line
    full.room = 2 * len(first) + 12
    log.tell(_told(*names))
    assert log.lost() - before == 2
    full.room = 10_000
    log.tell(_told("five", "six"))
    assert log.lost() - before == 2
    whole = [json.loads(line) for line in full.getvalue().splitlines() if line.endswith("}")]
    assert [(record.get("request_id"), record.get("lines")) for record in whole] == [
        ("one", None),
        ("two", None),
        (None, 2),
        ("five", None),
        ("six", None),
    ]


def test_lines_are_written_together_as_far_as_a_pipe_takes_them_whole(stream: io.StringIO) -> None:
    records = _told(*(str(number) for number in range(100)))
    sizes = [len(text) for text in log._gathered(records)]
    assert max(sizes) <= PIPE_BUF
    assert len(sizes) < 10
    log.tell(records)
    assert [record["request_id"] for record in _records(stream)] == [str(number) for number in range(100)]
