"""One call for all who want the same at the same time.

A flight is the work, in a task of its own: whoever takes off first is a passenger like those who come later. Its items
are kept, so that each reads all of them from the beginning at their own pace, and nobody waits for a slow reader. An
error is given to each of them, and to nobody who comes later. Who leaves, or has no time left, leaves the others
alone; when the last one has left before the end, the work is cancelled.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Generic, TypeVar

from hartonomous.core.call import Call
from hartonomous.errors import BackendUnavailableError, DeadlineExceededError, HartonomousError

Item = TypeVar("Item")


class Flight(Generic[Item]):
    """Work under way; made by `Flights.start`."""

    def __init__(self, leave: Callable[[Flight[Item]], None]) -> None:
        self.task: asyncio.Task[None] | None = None
        self._items: list[Item] = []
        self._error: BaseException | None = None
        self._landed = False
        self._passengers = 0
        self._news = asyncio.Event()
        self._leave = leave

    @property
    def passengers(self) -> int:
        """How many are reading."""
        return self._passengers

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
                await self._wait(call)
            if self._error is not None:
                raise self._error_copy()
        finally:
            self._passengers -= 1
            if not self._passengers and not self._landed:
                self._leave(self)

    async def last(self, call: Call) -> Item:
        """Return the last item of the work; raises as `items`."""
        async with aclosing(self.items(call)) as items:
            async for item in items:
                last = item
        return last

    async def run(self, work: AsyncGenerator[Item]) -> None:
        """Do the work."""
        try:
            async with aclosing(work) as items:
                async for item in items:
                    self._items.append(item)
                    self._tell()
        except Exception as error:  # noqa: BLE001 - it is raised again where somebody waits for it
            self._error = error
        else:
            self._landed = True

    def land(self) -> None:
        """Tell the passengers that it is over."""
        if not self._landed and self._error is None:
            # It was cancelled, and who is there yet did not ask for that: the application ends.
            self._error = BackendUnavailableError("The server is shutting down.", code="draining", retry_after=1)
        self._landed = True
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _wait(self, call: Call) -> None:
        try:
            async with asyncio.timeout(call.deadline.remaining):
                await self._news.wait()
        except TimeoutError as error:
            raise DeadlineExceededError("The deadline passed before the answer was there.") from error

    def _error_copy(self) -> BaseException:
        """Return the error for one of many: where it is raised, its traceback and its `param` are its own."""
        assert self._error is not None
        if not isinstance(self._error, HartonomousError):
            return self._error
        mine = copy.copy(self._error)
        mine.__cause__ = self._error.__cause__
        return mine


class Flights(Generic[Item]):
    """The work that is under way, by keys."""

    def __init__(self) -> None:
        self._by_key: dict[str, Flight[Item]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def get(self, key: str) -> Flight[Item] | None:
        """Return the work under this key, None when there is none."""
        return self._by_key.get(key)

    def start(self, keys: Iterable[str], work: AsyncGenerator[Item]) -> Flight[Item]:
        """Begin work that is found under each of the keys until its end.

        The caller must become its passenger without waiting for anything before.
        """
        keys = list(keys)
        flight = Flight[Item](lambda flight: self._abandon(flight, keys))
        flight.task = asyncio.create_task(flight.run(work))
        self._tasks.add(flight.task)
        self._by_key.update(dict.fromkeys(keys, flight))
        flight.task.add_done_callback(lambda task: self._ended(task, flight, keys))
        return flight

    async def close(self) -> None:
        """Cancel all work, and wait for its end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _abandon(self, flight: Flight[Item], keys: Iterable[str]) -> None:
        # Whoever comes now finds it gone, not dying.
        self._forget(flight, keys)
        assert flight.task is not None
        flight.task.cancel()

    def _ended(self, task: asyncio.Task[None], flight: Flight[Item], keys: Iterable[str]) -> None:
        flight.land()
        self._tasks.discard(task)
        self._forget(flight, keys)

    def _forget(self, flight: Flight[Item], keys: Iterable[str]) -> None:
        for key in keys:
            if self._by_key.get(key) is flight:
                del self._by_key[key]
