"""A backend's response whose headers are there: its body, as it comes or whole, with our errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

import aiohttp

from hartonomous import codec
from hartonomous.clients.admission import Place
from hartonomous.clients.failures import AnswerTooLargeError, BrokenOffError
from hartonomous.core.trace import Value

if TYPE_CHECKING:
    from hartonomous.clients.pool import Pool


class Opened:
    """A response whose headers are there and whose body is still to be read; errors are ours already.

    It holds a place at its address until the pool closes it. `is_whole`: it is read to its end before anybody uses it.
    """

    def __init__(self, pool: Pool, response: aiohttp.ClientResponse, place: Place, *, is_whole: bool) -> None:
        self.status = response.status
        self.headers = response.headers
        self.content_type = codec.media_type(response.headers.get("Content-Type"))
        self.place = place
        self.is_whole = is_whole
        self.failure: BaseException | None = None
        """What broke the body, also where its reader has made something else of it."""
        self._pool = pool
        self._response = response
        if self.content_type == codec.SSE and response.connection is not None and response.connection.protocol:
            # llama.cpp closes it after a stream, though it says Keep-Alive: the next call would meet it closing.
            response.connection.protocol.force_close()

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Yield the body as it comes; between two pieces the backend has `idle_timeout_s`.

        Raises BackendError, BackendUnavailableError, DeadlineExceededError.
        """
        content, idle_s = self._response.content, self._pool.config.idle_timeout_s
        while True:
            try:
                async with asyncio.timeout(idle_s) as idle:
                    data = await content.readany()
            except BaseException as error:
                # A stream that runs into the request's deadline says nothing about the backend.
                is_blamed = True if idle.expired() else None if self.is_whole else False
                self.failure = self._pool.translate(error, self.place, is_blamed)
                if self.failure is error:
                    raise
                raise self.failure from error
            if not data:
                return
            yield data

    async def read(self) -> bytes:
        """Return the whole body; raises as `pieces`, and BackendError beyond `max_answer_bytes`."""
        cap = self._pool.config.max_answer_bytes
        body = bytearray()
        async with aclosing(self.pieces()) as pieces:
            async for data in pieces:
                body += data
                if len(body) > cap:
                    raise AnswerTooLargeError(f"The {self._pool.name} service's answer is larger than {cap} bytes.")
        return bytes(body)

    def tells(self, said: Mapping[str, Value]) -> None:
        """Add what the body has said to the span of the call, where it is recorded."""
        if said and self.place.span is not None:
            self.place.span.set(said)

    def abort(self) -> None:
        """Let whoever reads the body fail at once."""
        self._response.content.set_exception(aiohttp.ClientConnectionError("aborted"))

    def broken(self) -> BrokenOffError:
        """Return the error of a body that ended too early, which only its reader can tell."""
        self.failure = error = BrokenOffError(f"The {self._pool.name} service broke its stream off.")
        return error

    def close(self) -> None:
        """Give the connection back when the whole body was read, else close it."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()
