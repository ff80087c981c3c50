"""A collection embedded anew: by another model, cut in another way, or stored with other settings.

The stored documents are copied into a new physical collection, the target (`pipelines.copying`); then the alias is
switched to it (`clients.targets`). Servers with the old model go on with the old collection meanwhile, so the two are
compared again and again until nothing is left to copy or to delete. After the switch, when nobody finds the old one by
its name any more, it is compared once more, and then deleted. Killed at any moment and started again it goes on where
it was: what is in the target costs no embedding call.

A write that is answered while the alias is switched is not lost: it was shown in the old collection, and is copied, or
it is found not to be visible in the new one, and is done again (`clients.versions`). What the store does not allow to
close, it having no transaction over two collections:

- A node of a cluster that learns of the switch seconds after the others goes on writing into the old collection: what
  it writes after the last comparison is lost.
- A document that was written into the old collection at its last moment, some milliseconds before the switch, and is
  deleted before it was copied into the new one, comes back.
- A collection that was made before there were aliases must be deleted before its name can be an alias: what is written
  between the last comparison, some milliseconds before, and the deletion is lost, and so is a deletion since the last
  full comparison. Readers and writers find no collection for a moment. Whoever must be sure stops the writers.
- Where both models have the same dimension, a server with the old one may write its vectors into the new collection,
  until it has noticed the switch (two seconds, and what is under way). What was written so far is embedded again, and
  what is deleted at that moment may come back; what comes later is found by nobody before it is ingested again.
- Killed after the switch and before its end, a document that was deleted from the old collection at its last moment may
  be there again; and where more than some thousand were written in the last minute, one of them that a user has deleted
  since. One that came into the old collection at its last moment after an ingest of more than a minute is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from hartonomous.clients.embedding import EmbeddingClient
from hartonomous.clients.marks import told
from hartonomous.clients.moving import Mover, WholeDocument
from hartonomous.clients.points import sequence_at
from hartonomous.clients.schema import CollectionInfo, Schema
from hartonomous.config import Chunking
from hartonomous.core import walltime
from hartonomous.core.call import Call
from hartonomous.core.fingerprint import EmbeddingFingerprint, content_hash, is_same_content
from hartonomous.errors import ConflictError, HartonomousError, NotFoundError
from hartonomous.pipelines.copying import Copier, Copy, OnResult, document_of

_ALIVE_EVERY_S = 20.0
# After so many comparisons that found something the collection is being written all the time.
_MOST_PASSES = 20
# How far the clocks of those who write may be apart.
_SKEW_S = 60.0
# What is on its way to the old collection at the switch arrives within so long; so do the old model's vectors in the
# new one, from servers that know a collection for two seconds.
_SETTLE_S = 2.0
_NOTICED_S = 6.0


@dataclass(slots=True, frozen=True)
class Plan:
    """What is wanted. `language` None: the collection's own. `force`: also where nothing would change."""

    collection: str
    chunking: Chunking
    language: str | None = None
    force: bool = False
    keep: bool = False


@dataclass(slots=True, frozen=True)
class Reindexed:
    """The physical collection that was filled, and the old one where it was kept."""

    target: str
    kept: str | None


@dataclass(slots=True, frozen=True)
class _Run:
    """A reindex under way. `source` is the old collection, None where it is gone; `target` the new one."""

    plan: Plan
    source: CollectionInfo | None
    target: CollectionInfo
    copy: Copy

    @property
    def has_own_name(self) -> bool:
        """Whether the old collection is no physical one, so that its name will be the new one's."""
        return self.source is not None and self.source.name == self.plan.collection

    def note(self) -> dict[str, Any]:
        """Return what is needed when it is started again."""
        return {
            "max_tokens": self.plan.chunking.max_tokens,
            "overlap_tokens": self.plan.chunking.overlap_tokens,
            "source": None if self.source is None else self.source.name,
            **self.copy.note(),
        }


class Reindexer:
    """Embeds collections anew."""

    def __init__(self, embedding: EmbeddingClient, schema: Schema, mover: Mover, copier: Copier) -> None:
        self._embedding = embedding
        self._schema = schema
        self._targets = schema.targets
        self._mover = mover
        self._copier = copier

    async def run(self, plan: Plan, call: Call, on_result: OnResult) -> Reindexed | None:
        """Reindex a collection; return None when nothing was to be done.

        `on_result` is told what became of each document that was copied.

        Raises:
            NotFoundError: there is no such collection.
            ConflictError: it is not ours, or cannot be kept, or is written all the time.
            BackendError: documents could not be copied. Nothing is lost, and it may be run again.
        """
        fingerprint = await self._embedding.fingerprint(call)
        run = await self._taken_up(plan, fingerprint, call, on_result)
        run = run or await self._begun(plan, fingerprint, call, on_result)
        if run is None:
            return None
        if run.source is not None and not run.copy.switched:
            async with self._alive(run):
                await self._fill(run, run.source.name)
            await self._targets.note(run.target.name, run.note(), call)
        try:
            await self._targets.switch(
                plan.collection, run.target.name, call, keep=plan.keep, catch_up=lambda: self._catch_up(run)
            )
        finally:
            await self._schema.changed(plan.collection)
        return Reindexed(run.target.name, run.source.name if plan.keep and run.source is not None else None)

    async def _taken_up(
        self, plan: Plan, fingerprint: EmbeddingFingerprint, call: Call, on_result: OnResult
    ) -> _Run | None:
        """Return the reindex that was interrupted at its switch, None when there is none."""
        begun = await self._targets.begun(plan.collection, call)
        target = None if begun is None else await self._schema.describe(begun, call)
        if target is None:
            return None
        if target.fingerprint != fingerprint:
            raise ConflictError(
                f"A reindex to {told(target.fingerprint)} was interrupted at its end; configured is"
                f" {told(fingerprint)}. Run it once more with that model first."
            )
        note = await self._targets.noted(target.name, call)
        live = await self._targets.behind(plan.collection, call)
        copy = Copy(target.name, plan.chunking, call, on_result)
        if live == target.name:
            copy.take_up(note)
            live = note.get("source")
        source = None if live is None else await self._schema.describe(live, call)
        return _Run(plan, source, target, copy)

    async def _begun(
        self, plan: Plan, fingerprint: EmbeddingFingerprint, call: Call, on_result: OnResult
    ) -> _Run | None:
        """Return a reindex with an empty target, or with an interrupted one's; None: nothing is to be done."""
        collection = plan.collection
        info = await self._schema.describe(collection, call)
        if info is None:
            raise NotFoundError(f"There is no collection {collection!r}.", code="collection_not_found")
        language = plan.language or info.language
        if not plan.force and await self._is_current(info, plan, fingerprint, language, call):
            return None
        live = await self._targets.behind(collection, call)
        if plan.keep and live == collection:
            raise ConflictError(
                f"The collection {collection!r} cannot be kept: its name will be an alias. Export it first.",
                code="cannot_keep",
            )
        await self._discard_others(plan, call)
        name = await self._targets.build(collection, fingerprint, language, call)
        target = await self._schema.describe(name, call)
        source = await self._schema.describe(live or collection, call)
        if target is None or source is None:
            raise NotFoundError(f"The collection {collection!r} was deleted.", code="collection_not_found")
        return _Run(plan, source, target, Copy(name, plan.chunking, call, on_result))

    async def _is_current(
        self, info: CollectionInfo, plan: Plan, fingerprint: EmbeddingFingerprint, language: str, call: Call
    ) -> bool:
        """Whether the collection and all its documents are as they would be made now."""
        if not await self._targets.is_current(plan.collection, fingerprint, language, call):
            return False
        async for page in self._copier.listing(info.name, call):
            async for stored in self._mover.documents(info.name, page, call):
                if isinstance(stored, str) or not _is_cut(stored, plan.chunking, fingerprint):
                    return False
        return True

    async def _discard_others(self, plan: Plan, call: Call) -> None:
        """Delete a target whose documents were cut in another way."""
        wanted = plan.chunking.max_tokens, plan.chunking.overlap_tokens
        for name in await self._targets.abandoned(plan.collection, call):
            note = await self._targets.noted(name, call)
            if (note.get("max_tokens"), note.get("overlap_tokens")) != wanted:
                await self._targets.discard(plan.collection, call)
                return

    @asynccontextmanager
    async def _alive(self, run: _Run) -> AsyncIterator[None]:
        """Give signs of life, so that no sweep takes the target for an abandoned one."""
        await self._targets.note(run.target.name, run.note(), run.copy.call)
        task = asyncio.create_task(self._give_signs(run))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _give_signs(self, run: _Run) -> None:
        while True:
            await asyncio.sleep(_ALIVE_EVERY_S)
            with suppress(HartonomousError):  # the next one may do
                await self._targets.note(run.target.name, run.note(), run.copy.call)

    async def _fill(self, run: _Run, source: str) -> None:
        """Copy until a comparison of everything finds nothing, and then one of what was written since."""
        for number in range(_MOST_PASSES):
            run.copy.begin(sequence_at(walltime.earliest() - _SKEW_S))
            if not await self._copier.copy(run.copy, source, everything=number == 0):
                break
        for _ in range(_MOST_PASSES):
            if not await self._copier.copy_recent(run.copy, source):
                return
        if run.has_own_name:
            raise ConflictError(
                f"The collection {source!r} is written all the time: stop who writes into it, and run this again.",
                code="collection_busy",
            )

    async def _catch_up(self, run: _Run) -> None:
        """Copy what came into the old collection at the last moment; mend what the old model wrote into the new."""
        run.copy.switched = True
        await self._schema.changed(run.plan.collection)
        source, target = run.source, run.target
        if source is None or run.has_own_name:
            return
        is_alike = source.dimension == target.dimension and source.fingerprint != target.fingerprint
        await asyncio.sleep(_NOTICED_S if is_alike else _SETTLE_S)
        await self._copier.copy(run.copy, source.name)
        if is_alike:
            await self._copier.copy_recent(run.copy, target.name, everything=True)


def _is_cut(stored: WholeDocument, chunking: Chunking, fingerprint: EmbeddingFingerprint) -> bool:
    """Whether a document was cut and embedded in this way."""
    document = document_of(stored, 0)
    wanted = content_hash(
        document.text,
        format=document.format,
        max_tokens=chunking.max_tokens,
        overlap_tokens=chunking.overlap_tokens,
        fingerprint=fingerprint,
        pages=document.pages,
    )
    return is_same_content(wanted, stored.chunks[0].content_hash)
