"""A backend's response whose headers are there: its body, as it comes or whole, with our errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

import aiohttp

from hartonomous.clients.status import AnswerTooLargeError
from hartonomous.errors import BackendError

if TYPE_CHECKING:
    from hartonomous.clients.pool import Pool


class Opened:
    """A response whose headers are there and whose body is still to be read; errors are ours already."""

    def __init__(self, pool: Pool, response: aiohttp.ClientResponse, outcome: list[str]) -> None:
        self.status = response.status
        self.headers = response.headers
        self.content_type = response.content_type
        self._pool = pool
        self._response = response
        self._outcome = outcome

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Yield the body as it comes; between two pieces the backend has `idle_timeout_s`.

        Raises BackendError, BackendUnavailableError, DeadlineExceededError.
        """
        content, idle_s = self._response.content, self._pool.config.idle_timeout_s
        while True:
            with self._pool.errors(self._outcome):
                async with asyncio.timeout(idle_s):
                    data = await content.readany()
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

    def abort(self) -> None:
        """Let whoever reads the body fail at once."""
        self._response.content.set_exception(aiohttp.ClientConnectionError("aborted"))

    def broken(self) -> BackendError:
        """Return the error of a body that ended too early, which only its reader can tell, and count it."""
        self._outcome[0] = "broken"
        return BackendError(f"The {self._pool.name} service broke its stream off.")
