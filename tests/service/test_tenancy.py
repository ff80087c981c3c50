"""Tenants behind one server: what a key does not reach is refused by its name, everywhere, before anybody is asked."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from random import Random
from uuid import uuid4

import aiohttp
import pytest
from yarl import URL

from hartonomous.app import OPERATIONS
from hartonomous.core.access import SCOPES
from tests.service.application import RunningApp
from tests.service.fault_backend import Behaviour, Exchange
from tests.service.keyed import TENANT, Key, KeyedRig, asking, keyed
from tests.service.rag import EMBEDDINGS, Rig, RigMaker, ask, ingest
from tests.service.tenancy_matrix import MATRIX, WAYS, Answered, Asker, Way

SECRET = "The vault of {} opens at dawn."
DENIED = (403, "collection_denied")
SCOPELESS = (403, "scope_missing")
REQUESTS = int(os.environ.get("HARTONOMOUS_TENANCY_REQUESTS", "600"))


@dataclass(slots=True)
class Tenants:
    """Three tenants with a document `one` each, and one who may do everything, but in collections of its own alone."""

    rig: Rig
    it: KeyedRig
    askers: dict[str, Asker]
    keys: dict[str, Key]

    def foreign(self, name: str) -> list[str]:
        """Return collections outside of a key's grant: some that there are, some that there are not."""
        mark, own = self.it.keys.mark, self.keys[name]
        there = [key.collection for key in self.keys.values() if key is not own and key.id != "admin"]
        missing = [f"{other}-{mark}-none" for other in ("a", "b", "c") if other != name]
        near = [f"a-{mark}", f"A-{mark}-docs", f"c-{mark}x", f"c-{mark[:-1]}", "docs", "a", "0"]
        return [*there, *missing, *near]

    def asked_of_backends(self, request_ids: Iterable[str]) -> list[str]:
        """Return what any backend was asked under these ids."""
        ids = set(request_ids)
        backends = (self.rig.embedding, self.rig.reranking, self.rig.generative, self.rig.qdrant)
        return [one.path for each in backends for one in each.requests if one.headers.get("X-Request-ID") in ids]


@pytest.fixture
async def tenants(rigs: RigMaker) -> AsyncIterator[Tenants]:
    """The tenants before one application."""
    admin = Key("admin", tuple(sorted(SCOPES)), (f"x-{uuid4().hex[:12]}-*",))
    async with keyed(rigs, more=(admin,)) as it, asking(it.rig.app, admin) as administrator:
        keys = {"a": it.keys.a, "b": it.keys.b, "c": it.keys.c, "admin": admin}
        apps = {"a": it.a, "b": it.b, "c": it.c, "admin": administrator}
        for name in ("a", "b", "c"):
            await ingest(apps[name], {"id": "one", "text": SECRET.format(name)}, collection=keys[name].collection)
        yield Tenants(it.rig, it, {name: Asker(app, f"asker-{name}") for name, app in apps.items()}, keys)


def test_every_route_has_its_place_in_the_matrix() -> None:
    assert {(operation.method, operation.path) for operation in OPERATIONS} <= MATRIX.keys()


async def test_no_key_reaches_a_foreign_collection_on_any_route(tenants: Tenants) -> None:
    scopes = {(operation.method, operation.path): operation.scope for operation in OPERATIONS}
    for name, asker in tenants.askers.items():
        for method, path, way in WAYS:
            may = scopes[method, path] in tenants.keys[name].scopes
            for answer in await _asked_about(asker, method, way, tenants.foreign(name)):
                assert set(answer.refusals) == {DENIED if may else SCOPELESS}, (name, path, way.label, answer)
    assert not tenants.asked_of_backends(id_ for asker in tenants.askers.values() for id_ in asker.asked)


async def _asked_about(asker: Asker, method: str, way: Way, collections: list[str]) -> list[Answered]:
    """Ask in one way about all of these; the answers must be the same."""
    answers = [await asker.ask(method, way, collection) for collection in (collections if way.names else [""])]
    shapes = [answer.shape for answer in answers]
    if way.label != "items":
        # Of a batch only times differ, which are those of a request that did nothing.
        assert all(shape == shapes[0] for shape in shapes), (method, way.label)
    return answers


async def test_each_key_reaches_its_own_collection_on_every_route(tenants: Tenants) -> None:
    """So the refusals are those of the grant, and not of a matrix whose requests are wrong."""
    operator = Asker(tenants.it.operator, "asker-operator")
    for method, path, way in WAYS:
        answer = await operator.ask(method, way, tenants.keys["a"].collection)
        refused = {status for status, _ in answer.refusals}
        # Deleted, or the default collection, which there is none of before the first ingest, or a wrong cursor.
        assert refused <= {200, 204, 404, 422}, (path, way.label, answer)
        if method == "DELETE":
            await ingest(
                tenants.it.a, {"id": "one", "text": SECRET.format("a")}, collection=tenants.keys["a"].collection
            )
    for name in ("a", "b", "c"):
        status, answer_body = await ask(
            tenants.askers[name].app, "/rag/search", {"query": "vault", "collection": tenants.keys[name].collection}
        )
        assert (status, next(hit["text"] for hit in answer_body["results"])) == (200, SECRET.format(name))


async def test_random_requests_across_tenants_meet_nothing_but_the_same_refusal(tenants: Tenants) -> None:
    random = Random(6)
    seen: dict[tuple[str, str, str], set[bytes]] = {}
    for start in range(0, REQUESTS, 20):
        wanted = [_drawn(tenants, random) for _ in range(min(20, REQUESTS - start))]
        answers = await asyncio.gather(*(tenants.askers[one.name].ask(*one.request) for one in wanted))
        for one, answer in zip(wanted, answers, strict=True):
            assert {status for status, _ in answer.refusals} == {403}, (one, answer)
            if one.request[1].label != "items":
                seen.setdefault((one.name, one.path, one.request[1].label), set()).add(answer.shape[2])
    assert all(len(bodies) == 1 for bodies in seen.values()), seen
    assert not tenants.asked_of_backends(id_ for asker in tenants.askers.values() for id_ in asker.asked)


_PART = (
    b'--x\r\nContent-Disposition: form-data; name="collection"\r\n\r\n%b\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
)


@pytest.mark.parametrize(
    ("query", "media", "sent"),
    [("?collection=%s", b"application/x-ndjson", b""), ("", b"multipart/form-data; boundary=x", _PART)],
    ids=["stream", "form"],
)
async def test_a_body_for_a_foreign_collection_is_refused_as_soon_as_its_name_is_known(
    tenants: Tenants, query: str, media: bytes, sent: bytes
) -> None:
    """Without the rest of it, which never comes."""
    foreign = tenants.keys["b"].collection.encode()
    url = URL(tenants.rig.app.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    lines = [
        b"POST /rag/ingest" + query.encode().replace(b"%s", foreign) + b" HTTP/1.1",
        b"Host: 127.0.0.1",
        b"Authorization: " + tenants.keys["a"].headers["Authorization"].encode(),
        b"Content-Type: " + media,
        b"Content-Length: 100000",
    ]
    writer.write(b"\r\n".join([*lines, b"", sent.replace(b"%b", foreign)]))
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 403")
    writer.close()
    await writer.wait_closed()


@dataclass(slots=True, frozen=True)
class _Drawn:
    name: str
    path: str
    request: tuple[str, Way, str, str]


def _drawn(tenants: Tenants, random: Random) -> _Drawn:
    """Draw a request about what is another tenant's, or nobody's."""
    name = random.choice(("a", "b", "c"))
    method, path, way = random.choice(WAYS)
    collection = random.choice([*tenants.foreign(name), f"{random.choice('bcdxyz')}{random.randbytes(6).hex()}"])
    document = random.choice(("one", random.randbytes(4).hex(), "a%20b", "%C3%A9", "a/b"))
    return _Drawn(name, path, (method, way, collection, document))


async def test_a_key_sees_its_own_collections_and_models_alone(tenants: Tenants) -> None:
    for name in ("a", "b", "c"):
        app, own = tenants.askers[name].app, tenants.keys[name].collection
        mark = len(tenants.rig.qdrant.requests)
        _, listed = await app.get("/rag/collections")
        assert [(one["name"], one["documents"]) for one in listed["collections"]] == [(own, 1)]
        looked_at = [one.path for one in tenants.rig.qdrant.requests[mark:]]
        assert not [path for path in looked_at if path not in {"/collections", "/aliases"} and f"/{own}" not in path]
        _, models = await app.get("/v1/models")
        assert [one["id"] for one in models["data"] if one["id"].startswith("rag:")] == [f"rag:{own}"]
        assert (await app.get(f"/v1/models/rag:{own}"))[0] == 200
    _, everything = await tenants.it.operator.get("/rag/collections")
    owned = {tenants.keys[name].collection for name in ("a", "b", "c")}
    assert owned <= {one["name"] for one in everything["collections"]}


async def test_a_batch_refuses_what_is_foreign_and_answers_the_rest(tenants: Tenants) -> None:
    own, foreign = tenants.keys["a"].collection, tenants.keys["b"].collection
    queries = [{"query": "vault", "collection": name} for name in (own, foreign, own, f"{foreign}-none")]
    status, answer = await ask(tenants.it.a, "/rag/batch-query", {"queries": queries})
    assert status == 200
    assert [item["status"] for item in answer["results"]] == [200, 403, 200, 403]
    errors = [answer["results"][place]["error"] for place in (1, 3)]
    assert [error.pop("param") for error in errors] == ["queries.1.collection", "queries.3.collection"]
    assert errors[0] == errors[1]
    assert SECRET.format("b") not in str(answer)


async def test_a_sweep_without_a_collection_is_of_those_that_the_key_sees(tenants: Tenants) -> None:
    admin = tenants.askers["admin"].app
    assert (await admin.post("/admin/sweep", {}))[1]["collections"] == {}
    _, answer = await tenants.it.operator.post("/admin/sweep", {})
    assert {tenants.keys[name].collection for name in ("a", "b", "c")} <= answer["collections"].keys()


async def test_a_cursor_of_one_collection_shows_nothing_of_it_in_another(tenants: Tenants) -> None:
    documents = [{"id": f"a{number}", "text": f"Of a, number {number}."} for number in range(3)]
    await ingest(tenants.it.a, *documents, collection=tenants.keys["a"].collection)
    path = "/rag/collections/{}/documents?limit=1"
    _, first = await tenants.it.a.get(path.format(tenants.keys["a"].collection))
    cursor = first["next_cursor"]
    status, others = await tenants.it.b.get(path.format(tenants.keys["b"].collection) + f"&cursor={cursor}")
    assert status == 200
    assert {one["id"] for one in others["documents"]} <= {"one"}
    assert "Of a" not in str(others)


async def test_one_document_id_is_another_document_in_each_collection(tenants: Tenants) -> None:
    for name in ("a", "b", "c"):
        path = f"/rag/collections/{tenants.keys[name].collection}/documents/one"
        assert (await tenants.askers[name].app.get(path))[1]["text"] == SECRET.format(name)
    assert await tenants.it.a.delete(f"/rag/collections/{tenants.keys['a'].collection}/documents/one") == 204
    status, _ = await tenants.it.b.get(f"/rag/collections/{tenants.keys['b'].collection}/documents/one")
    assert status == 200


async def test_callers_with_different_grants_share_neither_answers_nor_vectors(
    rigs: RigMaker, collection_name: str
) -> None:
    narrow = Key("narrow", TENANT, (collection_name,))
    twin = replace(narrow, id="twin")
    wide = Key("wide", TENANT, (collection_name, f"{collection_name}-more"))
    cache = {"rag": {"cache": {"answers": {"enabled": True}}}}
    async with (
        keyed(rigs, more=(narrow, twin, wide), **cache) as it,
        asking(it.rig.app, narrow) as first,
        asking(it.rig.app, twin) as second,
        asking(it.rig.app, wide) as third,
    ):
        await ingest(first, "Limes are green.", collection=collection_name)
        assert [await _asks(it.rig, app, collection_name) for app in (first, second, third, third)] == [
            ("miss", 1),
            ("hit", 0),
            ("miss", 1),
            ("hit", 0),
        ]


async def _asks(rig: Rig, app: RunningApp, collection: str) -> tuple[str, int]:
    """Ask a question; return what the answer says of the cache, and how often a question was embedded for it."""
    before = len(rig.embedding.calls(EMBEDDINGS))
    body: Mapping[str, object] = {"query": "Which colour do limes have?", "collection": collection, "max_tokens": 4}
    async with app.session.post(app.url + "/rag/query", json=body) as response:
        assert response.status == 200, await response.text()
        return response.headers["X-Hartonomous-Cache"], len(rig.embedding.calls(EMBEDDINGS)) - before


async def test_an_alias_that_leads_to_a_foreign_collection_shows_nothing_of_it(tenants: Tenants) -> None:
    """A hand in the vector store, or a snapshot that was restored under another name."""
    a, b = tenants.keys["a"].collection, tenants.keys["b"].collection
    question = {"query": "vault", "collection": b}
    assert SECRET.format("b") in str(await ask(tenants.it.b, "/rag/search", question))
    await _lead_astray(tenants.rig.config.backends.qdrant.url, b, a)
    # What is known of the collection for two seconds says that all is well: the points say that it is not.
    status, answer = await ask(tenants.it.b, "/rag/search", question)
    assert (status, answer["results"]) == (200, [])
    tenants.rig.app.runtime.schema.forget(b)
    for method, path, way in WAYS:
        if "left out" not in way.label:
            answered = await tenants.askers["b"].ask(method, way, b)
            assert {status for status, _ in answered.refusals} <= {403, 404, 409, 422}, (path, way.label, answered)
            assert not [secret for secret in (a, SECRET.format("a")) if secret.encode() in answered.body], path
    status, whole = await tenants.it.a.get(f"/rag/collections/{a}/documents/one")
    assert (status, whole["text"]) == (200, SECRET.format("a"))


async def _lead_astray(url: str, alias: str, collection: str) -> None:
    """Let one collection's name stand for what is another one's."""
    async with aiohttp.ClientSession(url) as session:
        async with session.get("/aliases") as response:
            aliases = {one["alias_name"]: one for one in (await response.json())["result"]["aliases"]}
        target = aliases[collection]["collection_name"]
        action = {"create_alias": {"alias_name": alias, "collection_name": target}}
        async with session.post("/collections/aliases", json={"actions": [action]}) as response:
            assert response.status == 200, await response.text()


@pytest.mark.parametrize("what", ["query/batch", "scroll"])
async def test_a_point_of_a_foreign_collection_is_refused_whatever_the_store_answers(
    tenants: Tenants, what: str
) -> None:
    a, b = tenants.keys["a"].collection, tenants.keys["b"].collection
    tenants.rig.qdrant.on(f"/collections/{b}/points/{what}", _mistaken(tenants.rig, f"/collections/{a}/points/{what}"))
    if what == "scroll":
        status, answer = await tenants.it.b.get(f"/rag/collections/{b}/documents/one")
    else:
        status, answer = await ask(tenants.it.b, "/rag/search", {"query": "vault", "collection": b})
    assert (status, answer["error"]["code"]) == (502, "foreign_points")
    assert a not in str(answer)
    assert SECRET.format("a") not in str(answer)


def _mistaken(rig: Rig, path: str) -> Behaviour:
    """Answer with what is found at another path, whatever the filters say."""

    async def behave(exchange: Exchange) -> None:
        body = exchange.request.json
        for one in body.get("searches", [body]):
            one["filter"].pop("must_not")
        async with (
            aiohttp.ClientSession(rig.qdrant.upstream) as session,
            session.post(path, json=body) as response,
        ):
            await exchange.answer(response.status, await response.read(), {"Content-Type": "application/json"})

    return behave


_TRICKS = (
    {"should": [{"key": "collection", "match": {"value": "FOREIGN"}}]},
    {"must": [{"has_id": ["POINT"]}]},
    {"should": [{"has_id": ["POINT"]}, {"is_null": {"key": "source"}}]},
    {"must": [{"nested": {"key": "metadata", "filter": {"must": [{"has_id": ["POINT"]}]}}}]},
    {"must": [{"has_vector": "dense"}]},
    {"must": [{"key": "visible", "match": {"value": False}}]},
    {"must": [], "lookup_from": {"collection": "FOREIGN"}},
    {"must": [{"lookup_from": {"collection": "FOREIGN"}}]},
    {"shard_key": "FOREIGN"},
    {"must": {"key": "metadata.a[].collection", "match": {"value": "FOREIGN"}}},
    {"must_not": [{"key": "document_id", "match": {"value": "nobody"}}]},
    {"should": [{"key": "document_id", "match": {"any": ["one"]}}, {"must_not": []}]},
    {"min_should": {"conditions": [{"key": "document_id", "match": {"value": "one"}}], "min_count": 1}},
    {"must": [{"must_not": [{"must": [{"is_empty": {"key": "source"}}]}]}]},
    {"must": [{"key": "source", "match": {"except": ["x"]}}]},
)


async def test_no_filter_finds_what_is_of_another_collection(tenants: Tenants) -> None:
    own, foreign = tenants.keys["b"].collection, tenants.keys["a"].collection
    _, document = await tenants.it.a.get(f"/rag/collections/{foreign}/documents/one")
    tricks = json.dumps(_TRICKS).replace("FOREIGN", foreign).replace("POINT", document["chunks"][0]["chunk_id"])
    for trick in json.loads(tricks):
        for mode in ("hybrid", "dense", "sparse"):
            body = {"query": "vault", "collection": own, "mode": mode, "filter": trick}
            status, answer = await ask(tenants.it.b, "/rag/search", body)
            assert status in {200, 422}, answer
            assert {hit["text"] for hit in answer.get("results", [])} <= {SECRET.format("b")}, trick
