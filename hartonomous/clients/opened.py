"""A backend's response whose headers are there: its body, as it comes or whole, with our errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING

from hartonomous.clients.admission import Place
from hartonomous.clients.exchange import Exchange
from hartonomous.clients.failures import FOREIGN, AnswerTooLargeError, BrokenOffError
from hartonomous.clients.guard import Request
from hartonomous.core.trace import Value

if TYPE_CHECKING:
    from hartonomous.clients.pool import Pool


class Opened:
    """A response whose headers are there and whose body is still to be read; errors are ours already.

    It holds a place at its address until the pool closes it. `is_whole`: it is read to its end before anybody uses it.
    Before `first_by` and `end_by`, in the loop's time, its headers and its end must come.
    """

    __slots__ = ("_pieces", "_pool", "_size", "exchange", "failure", "is_whole", "place")

    def __init__(self, pool: Pool, place: Place, first_by: float, end_by: float, *, is_whole: bool) -> None:
        self.place = place
        self.is_whole = is_whole
        self.failure: BaseException | None = None
        """What broke the body, also where its reader has made something else of it."""
        self._pool = pool
        self._pieces: list[bytes] = []
        self._size = 0
        take = self._gather if is_whole else None
        self.exchange = Exchange(pool.watch, first_by, end_by, pool.config.idle_timeout_s, take, self._began)

    @property
    def status(self) -> int:
        """The status; 0 before there is one."""
        return self.exchange.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, found by any spelling of their names."""
        return self.exchange.headers

    @property
    def content_type(self) -> str:
        """The media type, in small letters and without parameters; "" where there is none."""
        return self.exchange.content_type

    @property
    def length(self) -> int | None:
        """How many bytes the body has; None where that is not said."""
        headers = self.exchange.headers
        told = headers.get("Content-Length", "")
        return int(told) if told.isascii() and told.isdigit() and "Transfer-Encoding" not in headers else None

    async def piece(self) -> bytes:
        """Return what has come of the body, as soon as anything has, for which it has `idle_timeout_s`; b"" at its end.

        Raises BackendError, BackendUnavailableError, DeadlineExceededError.
        """
        try:
            return await self.exchange.piece()
        except FOREIGN as error:
            raise self._failed(error) from error
        except BaseException as error:
            self.failure = error
            raise

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Yield the body, piece by piece; raises as `piece`."""
        while data := await self.piece():
            yield data

    async def pour(self, take: Callable[[bytes], None]) -> None:
        """Hand the body to `take` as it comes, in the callback of the connection; return at its end.

        Raises as `piece`, and what `take` raises, which ends it.
        """
        try:
            await self.exchange.pour(take)
        except FOREIGN as error:
            raise self._failed(error) from error
        except BaseException as error:
            self.failure = error
            raise
        self._check_refusal()

    def pause(self) -> None:
        """Hand out nothing more, and let the backend wait, until `resume`."""
        self.exchange.pause()

    def resume(self) -> None:
        """Go on after a `pause`."""
        self.exchange.resume()

    async def read(self) -> bytes:
        """Return the whole body, at once where it is there; raises as `piece`, BackendError beyond `max_answer_bytes`.

        It is to be called once.
        """
        if self.is_whole:
            self._check_refusal()
        else:
            await self.pour(self._gather)
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def blamed(self) -> bool | None:
        """Whether the backend is to blame that it took too long; None: the time that it had tells."""
        # A stream that runs into the request's deadline says nothing about the backend.
        return True if self.exchange.is_idle else None if self.is_whole or not self.status else False

    def tells(self, said: Mapping[str, Value]) -> None:
        """Add what the body has said to the span of the call, where it is recorded."""
        if said and self.place.span is not None:
            self.place.span.set(said)

    def broken(self) -> BrokenOffError:
        """Return the error of a body that ended too early, which only its reader can tell."""
        self.failure = error = BrokenOffError(f"The {self._pool.name} service broke its stream off.")
        return error

    def _began(self, status: int) -> None:
        if status < 300:
            self.place.answering(is_stream=not self.is_whole)

    def _gather(self, data: bytes) -> None:
        cap = self._pool.config.max_answer_bytes
        self._size += len(data)
        if self._size > cap:
            raise AnswerTooLargeError(f"The {self._pool.name} service's answer is larger than {cap} bytes.")
        self._pieces.append(data)

    def _check_refusal(self) -> None:
        if self.exchange.refusal is not None:
            raise self.exchange.refusal

    def _failed(self, error: BaseException) -> BaseException:
        self.failure = self._pool.translate(error, self.place, self.blamed())
        return self.failure


class Opening:
    """The block of `Pool.open`."""

    __slots__ = ("_opened", "_pool", "_request")

    def __init__(self, pool: Pool, request: Request) -> None:
        self._pool = pool
        self._request = request

    async def __aenter__(self) -> Opened:
        self._opened = await self._pool.opened(self._request)
        return self._opened

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._pool.end(self._opened, self._request.call, error)
