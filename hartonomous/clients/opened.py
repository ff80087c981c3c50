"""A backend's response whose headers are there: its body, as it comes or whole, with our errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from typing_extensions import override

from hartonomous.clients.admission import Place
from hartonomous.clients.exchange import Exchange
from hartonomous.clients.failures import FOREIGN, AnswerTooLargeError, BrokenOffError
from hartonomous.clients.guard import Guard, Request
from hartonomous.core.trace import Value

if TYPE_CHECKING:
    from hartonomous.clients.calling import Caller

T = TypeVar("T")


class Opened(Exchange, kw_only=True):
    """A response whose headers are there and whose body is still to be read; errors are ours already.

    It holds a place at its address until the caller ends it. `is_whole`: it is read to its end before anybody uses it.
    """

    place: Place
    caller: Caller
    failure: BaseException | None = None
    """What broke the body, also where its reader has made something else of it."""
    _pieces: list[bytes] = []  # noqa: RUF012 - each has its own

    @property
    def length(self) -> int | None:
        """How many bytes the body has; None where that is not said."""
        headers = self.headers
        told = headers.get("Content-Length", "")
        return int(told) if told.isascii() and told.isdigit() and "Transfer-Encoding" not in headers else None

    @override
    async def piece(self) -> bytes:
        """Return what has come of the body, as soon as anything has, for which it has `idle_timeout_s`; b"" at its end.

        Raises BackendError, BackendUnavailableError, DeadlineExceededError.
        """
        try:
            return await super().piece()
        except FOREIGN as error:
            raise self._failed(error) from error
        except BaseException as error:
            self.failure = error
            raise

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Yield the body, piece by piece; raises as `piece`."""
        while data := await self.piece():
            yield data

    @override
    async def pour(self, take: Callable[[bytes], None]) -> None:
        """Hand the body to `take` as it comes, in the callback of the connection; return at its end.

        Raises as `piece`, and what `take` raises, which ends it.
        """
        try:
            await super().pour(take)
        except FOREIGN as error:
            raise self._failed(error) from error
        except BaseException as error:
            self.failure = error
            raise
        if self.refusal is not None:
            raise self.refusal

    async def read(self) -> bytes:
        """Return the whole body, at once where it is there; raises as `piece`, BackendError beyond `max_answer_bytes`.

        It is to be called once.
        """
        if not self.is_whole:
            await self.pour(self._gather)
        return self.whole()

    def whole(self) -> bytes:
        """Return the whole body, which has come; raises as `read`."""
        if self.refusal is not None:
            raise self.refusal
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def blamed(self) -> bool | None:
        """Whether the backend is to blame that it took too long; None: the time that it had tells."""
        # A stream that runs into the request's deadline says nothing about the backend.
        return True if self.is_idle else None if self.is_whole or not self.status else False

    def tells(self, said: Callable[[T], Mapping[str, Value]], piece: T) -> None:
        """Add what a piece of the body has said to the span of the call, where it is recorded."""
        if self.place.span is not None and (known := said(piece)):
            self.place.span.set(known)

    def broken(self) -> BrokenOffError:
        """Return the error of a body that ended too early, which only its reader can tell."""
        self.failure = error = BrokenOffError(f"The {self.caller.name} service broke its stream off.")
        return error

    @override
    def _succeeded(self) -> None:
        if not self.is_whole or self.place.replica.adaptive is not None:
            self.place.answering(is_stream=not self.is_whole)

    @override
    def _gather(self, data: bytes) -> None:
        cap = self.caller.config.max_answer_bytes
        if self._size > cap:
            raise AnswerTooLargeError(f"The {self.caller.name} service's answer is larger than {cap} bytes.")
        self._pieces.append(data)

    def _failed(self, error: BaseException) -> BaseException:
        self.failure = self.caller.translate(error, self.place, self.blamed())
        return self.failure


class Opening:
    """The block of `Pool.open`."""

    __slots__ = ("_caller", "_guard", "_opened", "_request")

    def __init__(self, guard: Guard, caller: Caller, request: Request) -> None:
        self._guard, self._caller, self._request = guard, caller, request

    async def __aenter__(self) -> Opened:
        self._opened = await self._guard.run(self._request, self._caller.open)
        return self._opened

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._caller.end(self._opened, self._request.call, error)
