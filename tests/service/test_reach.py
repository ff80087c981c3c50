"""What stands behind the handlers refuses a foreign collection by itself, whoever forgets to ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from hartonomous.clients.moving import Mover
from hartonomous.clients.vectors import BestVectors, Search
from hartonomous.clients.versions import Publication
from hartonomous.core.access import Grant
from hartonomous.core.call import Call
from hartonomous.core.fingerprint import EmbeddingFingerprint
from hartonomous.errors import PermissionDeniedError
from hartonomous.keys import Runtime
from hartonomous.pipelines.answering import CachedAnswerer
from hartonomous.pipelines.query import QueryRequest
from hartonomous.pipelines.questions import SearchRequest
from tests.pipelines.fakes import call
from tests.service.rag import Rig, RigMaker, ingest

FINGERPRINT = EmbeddingFingerprint("tiny", 4, "", "")
SEARCH = Search("dense", [1.0], 1)
Work = Callable[[Runtime, str, Call], Awaitable[Any]]


def _question(name: str) -> QueryRequest:
    return QueryRequest(search=SearchRequest("limes", name, 5))


async def _paged(runtime: Runtime, name: str, call: Call) -> None:
    async for _ in Mover(runtime.pools["qdrant"]).written_since(name, 0, call):
        pass


async def _streamed(runtime: Runtime, name: str, call: Call) -> None:
    async for _ in runtime.answerer.stream(_question(name), call):
        pass


async def _placed(runtime: Runtime, name: str, call: Call) -> None:
    if isinstance(runtime.answerer, CachedAnswerer):
        await runtime.answerer.look_up(_question(name), call)
    else:
        await runtime.answerer.prepare(_question(name), call)


WORK: dict[str, Work] = {
    "describe": lambda runtime, name, call: runtime.schema.describe(name, call),
    "require": lambda runtime, name, call: runtime.schema.require(name, FINGERPRINT, call),
    "ensure": lambda runtime, name, call: runtime.schema.ensure(name, FINGERPRINT, "english", call),
    "drop": lambda runtime, name, call: runtime.schema.drop(name, call),
    "targets": lambda runtime, name, call: runtime.schema.targets.build(name, FINGERPRINT, "english", call),
    "behind": lambda runtime, name, call: runtime.schema.targets.behind(name, call),
    "vectors": lambda runtime, name, call: runtime.vectors.search(name, [SEARCH], call),
    "best": lambda runtime, name, call: runtime.vectors.search_with_vectors(
        name, [SEARCH], [BestVectors([SEARCH], 1, 60)], call
    ),
    "chunks": lambda runtime, name, call: runtime.vectors.chunks(name, "one", call),
    "documents": lambda runtime, name, call: runtime.vectors.documents(name, 1, None, call),
    "counts": lambda runtime, name, call: runtime.vectors.counts(name, call),
    "states": lambda runtime, name, call: runtime.vectors.states(name, ["one"], call),
    "publish": lambda runtime, name, call: runtime.vectors.publish(name, [Publication("one", ["x"], 1)], call),
    "delete": lambda runtime, name, call: runtime.vectors.delete_document(name, "one", call),
    "sweep": lambda runtime, name, call: runtime.vectors.sweep(name, 1.0, call),
    "sweeper": lambda runtime, name, call: runtime.sweeper.sweep(name, 1.0, call),
    "mover": _paged,
    "searcher": lambda runtime, name, call: runtime.searcher.search(SearchRequest("limes", name, 5), call),
    "answerer": lambda runtime, name, call: runtime.answerer.answer(_question(name), call),
    "follow-up": lambda runtime, name, call: runtime.answerer.answer(
        replace(_question(name), history=[{"role": "user", "content": "What is green?"}]), call
    ),
    "place": _placed,
    "stream": _streamed,
    "ingestor": lambda runtime, name, call: runtime.ingestor.ingest(name, [], 64, 8, call),
}


@pytest.mark.parametrize("cached", [False, True], ids=["", "cached"])
async def test_no_client_or_pipeline_serves_who_may_not_see_the_collection(rigs: RigMaker, cached: bool) -> None:
    async with rigs.make(rag={"cache": {"answers": {"enabled": cached}}}) as rig:
        name = rig.config.rag.default_collection
        await ingest(rig.app, {"id": "one", "text": "Limes are green."}, collection=name)
        # Known by now, and so refused although nothing has to be asked.
        assert await rig.app.runtime.schema.describe(name, call()) is not None
        for what, work in WORK.items():
            for collection in (name, f"{name}@00000000", f"{name}-none"):
                await _refused(rig, what, work, collection)


async def _refused(rig: Rig, what: str, work: Work, collection: str) -> None:
    stranger = structs.replace(
        call(), request_id="stranger", headers={"X-Request-ID": "stranger"}, grant=Grant.of(["other"])
    )
    with pytest.raises(PermissionDeniedError) as caught:
        await work(rig.app.runtime, collection, stranger)
    assert caught.value.error_code == "collection_denied", what
    backends = (rig.embedding, rig.reranking, rig.generative, rig.qdrant)
    asked = [one.path for each in backends for one in each.requests if one.headers.get("X-Request-ID") == "stranger"]
    # What is there at all is asked of the store by some, but never about this one.
    assert not [path for path in asked if path not in {"/collections", "/aliases"}], (what, asked)


async def test_a_physical_collection_is_seen_by_who_sees_its_collection(rigs: RigMaker) -> None:
    async with rigs.make() as rig:
        name = rig.config.rag.default_collection
        await ingest(rig.app, {"id": "one", "text": "Limes are green."}, collection=name)
        owner = structs.replace(call(), grant=Grant.of([name]))
        physical = await rig.app.runtime.schema.targets.behind(name, owner)
        assert physical is not None
        assert physical != name
        assert len(await rig.app.runtime.vectors.chunks(physical, "one", owner)) == 1
