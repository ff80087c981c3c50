"""`multipart/form-data`: files to a temporary folder as they come, fields to their model.

A file is never named by its client, and the folder is removed in any case. A file that is too large or of a type that
is not taken is thrown away as it comes and becomes a failed document; what breaks the form itself refuses all of it,
as early as it is seen.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ParamSpec, TypeVar
from urllib.parse import unquote_to_bytes

from aiohttp import hdrs, web

from hartonomous import codec
from hartonomous.config import Server
from hartonomous.core.access import Grant
from hartonomous.core.formats import ENDINGS, Format
from hartonomous.core.multipart import MultipartParser, Part, boundary_of, malformed, parameters
from hartonomous.errors import (
    HartonomousError,
    InsufficientStorageError,
    InvalidRequestError,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
    ValidationFailedError,
)
from hartonomous.handlers.body import read_piece, refuse_compressed, shown
from hartonomous.handlers.ingest_request import validated
from hartonomous.handlers.offload import in_thread
from hartonomous.handlers.schemas import UploadFields
from hartonomous.keys import RUNTIME

P = ParamSpec("P")
T = TypeVar("T")

MULTIPART = "multipart/form-data"

_FIELD_BYTES = 65_536
_NAME_LENGTH = 1_024
# What headers and delimiters of a part may take beside its data.
_PART_OVERHEAD = 20_000
_DRIVE = re.compile(r"[A-Za-z]:")
_EXTENDED = re.compile(r"(utf-8|iso-8859-1)'[^']*'(.*)", re.IGNORECASE)
_IDENTITY = frozenset(("", "identity", "binary", "8bit", "7bit"))


@dataclass(slots=True)
class UploadedFile:
    """A file: its cleaned name, its format and where it is, or why it is not taken."""

    name: str
    format: Format | None
    path: Path
    size: int = 0
    error: HartonomousError | None = None


@dataclass(slots=True)
class Upload:
    """All of a form."""

    fields: UploadFields
    files: list[UploadedFile]


@asynccontextmanager
async def received(request: web.Request, grant: Grant) -> AsyncIterator[Upload]:
    """Receive a form; its files are there until the context is left.

    Raises:
        PermissionDeniedError: its collection is outside of the grant; what comes after that field is not read.
        InvalidRequestError: the body is no multipart, or `metadata` no JSON.
        ValidationFailedError: an unknown, repeated or wrong field, no file or too many, an encoded part.
        PayloadTooLargeError: more than all files could be together, or a field over its limit.
        RequestTimedOutError, UnsupportedMediaTypeError: as with JSON.
        InsufficientStorageError: the disk of the temporary folder is full.
    """
    refuse_compressed(request)
    boundary = boundary_of(request.headers[hdrs.CONTENT_TYPE])
    server = request[RUNTIME].config.server
    limit = (server.max_files + len(UploadFields.model_fields)) * (server.max_file_bytes + _PART_OVERHEAD)
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    folder = _folder()
    try:
        form = _Form(server, Path(folder.name), grant)
        await _receive(request, MultipartParser(boundary), form, limit)
        yield form.upload()
    finally:
        await in_thread(folder.cleanup)


def _folder() -> tempfile.TemporaryDirectory[str]:
    # Not in a thread: a cancellation would lose it, and with it who removes it.
    try:
        return tempfile.TemporaryDirectory(prefix="hartonomous-upload-")
    except OSError as error:
        raise _no_room() from error


async def _receive(request: web.Request, parser: MultipartParser, form: _Form, limit: int) -> None:
    """Read all of the body into `form`."""
    received_bytes = 0
    while data := await read_piece(request):
        received_bytes += len(data)
        if received_bytes > limit:
            raise _too_large(limit)
        for event in parser.feed(data):
            if isinstance(event, Part):
                await form.begin(event)
            else:
                await form.data(event)
    parser.close()


class _Form:
    """What has come of a form so far."""

    def __init__(self, server: Server, folder: Path, grant: Grant) -> None:
        self._server = server
        self._grant = grant
        self._folder = folder
        self._fields: dict[str, bytearray] = {}
        self._files: list[UploadedFile] = []
        self._field: str | None = None

    async def begin(self, part: Part) -> None:
        """Begin a file or a field, the one before being whole.

        Raises ValidationFailedError, InvalidRequestError, PermissionDeniedError.
        """
        self._end_field()
        value, names = parameters(part.headers.get("content-disposition", ""))
        if value != "form-data":
            raise malformed("A part of the body is no form data.")
        if "filename" in names or "filename*" in names:
            self._field = None
            await self._begin_file(part, _file_name(names))
        else:
            self._field = self._begin_field(part, names.get("name", ""))

    def _end_field(self) -> None:
        """Refuse a collection as soon as its name is known."""
        if self._field == "collection":
            given = {"collection": _value("collection", self._fields["collection"])}
            self._grant.check(validated(UploadFields, given, "The form").collection or "")

    def _begin_field(self, part: Part, name: str) -> str:
        param = shown(name)
        if name not in UploadFields.model_fields:
            raise ValidationFailedError(f"{param or 'A field without a name'} is not a known field.", param=param)
        if name in self._fields:
            raise ValidationFailedError(f"{param} is given twice.", param=param)
        _refuse_encoded(part, param)
        self._fields[name] = bytearray()
        return name

    async def _begin_file(self, part: Part, name: str) -> None:
        place = len(self._files)
        if place == self._server.max_files:
            raise ValidationFailedError(f"An upload has at most {place} files.", param="files")
        if not 1 <= len(name) <= _NAME_LENGTH:
            raise ValidationFailedError(
                f"A file needs a name of at most {_NAME_LENGTH} characters.", param=f"files.{place}"
            )
        _refuse_encoded(part, f"files.{place}")
        kind = ENDINGS.get(PurePosixPath(name).suffix.lower())
        file = UploadedFile(name, kind, self._folder / str(place))
        self._files.append(file)
        if kind is None:
            file.error = UnsupportedMediaTypeError(
                f"A file must be one of {', '.join(ENDINGS)}.", param=f"files.{place}", code="unsupported_format"
            )
        else:
            await _on_disk(_append, file.path, b"")

    async def data(self, piece: bytes) -> None:
        """Take data of the part that was begun last. Raises PayloadTooLargeError, InsufficientStorageError."""
        if self._field is None:
            await self._file_data(self._files[-1], piece)
            return
        text = self._fields[self._field]
        text += piece
        if len(text) > _FIELD_BYTES:
            raise PayloadTooLargeError(f"{self._field} is larger than {_FIELD_BYTES} bytes.", param=self._field)

    async def _file_data(self, file: UploadedFile, piece: bytes) -> None:
        if file.error is not None:
            return
        file.size += len(piece)
        if file.size <= self._server.max_file_bytes:
            await _on_disk(_append, file.path, piece)
            return
        file.error = PayloadTooLargeError(
            f"The file is larger than {self._server.max_file_bytes} bytes.", param=f"files.{len(self._files) - 1}"
        )
        await _on_disk(file.path.unlink)

    def upload(self) -> Upload:
        """Return the whole form. Raises ValidationFailedError, InvalidRequestError."""
        fields = validated(UploadFields, {name: _value(name, data) for name, data in self._fields.items()}, "The form")
        if not self._files:
            raise ValidationFailedError("An upload needs a file.", param="files")
        if fields.id is not None and len(self._files) > 1:
            raise ValidationFailedError("An id is for a single file.", param="id")
        return Upload(fields, self._files)


def _value(name: str, data: bytearray) -> object:
    """Return a field's text, or the parsed JSON of `metadata`."""
    try:
        return codec.loads(data) if name == "metadata" else data.decode()
    except codec.NotJsonError as error:
        raise InvalidRequestError("metadata is not valid JSON.", param=name) from error
    except UnicodeDecodeError:
        raise ValidationFailedError(f"{name} must be UTF-8.", param=name) from None


def _refuse_encoded(part: Part, param: str) -> None:
    """Refuse what would have to be decoded: forms send bytes as they are (RFC 7578, 4.7)."""
    encodings = (part.headers.get(name, "").lower() for name in ("content-transfer-encoding", "content-encoding"))
    if not _IDENTITY.issuperset(encodings):
        raise ValidationFailedError("An encoded part is not taken.", param=param)
    if part.headers.get("content-type", "").lower().startswith("multipart/"):
        raise ValidationFailedError("A part of parts is not taken.", param=param)


def _file_name(names: Mapping[str, str]) -> str:
    """Return a file's name with `/` between its folders, and nothing in it that leads elsewhere."""
    name = names.get("filename", "")
    extended = _EXTENDED.fullmatch(names.get("filename*", ""))
    if extended is not None:
        name = unquote_to_bytes(extended[2]).decode(extended[1], "replace")
    name = "".join(char for char in name if not (ord(char) < 0x20 or 0x7F <= ord(char) <= 0x9F))
    steps = [step for step in re.split(r"[\\/]", name) if step.strip() not in {"", ".", ".."}]
    return "/".join(steps[1:] if len(steps) > 1 and _DRIVE.fullmatch(steps[0]) else steps)


async def _on_disk(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do file work in a thread. Raises InsufficientStorageError."""
    try:
        return await in_thread(work, *args, **kwargs)
    except OSError as error:
        raise _no_room() from error


def _no_room() -> InsufficientStorageError:
    return InsufficientStorageError("There is no room for the files.")


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def _too_large(limit: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"The body is larger than {limit} bytes.")
