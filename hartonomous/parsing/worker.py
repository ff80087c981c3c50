"""The process that parses files: `python -m hartonomous.parsing.worker PARENT MEMORY_BYTES`.

It reads strangers' files with large libraries in C, so it is built to be lost: it has little memory and processor
time, writes no files, dies with the server, and knows none of its secrets. Each format's libraries are loaded with its
first file.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import resource
import signal
import stat
import sys
import traceback
import warnings
from pathlib import Path
from typing import BinaryIO, Final

from hartonomous.parsing.cleaning import clean, clean_title
from hartonomous.parsing.protocol import HELLO, Answer, Request, head, read_request
from hartonomous.parsing.refusal import INTERNAL, RefusedError

_PR_SET_PDEATHSIG: Final = 1
_NICENESS: Final = 5
# The server's own clock comes first; processor time is what holds when the server itself is stuck.
_CPU_GRACE_S: Final = 1
# Of the memory, what the XML of a DOCX may have; its tree takes several times as much.
_INFLATED_SHARE: Final = 4

_Text = tuple[str, str | None, tuple[int, ...]]


def main(argv: list[str]) -> None:
    """Serve the process `argv[0]` with `argv[1]` bytes of memory until it closes the pipe."""
    parent, memory_bytes = int(argv[0]), int(argv[1])
    _bind_to(parent)
    requests, answers = _pipes()
    _confine(memory_bytes)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    answers.write(HELLO)
    answers.flush()
    while (request := read_request(requests)) is not None:
        answer, text = _answer(*request, memory_bytes)
        answers.write(head(answer))
        answers.write(text)
        answers.flush()
        if answer["spent"]:
            break


def _bind_to(parent: int) -> None:
    """Have the kernel kill this process with its parent, or rather with the thread of it that started this one.

    What a terminal or a service manager sends to all processes of the server is not for this one.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was told
        raise SystemExit(1)
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)


def _pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return the two ends, with nothing left on standard input and output that a library could read or write.

    Nor on any other descriptor: uvloop gives what it starts all that can be inherited, with both ends once more.
    """
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)
    return requests, answers


def _confine(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICENESS)


def _answer(request: Request, data: bytes, memory_bytes: int) -> tuple[Answer, bytes]:
    answer: Answer = {"reason": None, "size": 0, "title": None, "pages": [], "resident": 0, "spent": False}
    encoded = b""
    try:
        _limit_cpu(request["cpu_s"])
        text, title, pages = _parse(request, data, memory_bytes)
        encoded = text.encode()
        if len(encoded) > request["max_text_bytes"]:
            raise RefusedError("text_too_large")
        answer |= {"size": len(encoded), "title": clean_title(title), "pages": list(pages)}
    except RefusedError as error:
        answer["reason"], encoded = error.reason, b""
    except MemoryError:
        answer |= {"reason": "file_too_costly", "spent": True}
    except RecursionError:
        answer |= {"reason": "nested_too_deeply", "spent": True}
    except Exception as error:  # noqa: BLE001 - whatever a library makes of a stranger's file
        ours = isinstance(error, ImportError | FileNotFoundError | PermissionError)
        answer |= {"reason": INTERNAL if ours else "broken_file", "spent": True, "detail": _place(error)}
    answer["resident"] = _resident()
    return answer, encoded


def _limit_cpu(seconds: float) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime + seconds) + _CPU_GRACE_S
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _parse(request: Request, data: bytes, memory_bytes: int) -> _Text:
    if request["path"] is not None:
        data = _content(Path(request["path"]))
    parsed = _by_kind(request, data, memory_bytes)
    if not parsed[0]:
        raise RefusedError("no_text")
    return parsed


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise RefusedError("broken_file")
        return file.read()


def _by_kind(request: Request, data: bytes, memory_bytes: int) -> _Text:
    max_bytes = request["max_text_bytes"]
    if request["kind"] == "html":
        from hartonomous.parsing import from_html

        text, title = from_html.parse(data.decode() if request["decoded"] else data, max_bytes)
        return clean(text), title, ()
    if request["kind"] == "pdf":
        from hartonomous.parsing import from_pdf

        return from_pdf.parse(data, max_bytes)
    if request["kind"] == "docx":
        from hartonomous.parsing import from_docx

        text, title = from_docx.parse(data, max_bytes, memory_bytes // _INFLATED_SHARE)
        return clean(text), title, ()
    from hartonomous.parsing.decoding import decode

    return clean(data.decode() if request["decoded"] else decode(data)), None, ()


def _place(error: Exception) -> str:
    """Return an error's kind and the line where it came up, but not its words, which may hold the document's."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


def _resident() -> int:
    """Return the bytes that this process holds in memory, once what is free was given back."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main(sys.argv[1:])
