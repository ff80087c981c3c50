"""A document on its way to the server: a line of NDJSON, or a file to upload.

Text, Markdown and HTML go as lines; what is too long for a line, and HTML in another encoding than UTF-8, goes as a
file, as PDF and DOCX do.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hartonomous import codec
from hartonomous.sending.tally import reason
from hartonomous.sending.walk import File

LINE_BYTES = 4 * 2**20
"""The longest line of NDJSON that the server takes."""

# UTF-32's mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class UnsendableError(Exception):
    """A document that the server need not see: it cannot be read, or is no text. The message says why."""


class VanishedError(Exception):
    """A file that was deleted after it was found."""


class Item(Protocol):
    """A document to send; `tries` counts how often the server has answered that it was too slow for it."""

    tries: int

    @property
    def shown(self) -> str:
        """What it is called in messages."""

    def line(self) -> bytes | None:
        """Return its line of NDJSON without the line end, or None when it has to be uploaded. Blocks.

        Raises UnsendableError, VanishedError.
        """


@dataclass(slots=True, eq=False)
class FileItem:
    """A file on disk."""

    file: File
    metadata: Mapping[str, str]
    tries: int = 0

    @property
    def shown(self) -> str:
        """The path of its document."""
        return self.file.name

    @property
    def goes_as_line(self) -> bool:
        """Whether it may go as a line at all."""
        return self.file.kind not in {"pdf", "docx"} and self.file.stamp.size <= LINE_BYTES

    def line(self) -> bytes | None:
        """Read the file; see `Item`."""
        try:
            with Path(self.file.path).open("rb") as file:
                data = file.read(LINE_BYTES + 1)
        except OSError as error:
            raise unreadable(error) from error
        if len(data) > LINE_BYTES:
            return None
        text = self._decoded(data)
        line = None if text is None else codec.dumps(self._document(text))
        return line if line is not None and len(line) <= LINE_BYTES else None

    def _decoded(self, data: bytes) -> str | None:
        encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8-sig")
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            if self.file.kind == "html":
                return None  # it names its own encoding within, and the server reads that
            raise UnsendableError("is not UTF-8 text") from None
        if "\x00" in text:
            raise UnsendableError("is binary, not text")
        return text

    def _document(self, text: str) -> dict[str, object]:
        name = self.file.document
        document: dict[str, object] = {"id": name.id, "source": name.source, "format": self.file.kind, "text": text}
        if self.metadata:
            document["metadata"] = self.metadata
        return document


@dataclass(slots=True, eq=False)
class LineItem:
    """A line that came in as NDJSON; `data` is None when it was too long to be kept."""

    number: int
    data: bytes | None
    tries: int = 0

    @property
    def shown(self) -> str:
        """Where it stood."""
        return f"line {self.number}"

    def line(self) -> bytes | None:
        """Return it as it came; see `Item`."""
        if self.data is None:
            raise UnsendableError(f"is longer than {LINE_BYTES} bytes")
        return self.data


def unreadable(error: OSError) -> UnsendableError | VanishedError:
    """Return what to raise for a file that could not be read."""
    if isinstance(error, FileNotFoundError):
        return VanishedError()
    return UnsendableError(f"cannot be read: {reason(error)}")
