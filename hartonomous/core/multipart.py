"""A parser of `multipart/form-data` bodies (RFC 7578, RFC 2046 5.1) that does no input: bytes in, parts and data out.

    preamble CRLF "--boundary" CRLF  headers CRLF CRLF  data  CRLF "--boundary" CRLF ... CRLF "--boundary--" epilogue

What is given to `feed` may be cut anywhere. Memory is bounded: data goes out as it comes in, but for what could be the
beginning of a delimiter, and the headers of a part may be `MAX_HEADER_BYTES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from hartonomous.errors import InvalidRequestError

MAX_HEADER_BYTES = 16_384
_MAX_PADDING = 64

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'\s*;\s*({_WORD})\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;"]*)')
_VALUE = re.compile(rf"\s*({_WORD}(?:/{_WORD})?)")
_HEADER_NAME = re.compile(_WORD)
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# What stands behind a delimiter: the end of all parts, or the next one after blanks.
_BEHIND = re.compile(rb"(--)|[ \t]*\r\n")
_PADDING = re.compile(rb"-|[ \t]*\r?")
_ESCAPED = re.compile(r'\\(["\\])')


@dataclass(slots=True, frozen=True)
class Part:
    """The beginning of a part; its headers' names are in lower case."""

    headers: Mapping[str, str]


def malformed(message: str = "The body is cut off, or its framing is broken.") -> InvalidRequestError:
    """Return the error of a body that is no multipart."""
    return InvalidRequestError(message, code="bad_framing")


def parameters(header: str) -> tuple[str, dict[str, str]]:
    """Split a header like `form-data; name="a"` into its value, in lower case, and its parameters by lower-case name.

    Raises:
        InvalidRequestError: it has another form, or a parameter twice.
    """
    value = _VALUE.match(header)
    if value is None:
        raise malformed("A header of the body is malformed.")
    found: dict[str, str] = {}
    end = value.end()
    while (match := _PARAMETER.match(header, end)) is not None:
        name, text = match[1].lower(), match[2]
        if name in found:
            raise malformed("A header of the body has a parameter twice.")
        # A backslash escapes a quote and itself; browsers of old send whole paths with bare ones.
        found[name] = _ESCAPED.sub(r"\1", text[1:-1]) if text.startswith('"') else text
        end = match.end()
    if header[end:].strip(" \t;"):
        raise malformed("A header of the body is malformed.")
    return value[1].lower(), found


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a `Content-Type` header names. Raises InvalidRequestError."""
    boundary = parameters(content_type)[1].get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise malformed("The content type needs a boundary of 1 to 70 characters.")
    return boundary.encode()


class _State(Enum):
    PREAMBLE = auto()
    HEADERS = auto()
    DATA = auto()
    END = auto()


class MultipartParser:
    """Parses one body."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        # A delimiter stands behind a line's end; before the first one there need be no line.
        self._buffer = bytearray(b"\r\n")
        self._state = _State.PREAMBLE

    def feed(self, data: bytes) -> Iterator[Part | bytes]:
        """Yield what the bytes bring: the beginnings of parts, each followed by its data in pieces.

        Raises:
            InvalidRequestError: the body is no multipart.
        """
        self._buffer += data
        while self._state is not _State.END:
            if self._state is _State.HEADERS:
                part = self._part()
                if part is None:
                    return
                yield part
            else:
                is_data = self._state is _State.DATA
                piece, found = self._until_delimiter()
                if piece and is_data:
                    yield piece
                if not found:
                    return
        self._buffer.clear()

    def close(self) -> None:
        """Say that the body is at its end. Raises InvalidRequestError when its last delimiter has not come."""
        if self._state is not _State.END:
            raise malformed()

    def _part(self) -> Part | None:
        """Take the headers of a part; None as long as they are not complete."""
        if self._buffer.startswith(b"\r\n"):
            raise malformed("A part of the body has no headers.")
        end = self._buffer.find(b"\r\n\r\n", 0, MAX_HEADER_BYTES)
        if end >= 0:
            block = self._take(end)
            del self._buffer[:4]
            self._state = _State.DATA
            return Part(_headers(block))
        if len(self._buffer) >= MAX_HEADER_BYTES:
            raise malformed("The headers of a part are too large.")
        return None

    def _until_delimiter(self) -> tuple[bytes, bool]:
        """Take what stands before the next delimiter, and the delimiter; else what cannot be a part of one."""
        start, size = 0, len(self._delimiter)
        while (place := self._buffer.find(self._delimiter, start)) >= 0:
            behind = place + size
            if (match := _BEHIND.match(self._buffer, behind)) is not None:
                self._state = _State.END if match[1] else _State.HEADERS
                rest = match.end() - place
                del match  # it keeps the buffer from being changed
                piece = self._take(place)
                del self._buffer[:rest]
                return piece, True
            if len(self._buffer) - behind <= _MAX_PADDING and _PADDING.fullmatch(self._buffer, behind):
                return self._take(place), False
            start = place + 2
        return self._take(max(0, len(self._buffer) - size + 1)), False

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


def _headers(block: bytes) -> dict[str, str]:
    try:
        text = block.decode()
    except UnicodeDecodeError:
        raise malformed("The headers of a part are not UTF-8.") from None
    headers: dict[str, str] = {}
    for line in text.split("\r\n"):
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not _HEADER_NAME.fullmatch(name) or _CONTROL.search(value) or name in headers:
            raise malformed("A header of a part is malformed.")
        headers[name] = value.strip(" \t")
    return headers
