"""Sends documents: lines in one stream, files beside it, a few at a time; what was not answered is sent again.

The answers of a stream come in any order while lines are still being sent. When it ends before all are answered, the
next one begins with those that are open, in their order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from hartonomous.sending.client import Answer, Api
from hartonomous.sending.content import FileItem, Item, UnsendableError, VanishedError
from hartonomous.sending.faults import (
    DocumentError,
    Patience,
    RefusedError,
    SendingError,
    UnavailableError,
    is_slow,
    is_transient,
    objects,
)
from hartonomous.sending.tally import STATUSES, Tally

_UPLOADS = 3
_TRIES = 3
# The server takes a body that says nothing for 30 s for dead; a blank line is no document.
_SILENCE_S = 10.0
_BLANK = b"\n"

Settled = Callable[[Item, str], None]


class Feed(Protocol):
    """Where documents come from that nobody knows beforehand."""

    ended: bool

    async def get(self) -> Item:
        """Wait for the next one; raise StopAsyncIteration after the last. May be cancelled without losing one."""


class Sender:
    """Sends documents and tells what became of each: to the tally, and to `settled(item, status)`."""

    def __init__(
        self, api: Api, patience: Patience, tally: Tally, settled: Settled = lambda _item, _status: None
    ) -> None:
        self.collection: str | None = None
        self._api = api
        self._patience = patience
        self._tally = tally
        self._settled = settled
        self._waiting: deque[Item] = deque()
        self._open: dict[int, Item] = {}
        self._again: list[Item] = []
        self._number = 0
        self._streamed_tokens = 0
        self._busy = ""
        self._feed: Feed | None = None
        self._uploads: asyncio.Queue[FileItem | None] = asyncio.Queue()

    async def send(self, items: Iterable[Item] = (), feed: Feed | None = None) -> None:
        """Send all of `items` and what comes from `feed`.

        Raises RefusedError or GaveUpError when the rest cannot be sent.
        """
        self._feed = feed
        for item in items:
            self._sort(item)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_UPLOADS):
                    group.create_task(self._upload_all())
                await self._stream_all()
                for _ in range(_UPLOADS):
                    self._uploads.put_nowait(None)
        except ExceptionGroup as errors:
            ended, others = errors.split(SendingError)
            if ended is None or others is not None:
                raise
            raise _first(ended) from None

    def _sort(self, item: Item) -> None:
        if isinstance(item, FileItem) and not item.goes_as_line:
            self._uploads.put_nowait(item)
        else:
            self._waiting.append(item)

    @property
    def _has_lines(self) -> bool:
        return bool(self._waiting or self._open or self._again or (self._feed and not self._feed.ended))

    async def _stream_all(self) -> None:
        while self._has_lines:
            self._waiting.extendleft(reversed(self._open.values()))
            self._waiting.extend(self._again)
            self._open.clear()
            self._again.clear()
            try:
                await self._stream()
            except UnavailableError as error:
                await self._patience.wait(error)

    async def _stream(self) -> None:
        self._number = self._streamed_tokens = 0
        last = await self._api.stream(self._next_line, self._answered)
        self._told(last, self._streamed_tokens)
        if self._again and not (self._open or self._waiting):
            raise UnavailableError(self._busy)
        if self._has_lines:
            raise UnavailableError("The server left documents unanswered.")

    async def _next_line(self) -> bytes | None:
        """Return the next line to send, a blank one after a silence, or None when there are no more."""
        while True:
            try:
                item = self._waiting.popleft() if self._waiting else await self._from_feed()
            except TimeoutError:
                self._number += 1
                return _BLANK
            except StopAsyncIteration:
                return None
            line = await self._read(item)
            if line is not None:
                return line + b"\n"

    async def _from_feed(self) -> Item:
        if self._feed is None:
            raise StopAsyncIteration
        async with asyncio.timeout(_SILENCE_S):
            return await self._feed.get()

    async def _read(self, item: Item) -> bytes | None:
        """Return the line of a document, which is open from now on; None when it goes another way."""
        # Open before the first await: when the connection breaks here, it belongs to what is sent again.
        self._number += 1
        self._open[self._number] = item
        try:
            line = await asyncio.to_thread(item.line)
        except (UnsendableError, VanishedError) as error:
            self._gone(item, error)
        else:
            if line is not None:
                return line
            assert isinstance(item, FileItem)
            self._uploads.put_nowait(item)
        del self._open[self._number]
        self._number -= 1
        return None

    def _answered(self, answer: Answer) -> None:
        item = self._open.pop(_whole(answer["line"]), None)
        if item is None:
            raise UnavailableError("The server answered a line that was not sent.")
        tokens = _whole(answer.get("tokens"))
        self._streamed_tokens += tokens
        self._tally.tokens += tokens
        if not self._settle(item, answer):
            self._again.append(item)

    def _settle(self, item: Item, answer: Answer) -> bool:
        """Note what became of a document; False when it has to be sent again."""
        status, error = str(answer.get("status")), answer.get("error")
        if status in STATUSES:
            self._tally.store(status, _whole(answer.get("chunks")))
        else:
            error = error if isinstance(error, dict) else {}
            sentence = str(error.get("message") or "failed, and the server gave no reason")
            item.tries += is_slow(error)
            if is_transient(error) or (is_slow(error) and item.tries < _TRIES):
                self._busy = sentence
                return False
            self._tally.fail(_named(item, answer), sentence)
        self._patience.progressed()
        self._settled(item, status)
        return True

    def _gone(self, item: Item, error: UnsendableError | VanishedError | DocumentError) -> None:
        if isinstance(error, VanishedError):
            if self._tally.total is not None:
                self._tally.total -= 1
            return
        self._tally.fail(item.shown, str(error))
        self._settled(item, "failed")

    async def _upload_all(self) -> None:
        while (item := await self._uploads.get()) is not None:
            try:
                while not await self._upload(item):
                    pass
            except (UnsendableError, VanishedError, DocumentError) as error:
                self._gone(item, error)

    async def _upload(self, item: FileItem) -> bool:
        """Upload a file; False when it has to be done again."""
        try:
            answer = await self._api.upload(item.file.path, item.file.document, item.metadata)
            documents = objects(answer.get("documents"))
            if len(documents) != 1:
                raise UnavailableError("The server's answer tells nothing of the file.")
            if not self._settle(item, documents[0]):
                raise UnavailableError(self._busy)
        except UnavailableError as error:
            await self._patience.wait(error)
            return False
        self._told(answer)
        return True

    def _told(self, answer: Answer, counted: int = 0) -> None:
        """Take from the last line of a stream, or the answer to an upload, what it says of all."""
        usage = answer.get("usage")
        self._tally.tokens += max(0, _whole(usage.get("embedding_tokens")) - counted if isinstance(usage, dict) else 0)
        collection = answer.get("collection")
        self.collection = collection if isinstance(collection, str) else self.collection


def _named(item: Item, answer: Answer) -> str:
    name = answer.get("id")
    return item.shown if isinstance(item, FileItem) or not name else f"{item.shown} ({name})"


def _whole(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0


def _first(group: BaseExceptionGroup[SendingError]) -> SendingError:
    """Return the error to tell: a refusal before anything else."""
    leaves = list(_leaves(group))
    return next((error for error in leaves if isinstance(error, RefusedError)), leaves[0])


def _leaves(error: BaseException) -> Iterable[SendingError]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    elif isinstance(error, SendingError):
        yield error
