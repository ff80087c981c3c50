"""Structured logs: loguru with one plain sink of JSON lines, and the standard library bridged into it.

One orjson line a record, into one stream, without loguru's `serialize` or `enqueue` (2 to 6 times dearer).
`diagnose=False`: a traceback never prints the values of variables, which hold prompts and keys. Call sites give
context with `logger.bind(key=value)` or keyword arguments; the message itself is a constant. What comes with every
request is told past loguru (`told`): 4 µs a record for 20.

A log that cannot be written (a full disk, a closed pipe) stops nobody: its lines are counted (`lost`), and the first
one that can be written again comes after a line that says how many were lost.

The newest records are `kept` in memory as well, for `/admin/logs`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from select import PIPE_BUF
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TextIO

import orjson
from loguru import logger

from hartonomous.core.kept import Kept, KeptRecord

if TYPE_CHECKING:
    from loguru import Message

    from hartonomous.core.call import Call

__all__ = [
    "about",
    "begin_about",
    "configure",
    "encoded",
    "kept",
    "logger",
    "lost",
    "members",
    "only_about",
    "record_of",
    "tell",
]

_ABOUT: ContextVar[Mapping[str, str]] = ContextVar("ABOUT", default=MappingProxyType({}))

begin_about: Callable[[Mapping[str, str]], object] = _ABOUT.set
"""Let every record of the task that runs say these facts, and no others, to its end."""

kept = Kept(2_000)
"""The newest records of the process."""

# Of the process, which it need not be asked for with each record: that is a system call.
_pid = [os.getpid()]
os.register_at_fork(after_in_child=lambda: _pid.__setitem__(0, os.getpid()))

# What JSON leaves as it is and a terminal or a line reader does not: DEL, the C1 controls, Unicode's line ends and
# the marks that turn the direction of the text.
_UNPRINTED = re.compile("[\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")

# Libraries that log every operation at debug or info.
_CHATTY = ("aiocache", "aiohttp.access", "asyncio", "grpc", "httpcore", "httpx", "opentelemetry", "urllib3")


class _Bridge(logging.Handler):
    """Hands records of the standard library's logging to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and type(record.exc_info[1]).__module__ == "aiohttp.http_exceptions":
            # A request that was no HTTP: the peer's fault, and worth neither an alarm nor a traceback.
            logger.bind(logger=record.name).info("malformed request")
            return
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        logger.bind(logger=record.name).opt(exception=record.exc_info).log(level, "{}", record.getMessage())


def format_record(record: Any) -> str:
    """Return one record as a JSON line of printable characters (no line end), whatever its fields hold."""
    fields: dict[str, Any] = {
        "time": record["time"].isoformat(timespec="milliseconds"),
        "level": record["level"].name,
        "logger": record["name"],
        "message": record["message"],
        "pid": record["process"].id,
        **_ABOUT.get(),
        **record["extra"],
    }
    exception = record["exception"]
    if exception is not None:
        fields["exception"] = "".join(traceback.format_exception(exception.type, exception.value, exception.traceback))
    return encoded(fields)


def encoded(fields: dict[str, Any]) -> str:
    """Return the JSON of `fields` in printable characters on one line, whatever they hold."""
    text = _encode(fields)
    if text.isascii() and "\x7f" not in text:
        return text  # as nearly always; to look for the others takes 3 µs
    return _UNPRINTED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _encode(fields: dict[str, Any]) -> str:
    try:
        return orjson.dumps(fields, default=_shown, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        pass  # half a surrogate pair, an integer beyond 64 bits, a list within itself
    try:
        return json.dumps(fields, default=_shown, skipkeys=True)
    except (ValueError, RecursionError):
        return json.dumps({name: _plain(value) for name, value in fields.items()})


def _plain(value: object) -> object:
    """Return what JSON surely has a text for: of other values, what they are."""
    is_short = value is None or isinstance(value, str) or (isinstance(value, int) and value.bit_length() <= 64)
    return value if is_short else f"<{type(value).__name__}>"


def _shown(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever a value's own text does, the record is written
        return f"<{type(value).__name__}>"


class _Lines:
    """Writes lines to a stream, or counts those that it does not take: those of `level` and above."""

    total = 0  # of all streams that there have been
    latest: _Lines | None = None

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.level = 0
        self._write = _writer(stream)
        self._lock = Lock()
        self._untold = 0
        self._torn = False

    def __call__(self, message: Message) -> None:
        """Write a record of loguru's, which has looked at its level."""
        record = message.record
        line = format_record(record)
        self.take([KeptRecord(record["time"].timestamp(), record["level"].no, _request_id(record["extra"]), line)])

    def take(self, records: Sequence[KeptRecord]) -> None:
        """Write records, and before them how many were lost, and keep them. Any thread may call it."""
        with self._lock:
            kept.extend(records)
            done = 0 if self._untold or self._torn or len(records) == 1 else self._put_together(records)
            for record in records[done:]:
                self._put_alone(record)

    def _put_together(self, records: Sequence[KeptRecord]) -> int:
        """Write as many as one write takes from beginning to end; return how many have been taken, or are lost."""
        done = 0
        for text in _gathered(records):
            try:
                rest = self._write(text)
            except (OSError, ValueError):
                return done
            if rest:
                taken = text.encode()[:-rest]
                self._torn = not taken.endswith(b"\n")
                self._lose(self._torn)
                return done + taken.count(b"\n") + self._torn
            done += text.count("\n")
        return done

    def _put_alone(self, record: KeptRecord) -> None:
        if self._untold and self._put(self._told(record.time)):
            self._untold = 0
        self._lose(not self._put(record.line))

    def _lose(self, lines: int) -> None:
        self._untold += lines
        _Lines.total += lines

    def _put(self, line: str) -> bool:
        """Write a line; return whether it was taken whole."""
        try:
            rest = self._write(f"\n{line}\n" if self._torn else f"{line}\n")
        except (OSError, ValueError):
            return False
        # A disk that is nearly full takes the beginning of a line: the next one must not go on in it.
        self._torn = rest > 0
        return not self._torn

    def _told(self, now: float) -> str:
        fields = {"time": _stamp(now), "level": "WARNING", "logger": __name__}
        return _encode({**fields, "message": "log lines were lost", "lines": self._untold})


def _gathered(records: Sequence[KeptRecord]) -> Iterator[str]:
    """Yield the lines of records, as many at once as a pipe takes as one thing: other processes may write to it too."""
    lines: list[str] = []
    size = 0
    for record in records:
        more = len(record.line.encode()) + 1
        if size + more > PIPE_BUF and lines:
            yield "".join(lines)
            lines, size = [], 0
        lines.append(f"{record.line}\n")
        size += more
    yield "".join(lines)


def _request_id(extra: dict[str, Any]) -> str | None:
    name = extra.get("request_id", _ABOUT.get().get("request_id"))
    return name if isinstance(name, str) else None


def _writer(stream: TextIO) -> Callable[[str], int]:
    """Return what writes a text and says how many bytes of it were not taken.

    A file is written past Python's buffers, which would keep what could not be written and bring it out later, cut
    off somewhere.
    """
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        return lambda text: len(text) - stream.write(text)

    def write(text: str) -> int:
        data = text.encode()
        return len(data) - os.write(descriptor, data)

    return write


@contextmanager
def about(**facts: str) -> Iterator[None]:
    """Let every record of a block say these facts as well, also those of libraries and of the tasks begun in it."""
    token = _ABOUT.set({**_ABOUT.get(), **facts})
    try:
        yield
    finally:
        _ABOUT.reset(token)


def only_about(call: Call) -> None:
    """Let the records of the task that runs say whose work it does, and nothing of the request that began it."""
    _ABOUT.set(call.facts)


def record_of(name: str, message: str, now: float, request_id: str | None, said: str) -> KeptRecord:
    """Return an INFO record of the logger `name` of this time (Unix), the same as loguru's, for `tell`.

    What it says beside these are `members`.
    """
    begin, end = _frame(int(now), name, message, _pid[0])
    return KeptRecord(now, logging.INFO, request_id, f"{begin}{int(now % 1 * 1000):03}{end}{said}}}")


def members(fields: Mapping[str, Any]) -> str:
    """Return the members of a JSON object, each after a comma; whoever knows a text that needs no escapes writes it."""
    return f",{encoded(dict(fields))[1:-1]}" if fields else ""


def tell(records: Sequence[KeptRecord]) -> None:
    """Write INFO records in as few writes as may be; nothing before `configure`."""
    lines = _Lines.latest
    if lines is not None and lines.level <= logging.INFO and records:
        lines.take(records)


def _stamp(now: float) -> str:
    """Return a Unix time in the local zone, as loguru's records have it, to the millisecond."""
    date, zone = _second(int(now))
    return f"{date}.{int(now % 1 * 1000):03}{zone}"


@lru_cache(maxsize=4)
def _frame(second: int, name: str, message: str, pid: int) -> tuple[str, str]:
    """Return what comes before and behind the milliseconds in the lines of a second."""
    date, zone = _second(second)
    rest = members({"level": "INFO", "logger": name, "message": message, "pid": pid})
    return f'{{"time":"{date}.', f'{zone}"{rest}'


@lru_cache(maxsize=1)
def _second(second: int) -> tuple[str, str]:
    text = datetime.fromtimestamp(second).astimezone().isoformat()
    return text[:19], text[19:]


def lost() -> int:
    """Return how many lines could not be written since the process began."""
    return _Lines.total


def _lines(stream: TextIO) -> _Lines:
    """Return what writes to a stream: the same as before, with the lines that it still owes, if the stream is."""
    if _Lines.latest is None or _Lines.latest.stream is not stream:
        _Lines.latest = _Lines(stream)
    return _Lines.latest


def configure(level: str = "INFO", stream: TextIO | None = None, kept_records: int = 2_000) -> None:
    """Send all records of `level` and above to `stream` (default: standard error), one JSON line each.

    So many of the newest are kept in memory.
    """
    logger.remove()
    kept.resize(kept_records)
    sink = _lines(stream or sys.stderr)
    sink.level = logger.level(level).no
    logger.add(sink, level=level, format="{message}", diagnose=False, backtrace=False, catch=False)
    logging.basicConfig(handlers=[_Bridge()], level=logging.INFO, force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
