"""The key of an answer: equal for equal requests, another one when anything that it depends on is another."""

from __future__ import annotations

from typing import Any, cast

import pytest
from msgspec.structs import replace

from hartonomous.cache.generations import OwnGenerations
from hartonomous.clients.models import ModelInfo
from hartonomous.core.access import Grant
from hartonomous.errors import BackendUnavailableError
from hartonomous.pipelines.keying import AnswerKeys
from hartonomous.pipelines.query import QueryRequest
from hartonomous.pipelines.questions import SearchRequest
from tests.pipelines.fakes import OTHER, Embedding, Schema, call


class Service:
    """A service that says which model it has."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def model(self, call: Any) -> ModelInfo:
        return ModelInfo(self.name, None, None, None)


class Parts:
    """What keys are made from; a test changes one of them."""

    def __init__(self) -> None:
        self.embedding, self.schema = Embedding(), Schema()
        self.generative, self.reranking = Service("generative"), Service("reranking")
        self.generations = OwnGenerations()
        self.settings: dict[str, Any] = {"language": "english"}

    async def key(self, grant: str = "", **search: Any) -> str | None:
        services = (self.schema, self.embedding, self.generative, self.reranking)
        schema, embedding, generative, reranking = (cast("Any", service) for service in services)
        keys = AnswerKeys(schema, embedding, generative, reranking, self.generations, self.settings, is_alone=True)
        wanted: dict[str, Any] = {"query": "words", "collection": "docs", "top_k": 5} | search
        return await keys.key(QueryRequest(SearchRequest(**wanted)), replace(call(), grant=Grant.of([grant])))


async def test_equal_requests_have_one_key_whatever_the_order_of_their_fields() -> None:
    parts = Parts()
    first = await parts.key(filter={"must": [], "should": []})
    assert first is not None
    assert await parts.key(filter={"should": [], "must": []}) == first


async def test_each_thing_that_an_answer_depends_on_makes_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts()
    seen = [await parts.key(), await parts.key(grant="tenant-a"), await parts.key(grant="tenant-b")]
    seen += [await parts.key(collection="other"), await parts.key(top_k=6), await parts.key(query="Words")]
    parts.generative.name = "larger"
    seen.append(await parts.key())
    parts.reranking.name = "another"
    seen.append(await parts.key())

    async def another(call: Any) -> Any:
        return OTHER

    monkeypatch.setattr(parts.embedding, "fingerprint", another)
    seen.append(await parts.key())
    parts.settings = {"language": "german"}
    seen.append(await parts.key())
    await parts.generations.advance("docs")
    seen.append(await parts.key())
    assert None not in seen
    assert len(set(seen)) == len(seen)


async def test_a_change_of_one_collection_leaves_the_others_alone() -> None:
    parts = Parts()
    before = await parts.key(collection="other"), await parts.key()
    await parts.generations.advance("docs")
    assert await parts.key(collection="other") == before[0]
    assert await parts.key() != before[1]


async def test_what_is_not_known_has_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts()
    assert await parts.key(collection="nowhere") is None

    async def down(call: Any) -> Any:
        raise BackendUnavailableError("down")

    monkeypatch.setattr(parts.generative, "model", down)
    assert await parts.key() is None
