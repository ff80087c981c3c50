"""An answer that is there as a whole: its head and its body go out in one write, put together here.

aiohttp prepares an answer in seven coroutines and a signal, as it may be a stream, compressed or chunked: 10 µs of a
request that takes some 200, where this takes 5. What is out of the ordinary (HTTP/1.0, `HEAD`, a connection that
closes, a header that is not ASCII, or whose headers the floors have not said) goes aiohttp's way.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import SERVER_SOFTWARE
from typing_extensions import override

_WITHOUT_BODY = frozenset((204, 304))


class Whole(web.Response):
    """An answer with neither cookies nor compression.

    `said` are the lines of its head, each with its end, that `on_response_prepare` would add, where that is known.
    """

    said: str | None = None
    _is_sent = False

    def __init__(self, body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        # `Response` looks for what this never is: text, a file, what is to be compressed.
        web.StreamResponse.__init__(self, status=status, headers=headers)
        self._body = body

    @property
    @override
    def prepared(self) -> bool:
        """Whether it has begun to go out."""
        return self._is_sent or super().prepared

    @property
    @override
    def keep_alive(self) -> bool | None:
        """Whether the connection stays open after it; None where that is not known yet."""
        return True if self._is_sent else super().keep_alive

    @override
    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send all of it, or begin to, where it goes aiohttp's way. Raises ConnectionError: the client has left."""
        if self._is_sent:
            return None
        data = self._at_once(request)
        if data is None:
            return await super().prepare(request)
        await request.writer.write_eof(data)
        self._is_sent = True
        return None

    @override
    async def write_eof(self, data: bytes = b"") -> None:
        """Send what `prepare` has not. Raises ConnectionError."""
        if not self._is_sent:
            await super().write_eof(data)

    def _at_once(self, request: web.BaseRequest) -> bytes | None:
        """Return the bytes of all of it; None where aiohttp is to send it."""
        headers, body, said = self._headers, self._body, self.said
        if said is None or not isinstance(body, bytes) or not body or not self._is_plain(request):
            return None
        own = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        # Nobody ends a line but we: what does is not sent (aiohttp raises ValueError).
        if not own.isascii() or "\0" in own or not own.count("\r") == own.count("\n") == len(headers):
            return None
        if hdrs.CONTENT_LENGTH not in headers:
            own += f"Content-Length: {len(body)}\r\n"
        if hdrs.CONTENT_TYPE not in headers:
            own += "Content-Type: application/octet-stream\r\n"
        head = f"HTTP/1.1 {self._status} {self._reason}\r\n{said}{own}{_rest(int(time.time()))}"
        return head.encode() + body

    def _is_plain(self, request: web.BaseRequest) -> bool:
        return (
            request.version == HttpVersion11
            and request.keep_alive
            and self._keep_alive is not False
            and request.method != hdrs.METH_HEAD
            and self._status not in _WITHOUT_BODY
            and not (self._eof_sent or self._payload_writer)
            and hdrs.DATE not in self._headers
            and hdrs.SERVER not in self._headers
        )


@lru_cache(maxsize=1)
def _rest(second: int) -> str:
    """Return the end of a head: what aiohttp says in all of them as well."""
    return f"Date: {formatdate(second, usegmt=True)}\r\nServer: {SERVER_SOFTWARE}\r\n\r\n"
