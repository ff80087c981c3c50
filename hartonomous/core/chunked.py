"""HTTP's chunks (RFC 9112, 7.1), where they came whole: a backend sends each event of a stream as one of them.

Only what is plainly whole chunks is read here, and what else may come, of whatever form, is left to the parser.
"""

from __future__ import annotations

import re
from functools import lru_cache

_LINE_END = b"\r\n"
_SIZE = re.compile(rb"[1-9a-fA-F][0-9a-fA-F]{0,6}\r\n")
_LONGEST = 9
# Larger than anything that comes at once.
_NO_SIZE = 1 << 40


def content_of(data: bytes) -> bytes | None:
    """Return what is in these chunks; None where they are no whole chunks, or the last one is among them."""
    start = data.find(_LINE_END, 0, _LONGEST) + 2
    end = start + _size(data[:start])
    if end + 2 != len(data):
        return _content_of_many(data)
    return data[start:end] if data.endswith(_LINE_END) else None


def is_before_chunk(data: bytes) -> bool:
    """Whether a response that begins with these bytes has come so far that a chunk is next: whole, if any has come."""
    rest = data[data.find(b"\r\n\r\n") + 4 :]
    return data.startswith(b"HTTP/1.1 ") and (not rest or content_of(rest) is not None)


def _content_of_many(data: bytes) -> bytes | None:
    contents, at = [], 0
    while at < len(data):
        start = data.find(_LINE_END, at, at + _LONGEST) + 2
        end = start + _size(data[at:start])
        if data[end : end + 2] != _LINE_END:
            return None
        contents.append(data[start:end])
        at = end + 2
    return b"".join(contents)


@lru_cache(maxsize=1_024)
def _size(line: bytes) -> int:
    """Return the size that a line before a chunk says; chunks of events have few different ones."""
    return int(line, 16) if _SIZE.fullmatch(line) else _NO_SIZE
