"""`/rag/ingest` as a stream: a document a line in, a result a line out as it becomes durable.

Three things happen side by side: the pipeline asks for the next document when it has room for one, which is when the
body is read on; results go into a spool; what is in the spool goes to the client. So a client may read as it sends, or
only when it has sent everything, or wait for each result before it sends the next line: none of the three waits for
another, but for reading, which pauses while the spool is full.

Whoever keeps the stream waiting is timed. A client that sends nothing although no answer is owed to it gets a 408 as
its last line; one that does not read, when it is not sending either, is cut off. While the server has its hands full
neither clock runs.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from hartonomous import codec, tracing
from hartonomous.core.call import Call, Priority
from hartonomous.core.deadline import Deadline
from hartonomous.errors import (
    BackendUnavailableError,
    DeadlineExceededError,
    HartonomousError,
    InvalidRequestError,
    PayloadTooLargeError,
)
from hartonomous.handlers import body, metering, views
from hartonomous.handlers.answers import runtime_of
from hartonomous.handlers.hangup import hangup_watched
from hartonomous.handlers.ingest_request import chunking_of, document_of, parameters_of_query
from hartonomous.handlers.ndjson import lines
from hartonomous.handlers.reach import reached
from hartonomous.handlers.schemas import DocumentBody, IngestParameters
from hartonomous.handlers.spool import Spool
from hartonomous.handlers.stream import ClientGoneError, ClientStream
from hartonomous.keys import RUNTIME, STATE
from hartonomous.log import logger
from hartonomous.middleware.audit import note
from hartonomous.middleware.expectation import invite
from hartonomous.middleware.request_id import TIMEOUT_HEADER, call_of
from hartonomous.middleware.scope import caller_now
from hartonomous.pipelines.documents import Document, DocumentResult

# How often who waits for the client looks whether the deadline has passed, the server is to stop or the key is gone.
LOOK_S = 0.5

_HEADERS = {"Content-Type": codec.NDJSON, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_NO_LIMIT_S = 365 * 86_400.0


async def ingest_stream(request: web.Request) -> web.StreamResponse:
    """Take the documents of a stream; see the module's text.

    Raises what the pipeline raises before it takes the first document; later on that is the last line.
    """
    body.refuse_compressed(request)
    call, parameters = _call_of_stream(request), parameters_of_query(request)
    collection = reached(parameters.collection, runtime_of(request), call)
    note(request, collection=collection)
    stream = _IngestStream(request, call, collection)
    refusal = None
    try:
        with stream.spool, hangup_watched(request):
            async with asyncio.TaskGroup() as group:
                try:
                    await stream.run(parameters, group)
                except HartonomousError as error:
                    refusal = error
    except* ClientGoneError:
        logger.bind(request_id=call.request_id).debug("the client left a stream")
    if refusal is not None:
        raise refusal
    return stream.client.response


def _call_of_stream(request: web.Request) -> Call:
    """Return the call without the server's limit, which each document has for itself; the caller's is of them all."""
    call = call_of(request).of_priority(Priority.INGEST)
    sent = request.headers.get(TIMEOUT_HEADER)
    return call.within(Deadline(_NO_LIMIT_S if sent is None else int(sent) / 1000), call.wanted)


class _Body:
    """The pieces of a request's body, until the client, the deadline, a shutdown or the loss of the right ends them.

    `owed` counts the documents whose results the client has not been told.
    """

    def __init__(self, request: web.Request, call: Call, collection: str, client: ClientStream, spool: Spool) -> None:
        self.owed = 0
        self._request = request
        self._deadline = call.deadline
        self._collection = collection
        self._client = client
        self._spool = spool
        self._idle_s = request[RUNTIME].config.server.body_timeout_s
        self._quiet_since = time.monotonic()
        self._closes_at = math.inf

    def heard(self) -> None:
        """Say that the client has sent or been told something."""
        self._quiet_since = time.monotonic()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece.

        Raises:
            RequestTimedOutError: the client owes the next piece for too long.
            InvalidRequestError: the framing is broken.
            ClientGoneError: the client has left.
            RateLimitedError: the key may not send as many bytes.
            DeadlineExceededError, BackendUnavailableError, AuthenticationError, PermissionDeniedError: as `check`.
        """
        self._client.hold(False)
        waited = False
        while (piece := await self._piece()) is None:
            self.check(waited=waited)
            if self._is_idle():
                raise body.timed_out()
            waited = True
        self._client.hold(True)
        self.heard()
        if not piece:
            raise StopAsyncIteration
        if (meter := metering.received(self._request, len(piece))) is not None:
            await meter.more()
        return piece

    def check(self, *, waited: bool = False) -> None:
        """Raise as `check_right`; DeadlineExceededError; BackendUnavailableError when the server is about to stop.

        What keeps coming during a drain is taken for half of its time, so that the rest is there to finish it.
        """
        self.check_right()
        if self._deadline.expired:
            raise DeadlineExceededError("The deadline passed before the whole body had come.")
        if not self._request.app[STATE].draining:
            return
        now = time.monotonic()
        self._closes_at = min(self._closes_at, now + self._request.app[STATE].current.config.server.drain_s / 2)
        if waited or now >= self._closes_at:
            raise BackendUnavailableError("The server is shutting down.", code="draining", retry_after=1)

    def check_right(self) -> None:
        """Raise AuthenticationError or PermissionDeniedError when a reload has taken the right to write here."""
        caller_now(self._request).grant.check(self._collection)

    async def room(self) -> None:
        """Wait until the client has read so much that more can be answered."""
        if not self._spool.has_room:
            self._client.hold(False)
            await self._spool.room()
            self._client.hold(True)

    def _is_idle(self) -> bool:
        """Whether nothing comes although the client waits for nothing."""
        return not self.owed and not self._spool.size and time.monotonic() - self._quiet_since >= self._idle_s

    async def _piece(self) -> bytes | None:
        """Return the next piece, nothing at the end, None when it does not come soon."""
        try:
            async with asyncio.timeout(min(LOOK_S, self._idle_s)):
                return await self._request.content.readany()
        except TimeoutError:
            return None
        except (web.RequestPayloadError, HttpProcessingError) as error:
            raise InvalidRequestError("The body's framing is broken.", code="bad_framing") from error
        except ConnectionError as error:
            raise ClientGoneError from error


class _IngestStream:
    """One stream."""

    def __init__(self, request: web.Request, call: Call, collection: str) -> None:
        self.client = ClientStream(request, web.StreamResponse(headers=_HEADERS))
        self.spool = Spool(request[RUNTIME].config.server.max_spool_bytes)
        self._runtime = runtime_of(request)
        self._server = request[RUNTIME].config.server
        self._request = request
        self._call = call
        self._collection = collection
        self._body = _Body(request, call, collection, self.client, self.spool)
        self._counts = views.no_documents()
        note(request, documents=self._counts)
        self._ended_by: HartonomousError | None = None

    async def run(self, parameters: IngestParameters, group: asyncio.TaskGroup) -> None:
        """Take all documents and tell the results; `group` gets the task that sends them.

        Raises any of our errors that keeps the stream from beginning, and ClientGoneError.
        """
        chunking = chunking_of(parameters, self._runtime.config.rag.chunking)
        tokens = 0
        try:
            async with aclosing(self._documents(group)) as documents:
                tokens = await self._runtime.ingestor.stream(
                    self._collection,
                    documents,
                    chunking.max_tokens,
                    chunking.overlap_tokens,
                    self._call,
                    self._tell,
                    document_s=self._server.request_timeout_s,
                )
        except HartonomousError as error:
            if not self.client.response.prepared:
                raise
            self._ended_by = error
        await self._end(views.ingest_summary(self._collection, self._counts, tokens, self._call.request_id))

    async def _documents(self, group: asyncio.TaskGroup) -> AsyncGenerator[Document | DocumentResult]:
        """Yield what is on the lines; what ends them early is kept, so that what is under way is finished."""
        # Asked for the first one: the pipeline is ready, and what fails from now on has no status of its own.
        await invite(self._request)
        await self.client.begin()
        group.create_task(self._send())
        limit = self._server.max_line_bytes
        try:
            async with aclosing(lines(self._body, limit)) as numbered:
                async for number, line in numbered:
                    self._body.check_right()
                    self._body.owed += 1
                    yield _document(number, line, limit)
                    self._body.check()
                    await self._body.room()
        except HartonomousError as error:
            self._ended_by = error

    async def _send(self) -> None:
        while piece := await self.spool.get():
            await self.client.write(piece)
        await self.client.finish()

    async def _tell(self, result: DocumentResult) -> None:
        self._counts[result.status] += 1
        self._body.owed -= 1
        self._body.heard()
        metering.spent(self._request, result.tokens)
        await self.spool.put(codec.dumps(views.ingest_line(result)) + b"\n")

    async def _end(self, summary: dict[str, Any]) -> None:
        """Put the last line in; the client has nothing to do any more but to read."""
        self.client.hold(False)
        error, request_id = self._ended_by, self._call.request_id
        if error is not None:
            note(self._request, failed=True, code=error.error_code)
            tracing.broken_off(self._call, error)
            logger.bind(request_id=request_id, code=error.error_code, **self._counts).warning("a stream broke off")
            summary = views.ingest_broken_off(error, self._counts, request_id)
        await self.spool.put(codec.dumps(summary) + b"\n")
        self.spool.end()


def _document(number: int, line: bytes | None, limit: int) -> Document | DocumentResult:
    """Return the document of a line, or the failure of one that holds none."""
    value = None
    try:
        if line is None:
            raise PayloadTooLargeError(f"The line is larger than {limit} bytes.")
        value = _parsed(line)
        return document_of(body.validate(DocumentBody, value, "The line"), number, "")
    except HartonomousError as error:
        return DocumentResult(number, _id_of(value), "failed", error=error)


def _id_of(value: Any) -> str | None:
    """Return the id of a document that is not taken, where it has one."""
    name = value.get("id") if isinstance(value, dict) else None
    return name if isinstance(name, str) and 1 <= len(name) <= 256 and name.isprintable() else None


def _parsed(line: bytes) -> Any:
    try:
        return codec.loads(line)
    except codec.NotJsonError as error:
        column = getattr(error.__cause__, "colno", 1)
        raise InvalidRequestError(f"The line is not valid JSON (column {column}).") from error
