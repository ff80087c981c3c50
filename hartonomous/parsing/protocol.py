"""The frames between the server and a worker: a head's length in 4 bytes, the head in JSON, the bytes it announces.

A worker sends HELLO once it is ready, then one answer for each request, in order.
"""

from __future__ import annotations

import json
import struct
from typing import BinaryIO, Final, Literal, NotRequired, TypedDict, cast

HELLO: Final = b"\x01"
LENGTH: Final = struct.Struct(">I")

Kind = Literal["html", "pdf", "docx", "markdown", "text"]


class Request(TypedDict):
    """What to parse: `size` bytes that follow (`decoded`: text already, in UTF-8), or the file at `path`."""

    kind: Kind
    size: int
    path: str | None
    decoded: bool
    max_text_bytes: int
    cpu_s: float


class Answer(TypedDict):
    """What became of it: `size` bytes of text in UTF-8 follow, or the reason for a refusal (`refusal.REASONS`).

    `detail` is for the log: the place and the kind of an error that nobody foresaw. `resident` is what the worker
    holds in memory, in bytes; a worker that is `spent` ends after this answer.
    """

    reason: str | None
    size: int
    title: str | None
    pages: list[int]
    resident: int
    spent: bool
    detail: NotRequired[str]


def head(message: Request | Answer) -> bytes:
    """Return the length of a message's head, and the head."""
    encoded = json.dumps(message).encode()
    return LENGTH.pack(len(encoded)) + encoded


def read_request(stream: BinaryIO) -> tuple[Request, bytes] | None:
    """Return the next request and its bytes; None when the server is gone or wants no more."""
    length = stream.read(LENGTH.size)
    if len(length) < LENGTH.size:
        return None
    request = cast("Request", json.loads(stream.read(*LENGTH.unpack(length))))
    data = stream.read(request["size"])
    return (request, data) if len(data) == request["size"] else None
