"""The server's HTTP as a client sees it: a stream of lines, uploads, questions, listing and deleting documents.

Whatever happens on the wire comes out as one of our `faults`, with a sentence for the user.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp import payload
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from hartonomous import __version__, codec
from hartonomous.core.sse import SSEParser
from hartonomous.errors import BackendError
from hartonomous.sending.content import unreadable
from hartonomous.sending.faults import RefusedError, SendingError, UnavailableError, error_of, fatal_error, objects
from hartonomous.sending.naming import DocumentName
from hartonomous.sending.tally import reason

_CONNECT_S = 10.0
_CALL_S = 60.0
# A stream says something every fifteen seconds, be it nothing.
_SILENCE_S = 60.0
_EVENT_BYTES = 1 << 26
_SLOWEST_UPLOAD = 16_384
_PAGE = 1_000
_ERROR_BYTES = 65_536
# Busy, down, full: whatever document it is said of, it would be said of any.
_NOT_ITS_OWN = frozenset((429, 503, 507))

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """Where documents go and how they are cut there; None leaves it to the server."""

    url: str
    collection: str | None = None
    max_tokens: int | None = None
    overlap_tokens: int | None = None

    def fields(self) -> dict[str, str]:
        """Return what is given, as query parameters or form fields."""
        given = {
            "collection": self.collection,
            "max_tokens": self.max_tokens,
            "overlap_tokens": self.overlap_tokens,
        }
        return {name: str(value) for name, value in given.items() if value is not None}


class Api:
    """The calls of one server. Made by `connected`."""

    def __init__(self, session: aiohttp.ClientSession, target: Target, stall_s: float) -> None:
        self._session = session
        self._target = target
        self._base = URL(target.url.rstrip("/"), encoded=True)
        self._stall_s = stall_s

    async def stream(self, lines: Callable[[], Awaitable[bytes | None]], answered: Callable[[Answer], None]) -> Answer:
        """Send lines of NDJSON until there are none (None), tell the answer of each as it comes; return the last one.

        Raises:
            UnavailableError: the connection broke, or nothing moved for too long.
            RefusedError: the server will not have them.
        """
        with self._mapped():
            async with self._unless_stalled() as moved:
                body = _Body(lines, moved)
                headers = {"Content-Type": codec.NDJSON}
                url = (self._base / "rag" / "ingest").with_query(self._target.fields())
                async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                    await _check(response)
                    return await _read_answers(response, moved, answered)

    async def upload(self, path: str, name: DocumentName, metadata: Mapping[str, str]) -> Answer:
        """Upload one file; return the whole answer, in which the document may have failed.

        Raises UnavailableError and RefusedError as `stream`, DocumentError when the server will not have this file,
        UnsendableError and VanishedError when it cannot be read.
        """
        try:
            file = await _opened(path)
        except OSError as error:
            raise unreadable(error) from error
        with file:
            try:
                return await self._upload(file, name, metadata)
            except SendingError:
                if file.failure is not None:
                    raise unreadable(file.failure) from file.failure
                raise

    async def _upload(self, file: _Upload, name: DocumentName, metadata: Mapping[str, str]) -> Answer:
        seconds = self._stall_s + file.size / _SLOWEST_UPLOAD
        form = _form({"id": name.id, **self._target.fields()}, file, name.source, metadata)
        with self._mapped():
            async with asyncio.timeout(seconds):
                url = self._base / "rag" / "ingest"
                async with self._session.post(url, data=form, allow_redirects=False) as response:
                    body = await response.read()
                    return _uploaded(response, body)

    async def answer(self, question: Mapping[str, Any]) -> Answer:
        """Return the whole answer to a question. Raises as `stream`, DocumentError for a question that is not taken."""
        async with self._asked(question) as response:
            return _object(await response.read())

    async def answer_streaming(self, question: Mapping[str, Any], told: Callable[[str, Answer], None]) -> None:
        """Tell the events of the answer to a question as they come, the last one being `done`. Raises as `answer`."""
        async with self._asked({**question, "stream": True}) as response, self._unless_stalled(_SILENCE_S) as moved:
            parser = SSEParser(_EVENT_BYTES)
            async for data in response.content.iter_any():
                moved()
                for event in parser.feed(data):
                    value = _object(event.data.encode())
                    if event.event == "error":
                        raise fatal_error(value.get("error"))
                    told(event.event, value)
                    if event.event == "done":
                        return
                moved()  # a terminal that stood still is not the server's silence
        raise UnavailableError("The server broke off in the middle of its answer.")

    @asynccontextmanager
    async def _asked(self, question: Mapping[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        url, body = self._base / "rag" / "query", codec.dumps(question)
        headers = {"Content-Type": codec.JSON}
        with self._mapped():
            async with (
                asyncio.timeout(self._stall_s) as timeout,
                self._session.post(url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                await _check(response)
                if question.get("stream"):
                    timeout.reschedule(None)
                yield response

    async def documents(self, collection: str) -> AsyncIterator[DocumentName]:
        """List the documents of a collection; none when there is no such collection."""
        query, cursor = {"limit": str(_PAGE)}, ""
        while True:
            url = self._documents(collection).with_query({**query, "cursor": cursor} if cursor else query)
            page = await self._call("GET", url)
            for document in objects(page.get("documents")):
                yield DocumentName(str(document.get("id")), str(document.get("source") or ""))
            cursor = page.get("next_cursor") or ""
            if not cursor:
                return

    async def delete(self, collection: str, document_id: str) -> None:
        """Delete a document; one that is gone already is no error."""
        await self._call("DELETE", URL(f"{self._documents(collection)}/{quote(document_id, safe='')}", encoded=True))

    def _documents(self, collection: str) -> URL:
        return URL(f"{self._base}/rag/collections/{quote(collection, safe='')}/documents", encoded=True)

    async def _call(self, method: str, url: URL) -> Answer:
        with self._mapped():
            async with (
                asyncio.timeout(_CALL_S),
                self._session.request(method, url, allow_redirects=False) as response,
            ):
                if response.status == 404:
                    return {}
                await _check(response)
                return _object(await response.read()) if response.status != 204 else {}

    @asynccontextmanager
    async def _unless_stalled(self, seconds: float | None = None) -> AsyncIterator[Callable[[], None]]:
        """Raise TimeoutError in what it surrounds when the yielded function is not called for so long (`stall_s`)."""
        loop, live, seconds = asyncio.get_running_loop(), True, seconds or self._stall_s
        async with asyncio.timeout(seconds) as timeout:

            def moved() -> None:
                if live and not timeout.expired():
                    timeout.reschedule(loop.time() + seconds)

            try:
                yield moved
            finally:
                live = False

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise UnavailableError(f"{self._base} does not answer.") from error
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            raise RefusedError(f"{self._base} cannot be trusted: {error}.") from error
        except aiohttp.ClientConnectorDNSError as error:
            raise UnavailableError(f"{self._base} cannot be reached: its name is not known.") from error
        except aiohttp.ClientConnectorError as error:
            raise UnavailableError(f"{self._base} cannot be reached: {reason(error.os_error)}.") from error
        except aiohttp.InvalidURL as error:
            raise RefusedError(f"{self._base} is no address.") from error
        except (aiohttp.ClientError, HttpProcessingError, BackendError, OSError, ValueError) as error:
            raise UnavailableError(f"The connection to {self._base} broke.") from error


@asynccontextmanager
async def connected(target: Target, key: str | None, stall_s: float) -> AsyncIterator[Api]:
    """Yield the calls of the server at `target`, with a key if there is one."""
    headers = {"User-Agent": f"hartonomous/{__version__}"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, cookie_jar=jar) as session:
        yield Api(session, target, stall_s)


class _Body:
    """The lines as a request's body. A line is asked for when the socket has taken the one before."""

    def __init__(self, lines: Callable[[], Awaitable[bytes | None]], moved: Callable[[], None]) -> None:
        self._lines = lines
        self._moved = moved

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        self._moved()
        line = await self._lines()
        if line is None:
            raise StopAsyncIteration
        return line


class _Upload(io.FileIO):
    """A file that remembers why it could not be read: the HTTP client would take that for a broken connection."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "rb")
        self.failure: OSError | None = None
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        try:
            return super().read(-1 if size is None else size)
        except OSError as error:
            if not self.closed:  # else the answer came before the whole file was sent, and nobody reads on
                self.failure = error
            raise


async def _opened(path: str) -> _Upload:
    """Open a file in a thread; one that is opened after a cancellation is closed."""
    opening = asyncio.get_running_loop().run_in_executor(None, _Upload, path)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close)
        raise


def _close(opening: asyncio.Future[_Upload]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


def _form(
    fields: Mapping[str, str], file: _Upload, source: str, metadata: Mapping[str, str]
) -> aiohttp.MultipartWriter:
    form = aiohttp.MultipartWriter("form-data")
    texts = {**fields, "metadata": codec.dumps(metadata).decode()} if metadata else fields
    for name, value in texts.items():
        form.append(value).set_content_disposition("form-data", name=name)
    # The plain form has no agreed way to write a slash, a quote or an umlaut; this one has.
    disposition = f"form-data; name=\"file\"; filename*=UTF-8''{quote(source, safe='')}"
    form.append_payload(payload.IOBasePayload(file, headers={"Content-Disposition": disposition}, filename=None))
    return form


def _uploaded(response: aiohttp.ClientResponse, body: bytes) -> Answer:
    """Return the answer to an upload: also one that says no, if it says so of the document alone."""
    if response.status == 200:
        return _object(body)
    error = error_of(response.status, response.headers, body)
    if response.status not in _NOT_ITS_OWN and not isinstance(error, RefusedError):
        answer = _object(body)
        if answer.get("documents"):
            return answer
    raise error


async def _read_answers(
    response: aiohttp.ClientResponse, moved: Callable[[], None], answered: Callable[[Answer], None]
) -> Answer:
    async for line in response.content:
        moved()
        answer = _object(line)
        if "line" in answer:
            answered(answer)
        elif answer.get("error"):
            raise fatal_error(answer["error"])
        else:
            return answer
    raise UnavailableError("The server broke off in the middle of its answer.")


async def _check(response: aiohttp.ClientResponse) -> None:
    if not 200 <= response.status < 300:
        raise error_of(response.status, response.headers, await response.content.read(_ERROR_BYTES))


def _object(data: bytes) -> Answer:
    try:
        value = codec.loads(data)
    except codec.NotJsonError:
        value = None
    if not isinstance(value, dict):
        raise UnavailableError("The server's answer is no JSON object.")
    return value
