"""Structured logs: loguru with one plain sink of JSON lines, and the standard library bridged into it.

One orjson line a record, into one stream, without loguru's `serialize` or `enqueue` (2 to 6 times dearer).
`diagnose=False`: a traceback never prints the values of variables, which hold prompts and keys. Call sites give
context with `logger.bind(key=value)` or keyword arguments; the message itself is a constant.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import TYPE_CHECKING, Any, TextIO

import orjson
from loguru import logger

if TYPE_CHECKING:
    from loguru import Message

__all__ = ["configure", "logger"]

# Libraries that log every operation at debug or info.
_CHATTY = ("aiocache", "aiohttp.access", "asyncio", "grpc", "httpcore", "httpx")


class _Bridge(logging.Handler):
    """Hands records of the standard library's logging to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno
        logger.bind(logger=record.name).opt(exception=record.exc_info).log(level, "{}", record.getMessage())


def format_record(record: Any) -> str:
    """Return one record as a JSON line; control characters are escaped by JSON itself."""
    fields: dict[str, Any] = {
        "time": record["time"].isoformat(timespec="milliseconds"),
        "level": record["level"].name,
        "logger": record["name"],
        "message": record["message"],
        **record["extra"],
    }
    exception = record["exception"]
    if exception is not None:
        fields["exception"] = "".join(traceback.format_exception(exception.type, exception.value, exception.traceback))
    return orjson.dumps(fields, default=str, option=orjson.OPT_APPEND_NEWLINE).decode()


def configure(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send all records of `level` and above to `stream` (default: standard error), one JSON line each."""
    target = stream or sys.stderr

    def sink(message: Message) -> None:
        try:
            target.write(format_record(message.record))
            target.flush()
        except (OSError, ValueError):
            # A full disk or a closed pipe must never stop the server from serving.
            return

    logger.remove()
    logger.add(sink, level=level, format="{message}", diagnose=False, backtrace=False, catch=False)
    logging.basicConfig(handlers=[_Bridge()], level=logging.INFO, force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
