"""The data of the wire suite, and its fixtures: raw REST to a collection of the store under test.

`empty_wire` and `filled_wire` are a collection of the test's own; `stocked_wire` and `indexed_wire` are shared by a
module and only read.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

UUID = "550e8400-e29b-41d4-a716-446655440000"


class Wire:
    """Raw REST to one collection."""

    def __init__(self, session: aiohttp.ClientSession, collection: str) -> None:
        self.session = session
        self.collection = collection

    async def send(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request and return its status and its JSON."""
        async with self.session.request(method, path, json=body) as response:
            return response.status, await response.json()

    async def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request to the collection and return the result; it must be a 200."""
        status, answer = await self.send(method, f"/collections/{self.collection}{path}", body)
        assert status == 200, answer
        assert answer["status"] == "ok"
        assert answer["time"] >= 0
        return answer["result"]

    async def refused(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """Send a request to the collection and return the status and the message of the refusal."""
        status, answer = await self.send(method, f"/collections/{self.collection}{path}", body)
        assert status >= 400, answer
        return status, answer["status"]["error"]

    async def query(self, **body: Any) -> list[tuple[Any, float]]:
        """Search, and return ids and scores to four digits."""
        result = await self("POST", "/points/query", body)
        return [(point["id"], round(point["score"], 4)) for point in result["points"]]

    async def ids(self, condition: Any) -> list[Any]:
        """Return the ids of the points that a filter selects, in order."""
        page = {"filter": condition, "limit": 100, "with_payload": False}
        return [point["id"] for point in (await self("POST", "/points/scroll", page))["points"]]


def point(number: int) -> dict[str, Any]:
    """Return point `number` (0 to 5) of the data that most tests search."""
    return {
        "id": number,
        "vector": {
            "dense": [1, number, 0.5, 0],
            "sparse": {"indices": [1, number + 2], "values": [1, 2]},
        },
        "payload": {
            "n": number,
            "kind": "odd" if number % 2 else "even",
            "even": number % 2 == 0,
            "half": number / 2,
            "tags": ["all", str(number)],
            "nothing": None,
            "day": f"2024-01-0{number + 1}T00:00:00Z",
            "pairs": [{"p": number, "q": 1}, {"p": 1, "q": number}],
            "text": f"Hello World number {number}",
        },
    }


CREATE = {
    "vectors": {"dense": {"size": 4, "distance": "Cosine"}},
    "sparse_vectors": {"sparse": {"modifier": "idf"}},
    "metadata": {"model": "m", "nested": {"a": [1]}},
}
INDEXES = {
    "n": "integer",
    "kind": {"type": "keyword", "is_tenant": True},
    "even": "bool",
    "half": "float",
    "day": "datetime",
    "tags": "keyword",
    "text": {"type": "text", "tokenizer": "word", "lowercase": True},
}


@pytest.fixture
async def empty_wire(vector_url: str, collection_name: str) -> AsyncIterator[Wire]:
    async with aiohttp.ClientSession(vector_url) as session:
        wire = Wire(session, collection_name)
        assert await wire("PUT", "", CREATE) is True
        yield wire
        await wire("DELETE", "")


def _prepare(url: str, name: str, requests: list[tuple[str, str, Any]]) -> None:
    for method, path, body in requests:
        request = urllib.request.Request(
            f"{url}/collections/{name}{path}",
            method=method,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            assert response.status == 200


@pytest.fixture(scope="module")
def stocked_name(vector_url: str) -> Iterator[str]:
    """A collection with the six points and no index, which no test changes."""
    name = f"test-{uuid4().hex}"
    points = {"points": [point(number) for number in range(6)]}
    _prepare(vector_url, name, [("PUT", "", CREATE), ("PUT", "/points?wait=true", points)])
    yield name
    _prepare(vector_url, name, [("DELETE", "", None)])


@pytest.fixture(scope="module")
def indexed_name(vector_url: str) -> Iterator[str]:
    """A collection with the six points and an index on every field, which no test changes."""
    name = f"test-{uuid4().hex}"
    points = {"points": [point(number) for number in range(6)]}
    indexes = [
        ("PUT", "/index?wait=true", {"field_name": field, "field_schema": schema}) for field, schema in INDEXES.items()
    ]
    _prepare(vector_url, name, [("PUT", "", CREATE), ("PUT", "/points?wait=true", points), *indexes])
    yield name
    _prepare(vector_url, name, [("DELETE", "", None)])


@pytest.fixture
async def stocked_wire(vector_url: str, stocked_name: str) -> AsyncIterator[Wire]:
    async with aiohttp.ClientSession(vector_url) as session:
        yield Wire(session, stocked_name)


@pytest.fixture
async def indexed_wire(vector_url: str, indexed_name: str) -> AsyncIterator[Wire]:
    async with aiohttp.ClientSession(vector_url) as session:
        yield Wire(session, indexed_name)


@pytest.fixture
async def filled_wire(empty_wire: Wire) -> Wire:
    """A collection of the test's own with the six points."""
    result = await empty_wire("PUT", "/points?wait=true", {"points": [point(number) for number in range(6)]})
    assert result["status"] == "completed"
    return empty_wire
