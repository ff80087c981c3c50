"""A pass: look at the disk, send what is new there, delete what is gone; once, or after each change.

Nothing is kept on disk between two runs: the server knows what it has and answers `unchanged`. While watching, the
stamps of the files that were answered spare sending them again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from hartonomous.sending.client import Api, Target, connected
from hartonomous.sending.content import FileItem, Item
from hartonomous.sending.faults import Patience, RefusedError, SendingError, UnavailableError
from hartonomous.sending.naming import DocumentName
from hartonomous.sending.progress import Display, showing
from hartonomous.sending.prune import Gone, find_gone
from hartonomous.sending.sender import Sender
from hartonomous.sending.stdin import StdinFeed
from hartonomous.sending.tally import Tally
from hartonomous.sending.walk import File, Filters, Root, Stamp, Walk, walk
from hartonomous.sending.watch import watching

_LOOK_AGAIN_S = 300.0
_TRY_AGAIN_S = 30.0

T = TypeVar("T")

Report = Callable[[Tally, SendingError | None], None]
"""Told at the end of a pass: what became of the documents, and what ended it before its time."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for."""

    target: Target
    give_up_s: float
    key: str | None = field(default=None, repr=False)
    roots: Sequence[Root] = ()
    filters: Filters = field(default_factory=Filters)
    metadata: Mapping[str, str] = field(default_factory=dict)
    prune: bool = False


class Passes:
    """Passes over the same roots, each of which takes up where the one before left off."""

    def __init__(self, api: Api, plan: Plan, display: Display) -> None:
        self._api = api
        self._plan = plan
        self._display = display
        self._patience = Patience(plan.give_up_s, display.say)
        self._collection = plan.target.collection
        self._answered: dict[str, Stamp] = {}
        self._known: dict[str, DocumentName] | None = None
        self._told: set[str] = set()
        self._passed = False

    async def run(self, tally: Tally) -> None:
        """Send what has not been answered as it is now, and delete what is gone if that is wanted.

        Raises RefusedError and GaveUpError.
        """
        found = await asyncio.to_thread(walk, self._plan.roots, self._plan.filters)
        tally.failures += [failure for failure in found.failures if self._is_news(str(failure))]
        items = [FileItem(file, self._plan.metadata) for file in found.files if self._is_due(file)]
        tally.total = len(items) + len(tally.failures)
        sender = Sender(self._api, self._patience, tally, self._settled)
        try:
            await _shown(sender.send(items), self._display, tally)
        finally:
            self._collection = sender.collection or self._collection
        if self._plan.prune:
            await self._prune(found, tally)
        self._passed = True

    async def find_gone(self, found: Walk) -> Gone:
        """Return what is gone from disk: of all that the collection has, and later of what was there before."""
        if self._collection is None and not found.gaps:
            return Gone(doubts=["Nothing is deleted: nothing was sent, and no --collection is given to look into."])
        stored = await self._tried(self._stored) if not found.gaps else []
        filters = self._plan.filters
        filtered = bool(filters.include or filters.exclude)
        return await asyncio.to_thread(find_gone, found, stored, filtered=filtered)

    def _is_due(self, file: File) -> bool:
        return self._answered.get(file.name) != file.stamp

    def _is_news(self, sentence: str) -> bool:
        """Whether this is said for the first time."""
        news = sentence not in self._told
        self._told.add(sentence)
        return news

    def _settled(self, item: Item, status: str) -> None:
        if isinstance(item, FileItem):
            self._answered[item.file.name] = item.file.stamp
        if self._passed:
            self._display.say(f"{status} {item.shown}")

    async def _stored(self) -> list[DocumentName]:
        if self._known is not None:
            return list(self._known.values())
        return [name async for name in self._api.documents(str(self._collection))]

    async def _prune(self, found: Walk, tally: Tally) -> None:
        gone = await self.find_gone(found)
        tally.doubts += [doubt for doubt in gone.doubts if self._is_news(doubt)]
        for document_id in gone.ids:
            await self._tried(partial(self._api.delete, str(self._collection), document_id))
            tally.deleted += 1
            self._display.say(f"deleted {document_id}")
        self._remember(found, gone)

    async def _tried(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call, again and again while the server is away."""
        while True:
            try:
                result = await call()
            except UnavailableError as error:
                await self._patience.wait(error)
            else:
                self._patience.progressed()
                return result

    def _remember(self, found: Walk, gone: Gone) -> None:
        """Keep what is there now for the next pass to compare with."""
        if found.gaps:
            return
        deleted = set(gone.ids)
        known = {**(self._known or {}), **{file.name: file.document for file in found.files}}
        self._known = {path: name for path, name in known.items() if name.id not in deleted}
        self._answered = {path: stamp for path, stamp in self._answered.items() if path in self._known}


async def run_once(plan: Plan, display: Display, report: Report) -> SendingError | None:
    """Make one pass; return what ended it before its time."""
    async with connected(plan.target, plan.key, plan.give_up_s) as api:
        tally = Tally()
        return await _reported(Passes(api, plan, display).run(tally), tally, report)


async def run_watching(plan: Plan, display: Display, report: Report) -> SendingError:
    """Make a pass, and another after each change; return only when the server will not have it any more."""
    async with connected(plan.target, plan.key, plan.give_up_s) as api, watching(plan.roots, display.say) as changes:
        passes = Passes(api, plan, display)
        while True:
            tally = Tally()
            ended = await _reported(passes.run(tally), tally, report)
            if isinstance(ended, RefusedError):
                return ended
            await changes.wait(_TRY_AGAIN_S if ended else _LOOK_AGAIN_S)


async def run_stdin(plan: Plan, display: Display, report: Report) -> SendingError | None:
    """Pass the lines of standard input on; return what ended it before its time."""
    async with connected(plan.target, plan.key, plan.give_up_s) as api:
        tally = Tally(total=None)
        sender = Sender(api, Patience(plan.give_up_s, display.say), tally)
        return await _reported(_shown(sender.send(feed=StdinFeed(tally)), display, tally), tally, report)


async def preview(plan: Plan, display: Display) -> tuple[Walk, Gone]:
    """Return what a pass would send and delete; raise RefusedError or GaveUpError when the server cannot be asked."""
    found = await asyncio.to_thread(walk, plan.roots, plan.filters)
    if not plan.prune:
        return found, Gone()
    async with connected(plan.target, plan.key, plan.give_up_s) as api:
        return found, await Passes(api, plan, display).find_gone(found)


async def _shown(sending: Awaitable[None], display: Display, tally: Tally) -> None:
    async with showing(display, tally):
        await sending


async def _reported(sending: Awaitable[None], tally: Tally, report: Report) -> SendingError | None:
    """Wait for the end of `sending` and tell it, also when it is cancelled."""
    ended = None
    try:
        await sending
    except SendingError as error:
        ended = error
    finally:
        report(tally, ended)
    return ended
