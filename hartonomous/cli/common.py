"""What every command shares: arguments, sentences on standard error, an exit status. It loads nothing heavy."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

INTERRUPTED: Final = 130
"""The exit status of a command that Ctrl-C ended: 128 and the number of the signal."""


def whole(text: str) -> int:
    """Return a whole number of up to six digits, as an argument."""
    if not re.fullmatch("[0-9]{1,6}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


KEY: Final = "HARTONOMOUS_API_KEY"
"""The variable of the environment that holds the API key of a client's command."""


class UsageError(Exception):
    """The arguments do not go together; the message says why."""


class OutputError(Exception):
    """Standard output cannot be written; the cause says why, or that its reader has left."""


def add_server(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say where the API is and whose key it is asked with."""
    parser.add_argument("--url", type=_url, default="http://127.0.0.1:8700", help="of the API; default %(default)s")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="file that holds the API key")


def api_key(file: Path | None) -> str | None:
    """Return the key that a file holds, or else the environment; None without any. Raises UsageError."""
    key = os.environ.get(KEY, "")
    if file is not None:
        try:
            key = file.read_text(encoding="ascii", errors="replace").strip()
        except OSError as error:
            raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    if file is None and not key:
        return None
    if not re.fullmatch("[!-~]+", key):
        raise UsageError(f"the key in {file or KEY} is not one word of visible ASCII characters")
    return key


def print_all_letters() -> None:
    """Let standard output escape the letters that its encoding does not have."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def show(line: str) -> None:
    """Print a line on standard output. Raises OutputError."""
    try:
        print(line, flush=True)
    except OSError as error:
        raise OutputError from error


def end_output(error: OutputError) -> int:
    """Say that standard output cannot be written, unless its reader has left; return the exit status."""
    from hartonomous.sending.tally import reason

    # What is still in its buffer must not fail the end of the process.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    cause = error.__cause__
    if isinstance(cause, OSError) and not isinstance(cause, BrokenPipeError):
        complain(f"Standard output cannot be written: {reason(cause)}.")
    return 1


def complain(sentence: str) -> None:
    """Print a sentence on standard error, with everything escaped that would steer a terminal."""
    from hartonomous.sending.naming import printable

    print(printable(sentence), file=sys.stderr, flush=True)


def utf8(text: str) -> str:
    """Return an argument that goes into a request."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise argparse.ArgumentTypeError(f"{text!r} is no UTF-8")
    return text


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://[^/?#@\s]+(/[^?#\s]*)?", utf8(text)) or not _has_host(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no address like http://127.0.0.1:8700, without user or query")
    return text


def _has_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # half an IPv6 address, no number of a port
        return False
