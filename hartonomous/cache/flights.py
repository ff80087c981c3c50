"""One call for all who want the same at the same time.

A flight is the work, in a task of its own: whoever takes off first is a passenger like those who come later. Its items
are kept, so that each reads all of them from the beginning at their own pace, and nobody waits for a slow reader. An
error is given to each of them, and to nobody who comes later. Who leaves, or has no time left, leaves the others
alone; when the last one has left before the end, the work is cancelled.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Generic, TypeVar

from hartonomous.clients.watch import Watch
from hartonomous.core.call import Call
from hartonomous.core.trace import Span
from hartonomous.errors import BackendUnavailableError, DeadlineExceededError, HartonomousError

Item = TypeVar("Item")
Raised = TypeVar("Raised", bound=BaseException)


class Flight(Generic[Item]):
    """Work under way, found under `keys`; made by `Flights.start`. `forget` lets nobody find it any more.

    `watch` has it look after its passengers' deadlines, until it is over.
    """

    def __init__(
        self,
        keys: Iterable[str],
        forget: Callable[[Flight[Item]], None],
        watch: Watch[Flight[Item]],
        span: Span | None = None,
    ) -> None:
        self.keys = list(keys)
        self.is_over = False
        """Whether it has ended, or was given up."""
        self.task: asyncio.Task[None] | None = None
        self.span = span
        """Whose work it is, where that is recorded."""
        self._items: list[Item] = []
        self._error: BaseException | None = None
        self._landed = False
        self._passengers = 0
        self._waiting: list[tuple[asyncio.Future[bool], float]] = []  # who waits for news, and until when
        self._forget = forget
        self._watch = watch
        watch.add(self)

    async def items(self, call: Call) -> AsyncGenerator[Item]:
        """Yield every item of the work, from the first one. Use within `contextlib.aclosing`.

        Raises what the work raised, and DeadlineExceededError when this caller's own deadline passes.
        """
        self._passengers += 1
        try:
            place = 0
            while True:
                while place < len(self._items):
                    yield self._items[place]
                    place += 1
                if self._landed:
                    break
                if not await self._news(call):
                    raise _too_late()
            if self._error is not None:
                raise own(self._error)
        finally:
            self._passengers -= 1
            if not self._passengers and not self._landed:
                self._give_up()

    async def last(self, call: Call) -> Item:
        """Return the last item of the work; raises as `items`."""
        self._passengers += 1
        try:
            while not self._landed:
                if not await self._news(call):
                    raise _too_late()
            if self._error is not None:
                raise own(self._error)
            return self._items[-1]
        finally:
            self._passengers -= 1
            if not self._passengers and not self._landed:
                self._give_up()

    async def run(self, read: Callable[[Flight[Item]], Awaitable[None]]) -> None:
        """Do the work: `read` gives its items to `add`."""
        try:
            await read(self)
        except Exception as error:  # noqa: BLE001 - it is raised again where somebody waits for it
            self._error = error
        except asyncio.CancelledError:
            self._error = _ended()
            raise
        finally:
            self._land()

    def add(self, item: Item) -> None:
        """Give an item to everybody."""
        self._items.append(item)
        self._tell()

    def ended(self) -> None:
        """The task is over, even if it never began."""
        if not self._landed:
            self._error = _ended()
            self._land()

    def _land(self) -> None:
        # At once, so that nobody boards who could only be given an error, or what is kept already.
        self._landed = self.is_over = True
        self._watch.discard(self)
        self._forget(self)
        self._tell()

    def _give_up(self) -> None:
        # Whoever comes now finds it gone, not dying.
        self.is_over = True
        self._forget(self)
        assert self.task is not None
        self.task.cancel()

    def _tell(self) -> None:
        waiting, self._waiting = self._waiting, []
        for news, _ in waiting:
            if not news.done():
                news.set_result(True)

    def _news(self, call: Call) -> asyncio.Future[bool]:
        """Return what is done when there is news; False when the deadline has passed before."""
        loop = self._watch.loop
        news: asyncio.Future[bool] = loop.create_future()
        by = loop.time() + call.deadline.remaining
        self._waiting.append((news, by))
        self._watch.look_by(by)
        return news

    def look(self, now: float) -> float:
        """Tell those whose deadline has passed; return when the next one does."""
        next_by = math.inf
        for news, by in self._waiting:
            if by > now:
                next_by = min(next_by, by)
            elif not news.done():
                news.set_result(False)
        return next_by


def _too_late() -> HartonomousError:
    return DeadlineExceededError("The deadline passed before the answer was there.")


def _ended() -> HartonomousError:
    """Return what those are told who did not ask for the end of the work: the application ends."""
    return BackendUnavailableError("The server is shutting down.", code="draining", retry_after=1)


def own(error: Raised) -> Raised:
    """Return an error for one of many who get it: where it is raised, its traceback and its `param` are its own."""
    if not isinstance(error, HartonomousError):
        return error
    mine = copy.copy(error)
    mine.__cause__ = error.__cause__
    return mine


class Flights(Generic[Item]):
    """The work that is under way, by keys."""

    def __init__(self) -> None:
        self._by_key: dict[str, Flight[Item]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: Watch[Flight[Item]] | None = None  # there may be no loop yet

    def __len__(self) -> int:
        return len(self._tasks)

    def get(self, key: str) -> Flight[Item] | None:
        """Return the work under this key, None when there is none."""
        return self._by_key.get(key)

    def start(self, keys: Iterable[str], work: AsyncGenerator[Item], span: Span | None = None) -> Flight[Item]:
        """Begin work that is found under each of the keys until its end.

        The caller, whose `span` it belongs to, must become its passenger without waiting for anything before.
        """

        async def read(flight: Flight[Item]) -> None:
            async with aclosing(work) as items:
                async for item in items:
                    flight.add(item)

        return self._begin(keys, read, span)

    def start_once(
        self, keys: Iterable[str], work: Callable[[], Awaitable[Item]], span: Span | None = None
    ) -> Flight[Item]:
        """Begin, as `start` does, work that has one item."""

        async def read(flight: Flight[Item]) -> None:
            flight.add(await work())

        return self._begin(keys, read, span)

    def _begin(
        self, keys: Iterable[str], read: Callable[[Flight[Item]], Awaitable[None]], span: Span | None
    ) -> Flight[Item]:
        if self._watch is None:
            self._watch = Watch(asyncio.get_running_loop())
        flight: Flight[Item] = Flight(keys, self._forget, self._watch, span)
        flight.task = self._watch.loop.create_task(flight.run(read))
        self._tasks.add(flight.task)
        for key in flight.keys:
            self._by_key[key] = flight
        flight.task.add_done_callback(lambda task: self._ended(task, flight))
        return flight

    def join(self, flight: Flight[Item], key: str) -> None:
        """Let work that is not over be found under one more key."""
        flight.keys.append(key)
        self._by_key[key] = flight

    async def close(self) -> None:
        """Cancel all work, and wait for its end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._watch is not None:
            self._watch.close()

    def _ended(self, task: asyncio.Task[None], flight: Flight[Item]) -> None:
        self._tasks.discard(task)
        flight.ended()

    def _forget(self, flight: Flight[Item]) -> None:
        for key in flight.keys:
            if self._by_key.get(key) is flight:
                del self._by_key[key]
