"""Documents in the vector store: how one is written, replaced, changed, deleted, and what is left behind swept.

So that a reader sees one whole version and a crash at any point is mended by sending again:

1. `write` stores the new chunks unseen (`visible: false`). A point's id follows from document, content, cut and index:
   a retry writes the same points, and two who cut one text differently write two versions of it. Qdrant's conditional
   update keeps what is visible already or belongs to a newer ingest; where the same text is visible already, only its
   attributes and its sequence are moved up, chunk 0 last (a document is looked up by it).
2. `publish` looks whether a newer version is visible (then ours is dropped) and whether all our chunks are there,
   deletes what is older and was never shown, and in the same call shows ours. So an older ingest that shows its chunks
   after a newer one has published finds none left: an older version never comes back. In this order, because a document
   that is visible is taken for stored: what a crash between the two left would stay.
3. Only the next call deletes the older version that was visible, or the part of it that a shard has shown. Meanwhile
   both are, and a reader keeps the newest among its hits (`newest_only`). Deleted in one call with the showing, there
   was a gap on a true Qdrant, whose searches look for points first and fetch their payloads later: 5 in 3,825 found
   neither version, none in 8,339 since.
4. What a crash leaves: unseen chunks, which nobody reads and the document's next publish or a sweep deletes; or an
   older version beside the newest, which the next `states` of that document or a sweep deletes. Where it is the part
   that a shard has shown, without the chunk by which documents are looked up, the next publish or a sweep does.

`sequence` decides who is newer, never the order in which calls arrive, and between two of one sequence the greater
`content_hash` (`newest_first`). A visible version goes only where one that comes after it in this order was seen, so
the last of them stays whatever comes in between: had a publish deleted all of its own sequence but itself, two of them
could delete each other. And that one is whole: this publish has shown it, or its chunks are counted. It is not where a
shard failed in the middle of a publish, or where a call that was sent twice came late and brought a chunk back. Many
documents go into one call of each kind.

Calls go to a name, behind which a reindex puts another collection between two of them. So what `publish` and
`set_attributes` have changed they look up again: where nothing as new is visible, nothing was changed, and the document
must be sent again. `write` promises nothing before that; `delete_document` is one call, on the one collection or on the
other (`pipelines.reindex` tells which deletions may be undone).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hartonomous.clients.points import (
    ATTRIBUTES,
    STATE_FIELDS,
    VERSION_FIELDS,
    VISIBLE,
    ChunkPoint,
    DocumentState,
    newest_first,
    sequence_at,
    visible_filter,
)
from hartonomous.clients.qdrant import batches, below, match, write_json
from hartonomous.clients.reach import name_of
from hartonomous.clients.store import PointStore
from hartonomous.core import walltime
from hartonomous.core.call import Call
from hartonomous.errors import BackendUnavailableError, HartonomousError

OnChange = Callable[[str], Awaitable[None]]
"""Is told the name of a collection whose documents changed. Raises nothing."""

_SOME = 1_000
_ABANDONED_S = 3_600.0
FIRST_CHUNK: Mapping[str, Any] = {"key": "chunk_index", "match": {"value": 0}}
"""The condition that a point is the chunk by which its document is looked up."""

_RELOOKS = 3
_RELOOK_WAIT_S = 0.02


@dataclass(slots=True, frozen=True)
class Publication:
    """A document whose chunks have all been written, to be shown."""

    document_id: str
    point_ids: Sequence[str]
    sequence: int


@dataclass(slots=True, frozen=True, kw_only=True)
class AttributeChange:
    """New attributes beside the text of a stored version; `sequence` is this ingest's, `updated_at` its time."""

    state: DocumentState
    title: str | None
    source: str | None
    metadata: Mapping[str, Any]
    attributes_hash: str
    version: str
    sequence: int
    updated_at: str

    def operation(self) -> dict[str, Any]:
        """Return the one operation that changes all chunks, or none when the version is gone or a newer one came."""
        payload = {name: getattr(self, name) for name in ATTRIBUTES}
        same = (
            match("document_id", self.state.document_id),
            match("content_hash", self.state.content_hash),
            below(self.sequence),
        )
        return {"set_payload": {"payload": payload, "filter": visible_filter(None, *same)}}


class DocumentChangedError(BackendUnavailableError):
    """Another ingest or a deletion of the same document came in between; sent again it will be taken."""

    code = "document_changed"


class Versions(PointStore):
    """The versions of documents, in any collection. Without such a collection the methods raise NotFoundError.

    `on_change` is told of a collection when readers see another state of it, and before that is acknowledged.
    """

    on_change: OnChange | None = None

    async def states(self, collection: str, document_ids: Sequence[str], call: Call) -> dict[str, DocumentState]:
        """Return what is visible of those documents that exist; what a crash left of older versions is deleted."""
        return await self._states(collection, document_ids, FIRST_CHUNK, call, STATE_FIELDS)

    async def write(self, collection: str, points: Sequence[ChunkPoint], call: Call) -> None:
        """Store chunks unseen; returns when they are durable. Cancelled or failed half-way, it may be done again."""
        # From the end: a document is looked up by its first chunk, which must tell no more than the others hold.
        for batch in batches(reversed(points), name_of(collection)):
            await self._post_batch(collection, write_json(batch), call)

    async def publish(
        self, collection: str, publications: Sequence[Publication], call: Call
    ) -> list[HartonomousError | None]:
        """Show these documents, of which none comes twice, and delete what is older of them.

        Where a newer version of a document is visible already ours is removed, and all is well. An error stands in
        the place of a document whose points are missing (deleted meanwhile, or in a collection that was replaced): it
        must be ingested again.
        """
        if not publications:
            return []
        outdated, incomplete, replaced = await self._look(collection, publications, call)
        ours = [one for one in publications if one.document_id not in outdated | incomplete]
        operations = [_drop_unseen(one) for one in publications if one.document_id in outdated]
        if ours:
            operations += [_delete_never_shown(ours), _show(ours)]
        if operations:
            await self._change(collection, operations, call)
        wanted = [(one.document_id, one.sequence) for one in ours]
        # What is older goes as a whole with its first chunk: of a large document the others need not be read for it.
        beside = [_beside(one) for one in ours if one.document_id not in replaced]
        lost = await self._lost(collection, wanted, {"should": [FIRST_CHUNK, *beside]}, call, shown=set(wanted))
        return [
            _changed() if one.document_id in incomplete or (one.document_id, one.sequence) in lost else None
            for one in publications
        ]

    async def set_attributes(
        self, collection: str, changes: Sequence[AttributeChange], call: Call
    ) -> list[HartonomousError | None]:
        """Replace what is stored beside the text of these versions, each on all its chunks in one operation.

        An error stands in the place of a version that is gone, if no newer one has come: its document must be ingested
        again.
        """
        await self._change(collection, [change.operation() for change in changes], call)
        wanted = [(change.state.document_id, change.sequence) for change in changes]
        lost = await self._lost(collection, wanted, FIRST_CHUNK, call)
        return [_changed() if one in lost else None for one in wanted]

    async def delete_document(self, collection: str, document_id: str, call: Call) -> None:
        """Delete a document; nothing happens when there is none.

        Unseen chunks of the last hour stay: they may be an ingest under way, which counts as one that comes after.
        """
        seen_or_old = [VISIBLE, below(sequence_at(walltime.earliest() - _ABANDONED_S))]
        gone = {"must": [match("document_id", document_id)], "should": seen_or_old}
        await self._change(collection, [{"delete": {"filter": gone}}], call)

    async def sweep(self, collection: str, older_than_s: float, call: Call) -> int:
        """Delete what killed ingests left: chunks never shown that are older than so many seconds, and versions that a
        newer one has replaced. Returns the number of chunks never shown.
        """
        abandoned = {"must": [below(sequence_at(walltime.earliest() - older_than_s))], "must_not": [VISIBLE]}
        count = await self._count(collection, abandoned, call)
        if count:
            await self._batch(collection, [{"delete": {"filter": abandoned}}], call)
        heads: dict[str, DocumentState] = {}
        async for records in self._pages(collection, visible_filter(None, FIRST_CHUNK), call, VERSION_FIELDS):
            # Both versions of a document have ids that begin alike: they come one after the other.
            page = [DocumentState.from_payload(payload) for _, payload in records]
            heads = await self._without_outdated(collection, [*list(heads.values())[-1:], *page], call)
            await self._without_parts(collection, heads, call)
        return count

    async def _change(self, collection: str, operations: Sequence[Mapping[str, Any]], call: Call) -> None:
        """Change what readers see; of a change that failed nobody knows whether it was made."""
        try:
            await self._batch(collection, operations, call)
        finally:
            if self.on_change is not None:
                await self.on_change(collection)

    async def _without_outdated(
        self,
        collection: str,
        heads: Sequence[DocumentState],
        call: Call,
        shown: Collection[tuple[str, int]] = (),
    ) -> dict[str, DocumentState]:
        """Return the newest version of each document; the others are deleted.

        Where others are found the newest is checked to be whole, and passed over if it is not, unless it is of those
        that were `shown` just now, by document and sequence.
        """
        outdated = _outdated(heads, newest := newest_versions(heads))
        doubtful = [newest[name] for name in outdated if (name, newest[name].sequence) not in shown]
        if doubtful and (partial := await self._partial(collection, doubtful, call)):
            return await self._without_outdated(collection, [head for head in heads if _key(head) not in partial], call)
        if outdated:
            # Until now searches could find them: what was answered from one since the newest was shown is outdated too.
            operations = [_delete_outdated(newest[name], seen) for name, seen in outdated.items()]
            await self._change(collection, operations, call)
        return newest

    async def _partial(self, collection: str, versions: Sequence[DocumentState], call: Call) -> set[tuple[str, str]]:
        """Return by document and content those of these versions of which not all chunks are visible."""
        names = {"key": "document_id", "match": {"any": [one.document_id for one in versions]}}
        contents = {"key": "content_hash", "match": {"any": [one.content_hash for one in versions]}}
        found = await self._scroll(collection, visible_filter(None, names, contents), call, VERSION_FIELDS)
        chunks = Counter(_key(DocumentState.from_payload(payload)) for _, payload in found)
        return {_key(one) for one in versions if chunks[_key(one)] < one.chunk_count}

    async def _without_parts(self, collection: str, heads: Mapping[str, DocumentState], call: Call) -> None:
        """Delete of these documents what a shard has shown of an older version whose first chunk another one lacks."""
        names = {"key": "document_id", "match": {"any": list(heads)}}
        known = {"key": "content_hash", "match": {"any": [head.content_hash for head in heads.values()]}}
        wanted = {"must": [VISIBLE, names], "must_not": [known]}
        found = await self._scroll(collection, wanted, call, VERSION_FIELDS) if heads else []
        others = [DocumentState.from_payload(payload) for _, payload in found]
        # What is newer is about to be shown whole.
        older = [one for one in others if newest_first(one) < newest_first(heads[one.document_id])]
        await self._without_outdated(collection, [*heads.values(), *older], call)

    async def _states(
        self,
        collection: str,
        document_ids: Sequence[str],
        looked_up: Mapping[str, Any],
        call: Call,
        fields: list[str],
        shown: Collection[tuple[str, int]] = (),
    ) -> dict[str, DocumentState]:
        """Return the newest version of each document by those of its visible chunks that are looked up."""
        found: list[DocumentState] = []
        for first in range(0, len(document_ids), _SOME):
            some = {"key": "document_id", "match": {"any": list(document_ids[first : first + _SOME])}}
            records = await self._scroll(collection, visible_filter(None, some, looked_up), call, fields)
            found += [DocumentState.from_payload(payload) for _, payload in records]
        return await self._without_outdated(collection, found, call, shown)

    async def _lost(
        self,
        collection: str,
        wanted: Sequence[tuple[str, int]],
        looked_up: Mapping[str, Any],
        call: Call,
        shown: Collection[tuple[str, int]] = (),
    ) -> set[tuple[str, int]]:
        """Return those of the documents and their sequences of which nothing so new is visible."""
        names = [name for name, _ in wanted]
        states = await self._states(collection, names, looked_up, call, VERSION_FIELDS, shown)
        return {one for one in wanted if one[0] not in states or states[one[0]].sequence < one[1]}

    async def _look(
        self, collection: str, publications: Sequence[Publication], call: Call
    ) -> tuple[set[str], set[str], set[str]]:
        """Return the documents of which a newer version is visible, those of which points are missing, and those of
        which an older version is visible.
        """
        unsure = {one.document_id: one for one in publications}
        outdated, replaced = set[str](), set[str]()
        for look in range(_RELOOKS):
            if look:
                # Deleted by a newer ingest whose version this look was too early to see: the next one will see it.
                await asyncio.sleep(_RELOOK_WAIT_S)
            found = await self._scroll(collection, _relevant(unsure.values()), call, ["document_id", "sequence"])
            known = {point: (payload["document_id"], payload["sequence"]) for point, payload in found}
            newer, older = _others(unsure, known)
            outdated, replaced = outdated | newer, replaced | older
            unsure = {
                name: one
                for name, one in unsure.items()
                if name not in outdated
                and not all(known.get(point, ("", -1))[1] >= one.sequence for point in one.point_ids)
            }
            if not unsure:
                break
        return outdated, set(unsure), replaced


def newest_versions(heads: Iterable[DocumentState]) -> dict[str, DocumentState]:
    """Return the newest version of each document."""
    newest: dict[str, DocumentState] = {}
    for head in heads:
        known = newest.get(head.document_id)
        if known is None or newest_first(head) > newest_first(known):
            newest[head.document_id] = head
    return newest


def _outdated(heads: Iterable[DocumentState], newest: Mapping[str, DocumentState]) -> dict[str, set[str]]:
    """Return by document the contents beside the newest."""
    found: dict[str, set[str]] = {}
    for head in heads:
        if head.content_hash != newest[head.document_id].content_hash:
            found.setdefault(head.document_id, set()).add(head.content_hash)
    return found


def _key(version: DocumentState) -> tuple[str, str]:
    return version.document_id, version.content_hash


def _relevant(publications: Iterable[Publication]) -> dict[str, Any]:
    """Return the filter for the points of these ingests, and for the first chunks that are visible beside them."""
    some = list(publications)
    names = {"key": "document_id", "match": {"any": [one.document_id for one in some]}}
    return {"must": [names], "should": [_points(some), {"must": [VISIBLE, FIRST_CHUNK]}]}


def _points(publications: Iterable[Publication]) -> dict[str, Any]:
    return {"has_id": [point for one in publications for point in one.point_ids]}


def _others(unsure: Mapping[str, Publication], known: Mapping[str, tuple[str, int]]) -> tuple[set[str], set[str]]:
    """Return the documents of which another version's first chunk is newer than ours, and those where one is older."""
    ours = {point for one in unsure.values() for point in one.point_ids}
    others = [one for point, one in known.items() if point not in ours and one[0] in unsure]
    newer = {name for name, sequence in others if sequence > unsure[name].sequence}
    return newer, {name for name, _ in others} - newer


def _changed() -> DocumentChangedError:
    return DocumentChangedError("The document was changed meanwhile; send it again.", retry_after=1)


def _show(publications: Sequence[Publication]) -> dict[str, Any]:
    return {
        "set_payload": {
            "payload": {"visible": True},
            "filter": {"must": [_points(publications)], "must_not": [VISIBLE]},
        }
    }


def _delete_never_shown(publications: Sequence[Publication]) -> dict[str, Any]:
    older = [{"must": [match("document_id", one.document_id), below(one.sequence)]} for one in publications]
    return {"delete": {"filter": {"should": older, "must_not": [_points(publications), VISIBLE]}}}


def _beside(one: Publication) -> dict[str, Any]:
    """Return the condition of what is older and visible beside this document's new version.

    Of two that are published at once each shard of the store decides for itself what comes first: it may have shown a
    part of the older one, without the chunk by which documents are looked up.
    """
    older = [match("document_id", one.document_id), below(one.sequence)]
    return {"must": older, "must_not": [{"has_id": list(one.point_ids)}]}


def _drop_unseen(one: Publication) -> dict[str, Any]:
    ours = [match("document_id", one.document_id), _points([one]), match("sequence", one.sequence)]
    return {"delete": {"filter": {"must": ours, "must_not": [VISIBLE]}}}


def _delete_outdated(newest: DocumentState, seen: Iterable[str]) -> dict[str, Any]:
    """Return the operation that a publish which did not come to its end still owes.

    `seen` are the contents that were seen beside the newest. Of its own sequence only these go, and of these those that
    come before it: what was not seen may come after it, and be what has deleted the newest by now.
    """
    before = sorted(one for one in seen if one < newest.content_hash)
    equal = {"must": [match("sequence", newest.sequence), {"key": "content_hash", "match": {"any": before}}]}
    outdated = {
        "must": [match("document_id", newest.document_id), VISIBLE],
        "should": [below(newest.sequence), *([equal] if before else ())],
        "must_not": [match("content_hash", newest.content_hash)],
    }
    return {"delete": {"filter": outdated}}
