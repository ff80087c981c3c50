"""`/admin/logs`: the newest records of the process's log or audit trail, and following them.

What is kept of them is bounded, and so is what a follower who reads slowly can lose: it is told how many records there
was no room for. Following ends with the right to it: when the server is to stop, or within a second of the reload that
takes the key or its scope away.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from aiohttp import web
from typing_extensions import TypedDict

from hartonomous import codec, log
from hartonomous.core.kept import Kept, KeptRecord
from hartonomous.errors import ValidationFailedError
from hartonomous.handlers.operations import Operation
from hartonomous.handlers.stream import PING_S, ClientGoneError, ClientStream
from hartonomous.keys import REQUEST_ID, STATE, TRAIL
from hartonomous.middleware.audit import note, tell
from hartonomous.middleware.request_id import TIMEOUT_HEADER, call_of
from hartonomous.middleware.scope import is_let_in

LOOK_S = 0.25
"""How often a follower is brought what is new, and asked whether it may still be."""

_MAX_LIMIT = 1_000
_PIECE_BYTES = 65_536
_LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
_RFC3339 = re.compile(r"(\d{4})(-\d\d-\d\dT\d\d:\d\d:)([0-5]\d|60)((?:\.\d+)?(?:Z|[+-]\d\d:\d\d))", re.ASCII)
_HEADERS = {"Content-Type": codec.NDJSON, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class LogsAnswer(TypedDict):
    """Records of the log or of the audit trail, the newest first, as they were written."""

    records: list[dict[str, Any]]
    request_id: str


@dataclass(slots=True)
class _Wanted:
    """What a query string asks for."""

    kind: Literal["app", "audit"] = "app"
    level: int = 0
    request_id: str | None = None
    since: float = 0.0
    limit: int = 100
    follow: bool = False

    def covers(self, record: KeptRecord) -> bool:
        """Whether a record is one of those."""
        return (
            record.level >= self.level
            and record.time >= self.since
            and (self.request_id is None or record.request_id == self.request_id)
        )

    def newest(self, records: Sequence[KeptRecord]) -> list[str]:
        """Return the lines of the newest records that are covered, up to the limit, the newest first."""
        found: list[str] = []
        for record in reversed(records):
            if len(found) == self.limit:
                break
            if self.covers(record):
                found.append(record.line)
        return found


async def logs(request: web.Request) -> web.StreamResponse:
    """Answer the newest records, or follow them."""
    call_of(request)  # whose header is refused before anything is sent
    wanted = _wanted(request)
    note(request, kind=wanted.kind, follow=wanted.follow)
    kept = log.kept if wanted.kind == "app" else request.app[TRAIL].kept
    if wanted.follow:
        return await _follow(request, wanted, kept)
    records, _ = kept.all()
    lines = ",".join(wanted.newest(records))
    body = f'{{"records":[{lines}],"request_id":{codec.dumps(request[REQUEST_ID]).decode()}}}'
    return web.Response(body=body.encode(), content_type=codec.JSON, headers={"Cache-Control": "no-store"})


async def _follow(request: web.Request, wanted: _Wanted, kept: Kept) -> web.StreamResponse:
    """Send what there is, the oldest first, and then what is new, for as long as the caller may have it."""
    client = ClientStream(request, web.StreamResponse(headers=_HEADERS))
    ended = asyncio.Event()
    sending = asyncio.create_task(_send(client, wanted, kept, ended))
    tell(request, client.response.status)  # now: nobody knows when it ends
    try:
        while not sending.done() and _may_go_on(request):
            await asyncio.wait({sending}, timeout=LOOK_S)
        ended.set()
        await asyncio.wait({sending}, timeout=2 * LOOK_S)
    finally:
        if not sending.done():
            sending.cancel()
            if request.transport is not None:  # its end would wait for a client who does not read
                request.transport.abort()
            await asyncio.wait({sending})
    if not sending.cancelled() and (error := sending.exception()) is not None:
        raise error
    return client.response


def _may_go_on(request: web.Request) -> bool:
    """Whether the server serves, the caller would still be let in, and has the time that it gave itself, if any."""
    has_time = TIMEOUT_HEADER not in request.headers or not call_of(request).deadline.expired
    return has_time and not request.app[STATE].draining and is_let_in(request)


async def _send(client: ClientStream, wanted: _Wanted, kept: Kept, ended: asyncio.Event) -> None:
    try:
        await client.begin()
        records, position = kept.all()
        await _write(client, wanted.newest(records)[::-1])
        written = time.monotonic()
        while not ended.is_set():
            await _within(LOOK_S, ended)
            new, gone = kept.after(position)
            position += gone + len(new)
            lines = [record.line for record in new if wanted.covers(record)]
            if gone:
                lines.insert(0, _gap(gone))
            if lines or time.monotonic() - written >= PING_S:
                await _write(client, lines or [""])
                written = time.monotonic()
        await client.finish()
    except ClientGoneError:
        log.logger.debug("the client left a stream")


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, but no longer than so."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


async def _write(client: ClientStream, lines: Sequence[str]) -> None:
    """Write lines in pieces, each of which a client has its time to take."""
    for piece in _pieces(lines):
        await client.write(piece)


def _pieces(lines: Sequence[str]) -> Iterator[bytes]:
    piece = bytearray()
    for line in lines:
        piece += line.encode() + b"\n"
        if len(piece) >= _PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def _gap(count: int) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    fields = {"time": now, "level": "WARNING", "logger": __name__, "message": "records were left out", "records": count}
    return log.encoded(fields)


def _wanted(request: web.Request) -> _Wanted:
    """Return what the query string asks for. Raises ValidationFailedError."""
    wanted = _Wanted()
    for name in request.query:
        read, expected = _READ[name]
        try:
            setattr(wanted, name, read(request.query[name]))
        except (KeyError, ValueError):
            raise ValidationFailedError(f"{name} must be {expected}.", param=name) from None
    if wanted.kind == "audit" and wanted.level:
        raise ValidationFailedError("The audit trail has no levels.", param="level")
    return wanted


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 5 and 1 <= int(text) <= _MAX_LIMIT):
        raise ValueError(text)
    return int(text)


def _moment(text: str) -> float:
    """Return a moment of RFC 3339 as Unix time. Python knows neither the year 0 nor leap seconds."""
    found = _RFC3339.fullmatch(text.upper())
    if found is None:
        raise ValueError(text)
    year, until_seconds, seconds, rest = found.groups()
    moment = datetime.fromisoformat(f"{max(year, '0001')}{until_seconds}{min(seconds, '59')}{rest}")
    return moment.timestamp()


_READ: dict[str, tuple[Callable[[str], object], str]] = {
    "kind": ({"app": "app", "audit": "audit"}.__getitem__, "app or audit"),
    "level": (lambda text: _LEVELS[text.upper()], f"one of {', '.join(_LEVELS)}"),
    "request_id": (str, "a request's id"),
    "since": (_moment, "a moment like 2027-12-31T12:00:00Z (a + is written as %2B)"),
    "limit": (_count, f"a whole number from 1 to {_MAX_LIMIT}"),
    "follow": ({"true": True, "false": False}.__getitem__, "true or false"),
}

OPERATIONS = (
    Operation(
        "GET",
        "/admin/logs",
        logs,
        "The newest records of the log or of the audit trail",
        "administration",
        answer=LogsAnswer,
        answers={codec.NDJSON: dict[str, Any]},
        query={
            "kind": {"type": "string", "enum": ["app", "audit"], "default": "app"},
            "level": {
                "type": "string",
                "enum": list(_LEVELS),
                "description": "This one and those above; of app alone.",
            },
            "request_id": {"type": "string"},
            "since": {"type": "string", "format": "date-time"},
            "limit": {"type": "integer", "minimum": 1, "maximum": _MAX_LIMIT, "default": 100},
            "follow": {"type": "boolean", "default": False, "description": "Streams what there is and what comes."},
        },
        errors=(422,),
        scope="admin",
        event="admin_read",
    ),
)
