"""`POST /admin/sweep` and `hartonomous sweep`: what is old and was never shown goes, and nothing else."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hartonomous.clients.points import sequence_at
from tests.service.application import ConfigMaker, RunningApp, running
from tests.service.commands import Commands, Points
from tests.service.rag import check_answer, ingest
from tests.service.vector_store import drop_collection

GRACE_S = 600.0


@pytest.fixture
async def app(make_config: ConfigMaker, vector_url: str, collection_name: str) -> AsyncIterator[RunningApp]:
    """The application with ten minutes of grace."""
    async with running(make_config(rag={"ingest": {"sweep_after_s": GRACE_S}})) as app:
        yield app
    await drop_collection(vector_url, collection_name)


@pytest.fixture
def points(vector_url: str) -> Points:
    return Points(vector_url)


async def sweep(app: RunningApp, body: Any = None) -> tuple[int, Any]:
    """Ask for a sweep, with no body at all for None; the answer is as it is described."""
    options = {} if body is None else {"json": body}
    async with app.session.post(app.url + "/admin/sweep", **options) as response:
        answer = await response.json()
        check_answer(app, "post", "/admin/sweep", response.status, answer)
        return response.status, answer


async def leave_behind(points: Points, collection: str, age_s: float, *, visible: bool = False) -> None:
    """Change the points of a collection into what an ingest of this age has left behind."""
    payload = {"visible": visible, "sequence": sequence_at(time.time() - age_s)}
    some = {"filter": {"must": [{"key": "document_id", "match": {"value": "left"}}]}}
    await points.ask("POST", f"/collections/{collection}/points/payload?wait=true", {"payload": payload} | some)


async def test_only_what_is_old_and_was_never_shown_is_removed(
    app: RunningApp, points: Points, collection_name: str
) -> None:
    await ingest(app, {"id": "seen", "text": "Limes are green."})
    seen = await points.all(collection_name)
    await ingest(app, {"id": "left", "text": "Lemons are yellow."})
    everything = await points.all(collection_name)
    await leave_behind(points, collection_name, GRACE_S + 3_600, visible=True)
    assert await removed(app, collection_name) == 0
    await leave_behind(points, collection_name, GRACE_S - 60)
    assert await removed(app, collection_name) == 0
    assert (await points.all(collection_name)).keys() == everything.keys()
    await leave_behind(points, collection_name, GRACE_S + 60)
    assert await removed(app, collection_name, older_than_s=GRACE_S + 120) == 0
    assert await removed(app, collection_name) == 1
    assert await points.all(collection_name) == seen
    assert await removed(app, collection_name) == 0


async def removed(app: RunningApp, collection: str, **body: Any) -> int:
    """Sweep a collection; return how many chunks were removed."""
    status, answer = await sweep(app, {"collection": collection, **body})
    assert status == 200
    assert answer["collections"] == {collection: {"chunks": answer["chunks"], "reindexes": answer["reindexes"]}}
    chunks: int = answer["chunks"]
    return chunks


async def test_without_a_body_all_collections_are_swept(
    app: RunningApp, points: Points, collection_name: str, vector_url: str
) -> None:
    other = f"other-{collection_name[:20]}"
    try:
        for name in (collection_name, other):
            await ingest(app, {"id": "left", "text": "Lemons are yellow."}, collection=name)
            await leave_behind(points, name, GRACE_S + 60)
        status, answer = await sweep(app)
        assert status == 200
        assert answer["collections"][collection_name] == answer["collections"][other] == {"chunks": 1, "reindexes": 0}
        assert answer["chunks"] == sum(one["chunks"] for one in answer["collections"].values())
        assert await points.all(collection_name) == await points.all(other) == {}
    finally:
        await drop_collection(vector_url, other)


async def test_the_target_of_a_reindex_goes_when_it_gave_no_sign_of_life_for_long(
    app: RunningApp, points: Points, collection_name: str
) -> None:
    await ingest(app, {"id": "seen", "text": "Limes are green."})
    live = await points.behind(collection_name)
    metadata = (await points.ask("GET", f"/collections/{live}"))["config"]["metadata"]
    mark = {"hartonomous": metadata["hartonomous"] | {"state": "building"}}
    target = f"{collection_name}@12345678"
    body = {"vectors": {"dense": {"size": 32, "distance": "Cosine"}}, "sparse_vectors": {"sparse": {}}}
    await points.ask("PUT", f"/collections/{target}", body | {"metadata": mark})

    async def swept_when(**note: Any) -> int:
        await points.ask("PATCH", f"/collections/{target}", {"metadata": {"hartonomous_reindex": note}})
        status, answer = await sweep(app, {"collection": collection_name})
        assert (status, answer["chunks"]) == (200, 0)
        reindexes: int = answer["reindexes"]
        return reindexes

    assert await swept_when() == 0  # it counts from now on
    assert await swept_when(alive_at=time.time() - GRACE_S + 60) == 0
    assert await points.physical(collection_name) == sorted([live, target])
    assert await swept_when(alive_at=time.time() - GRACE_S - 60) == 1
    assert await points.physical(collection_name) == [live]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"collection": "no-such-collection"}, 404, "collection_not_found", "collection"),
        ({"collection": "../x"}, 422, "validation_error", "collection"),
        ({"older_than_s": GRACE_S - 1}, 422, "validation_error", "older_than_s"),
        ({"older_than_s": 0}, 422, "validation_error", "older_than_s"),
        ({"older_than_s": "long"}, 422, "validation_error", "older_than_s"),
        ({"colour": 1}, 422, "validation_error", "colour"),
        ([], 422, "validation_error", None),
    ],
)
async def test_what_cannot_be_swept_is_refused(
    app: RunningApp, body: Any, status: int, code: str, param: str | None
) -> None:
    answered, answer = await sweep(app, body)
    assert (answered, answer["error"]["code"], answer["error"]["param"]) == (status, code, param)


async def test_somebody_elses_collection_is_not_swept(app: RunningApp, points: Points, collection_name: str) -> None:
    vectors = {"dense": {"size": 4, "distance": "Cosine"}}
    await points.ask("PUT", f"/collections/{collection_name}", {"vectors": vectors})
    status, answer = await sweep(app, {"collection": collection_name})
    assert (status, answer["error"]["code"]) == (409, "foreign_collection")
    status, answer = await sweep(app)
    assert status == 200
    assert collection_name not in answer["collections"]


async def test_the_command_sweeps_and_prints_what_went(
    app: RunningApp, points: Points, collection_name: str, tmp_path: Path
) -> None:
    commands = Commands(app.runtime.config, tmp_path)
    await ingest(app, {"id": "left", "text": "Lemons are yellow."})
    await leave_behind(points, collection_name, GRACE_S + 60)
    assert await commands.do("sweep", "--collection", collection_name) == f"{collection_name}: 1 chunks\n"
    assert await points.all(collection_name) == {}
    assert f"{collection_name}: 0 chunks\n" in await commands.do("sweep")
    ended = await commands.run("sweep", "--collection", "no-such-collection")
    assert (ended.status, ended.err) == (1, "hartonomous sweep: There is no such collection.\n")
