"""Filters, and requests that are refused: the same requests, the same answers, from the engine and a true Qdrant."""

from __future__ import annotations

from typing import Any

import pytest

from tests.service.vector_wire import Wire, point


def field(key: str, **condition: Any) -> dict[str, Any]:
    return {"key": key, **condition}


FILTERS: list[tuple[Any, list[int]]] = [
    (None, [0, 1, 2, 3, 4, 5]),
    ({}, [0, 1, 2, 3, 4, 5]),
    ({"must": field("kind", match={"value": "odd"})}, [1, 3, 5]),
    ({"must": [field("even", match={"value": True})]}, [0, 2, 4]),
    ({"must": [field("even", match={"value": False})]}, [1, 3, 5]),
    ({"must": [field("n", match={"value": 3})]}, [3]),
    ({"must": [field("tags", match={"any": ["2", "3"]})]}, [2, 3]),
    ({"must": [field("n", match={"any": []})]}, []),
    ({"must": [field("kind", match={"except": ["odd"]})]}, [0, 2, 4]),
    ({"must": [field("n", range={"gte": 2, "lt": 4})]}, [2, 3]),
    ({"must": [field("half", range={"gt": 1.5})]}, [4, 5]),
    ({"must": [field("day", range={"gte": "2024-01-05T00:00:00Z"})]}, [4, 5]),
    ({"must": [field("tags", values_count={"gte": 3})]}, []),
    ({"must": [{"is_empty": {"key": "nothing"}}]}, [0, 1, 2, 3, 4, 5]),
    ({"must": [{"is_null": {"key": "nothing"}}]}, [0, 1, 2, 3, 4, 5]),
    ({"must": [{"is_empty": {"key": "n"}}]}, []),
    ({"must": [{"has_id": [1, 4, 77]}]}, [1, 4]),
    ({"must": [{"has_vector": "dense"}]}, [0, 1, 2, 3, 4, 5]),
    ({"must": [field("pairs[].q", match={"value": 4})]}, [4]),
    (
        {
            "must": [
                {
                    "nested": {
                        "key": "pairs",
                        "filter": {"must": [field("p", match={"value": 1}), field("q", range={"gte": 4})]},
                    }
                }
            ]
        },
        [4, 5],
    ),
    ({"should": [field("n", match={"value": 1}), {"must": [field("n", match={"value": 2})]}]}, [1, 2]),
    ({"must_not": [field("kind", match={"value": "odd"}), {"has_id": [0]}]}, [2, 4]),
    (
        {
            "min_should": {
                "conditions": [field("n", range={"gte": 2}), field("kind", match={"value": "odd"})],
                "min_count": 2,
            }
        },
        [3, 5],
    ),
    (
        {
            "must": [field("kind", match={"value": "odd"})],
            "must_not": [field("n", match={"value": 3})],
            "should": [field("n", range={"lt": 4}), {"has_id": [5]}],
        },
        [1, 5],
    ),
]


# Full text is found word by word only through its index.
TEXT_FILTERS: list[tuple[Any, list[int]]] = [
    ({"must": [field("text", match={"text": "world 3"})]}, [3]),
    ({"must": [field("text", match={"text_any": "3 4 zzz"})]}, [3, 4]),
]


@pytest.mark.parametrize(("condition", "expected"), FILTERS, ids=str)
async def test_a_filter_selects(stocked_wire: Wire, condition: Any, expected: list[int]) -> None:
    assert await stocked_wire.ids(condition) == expected
    assert (await stocked_wire("POST", "/points/count", {"filter": condition})) == {"count": len(expected)}


@pytest.mark.parametrize(("condition", "expected"), FILTERS + TEXT_FILTERS, ids=str)
async def test_a_filter_selects_the_same_by_index(indexed_wire: Wire, condition: Any, expected: list[int]) -> None:
    assert await indexed_wire.ids(condition) == expected
    assert (await indexed_wire("POST", "/points/count", {"filter": condition, "exact": True})) == {
        "count": len(expected)
    }
    found = await indexed_wire.query(query=[1, 1, 1, 1], using="dense", filter=condition)
    assert sorted(identifier for identifier, _ in found) == expected


REFUSALS: list[tuple[str, str, Any, int]] = [
    ("PUT", "/points", {"points": []}, 400),
    ("PUT", "/points", {"points": [{"id": 1}]}, 400),
    ("PUT", "/points", {"points": [{"vector": {}}]}, 400),
    ("PUT", "/points", {"points": [{"id": -1, "vector": {}}]}, 400),
    ("PUT", "/points", {"points": [{"id": 1.5, "vector": {}}]}, 400),
    ("PUT", "/points", {"points": [{"id": True, "vector": {}}]}, 400),
    ("PUT", "/points", {"points": [{"id": "x", "vector": {}}]}, 400),
    ("PUT", "/points", {"points": [{"id": 2**64 - 1, "vector": {"dense": [1, 2]}}]}, 400),
    ("PUT", "/points", {"points": [{"id": 1, "vector": {"nope": [1, 2, 3, 4]}}]}, 400),
    ("PUT", "/points", {"points": [{"id": 1, "vector": [1, 2, 3, 4]}]}, 400),
    ("PUT", "/points", {"points": [{"id": 1, "vector": {"dense": ["a", 1, 1, 1]}}]}, 400),
    ("PUT", "/points", {"points": [{"id": 1, "vector": {"dense": []}}]}, 422),
    ("PUT", "/points", {"points": [{"id": 1, "vector": {"sparse": [1, 2]}}]}, 400),
    ("PUT", "/points", {"points": [{"id": 1, "vector": {"dense": {"indices": [1], "values": [1]}}}]}, 400),
    ("PUT", "/points", {"points": [{"id": 1, "vector": {"sparse": {"indices": [1, 1], "values": [1, 2]}}}]}, 422),
    ("PUT", "/points", {"points": [{"id": 1, "vector": {"sparse": {"indices": [1], "values": [1, 2]}}}]}, 422),
    ("PUT", "/points", {"points": [{"id": 1, "vector": {}, "payload": 5}]}, 400),
    ("PUT", "/points", {"points": 5}, 400),
    ("PUT", "/points", {}, 400),
    ("PUT", "/points", [], 400),
    ("PUT", "/points", {"batch": {"ids": [1, 2], "vectors": {"dense": [[1, 2, 3, 4]]}}}, 422),
    ("PUT", "/points", {"batch": {"ids": [1], "vectors": {"dense": [[1, 2, 3, 4]]}, "payloads": []}}, 422),
    ("POST", "/points/delete", {}, 400),
    ("POST", "/points/delete", {"points": ["x"]}, 400),
    ("POST", "/points/payload", {"payload": {"a": 1}}, 400),
    ("POST", "/points/payload", {"points": [1]}, 400),
    ("POST", "/points/batch", {"operations": [{"frobnicate": {}}]}, 400),
    ("POST", "/points/query", {"limit": 0}, 422),
    ("POST", "/points/query", {"limit": -1}, 400),
    ("POST", "/points/query", {"limit": "5"}, 400),
    ("POST", "/points/query", {"query": [1, 1], "using": "dense"}, 400),
    ("POST", "/points/query", {"query": [1, 1, 1, 1], "using": "nope"}, 400),
    ("POST", "/points/query", {"query": [1, 1, 1, 1]}, 400),
    ("POST", "/points/query", {"query": [1, 1, 1, 1], "using": "sparse"}, 400),
    ("POST", "/points/query", {"query": {"indices": [1, 1], "values": [1, 1]}, "using": "sparse"}, 422),
    ("POST", "/points/query", {"query": {"fusion": "rrf"}}, 400),
    ("POST", "/points/query", {"query": {"fusion": "x"}, "prefetch": []}, 400),
    ("POST", "/points/query", {"prefetch": [{"query": [1, 1, 1, 1], "using": "dense"}]}, 400),
    ("POST", "/points/query", {"query": {"order_by": "n"}}, 400),
    ("POST", "/points/scroll", {"limit": 0}, 422),
    ("POST", "/points/scroll", {"offset": "zz"}, 400),
    ("POST", "/points/scroll", {"filter": {"must": [{"has_id": ["x"]}]}}, 400),
    ("POST", "/points/count", {"filter": {"must": [{"key": "n", "match": {"value": 1.5}}]}}, 400),
    ("POST", "/points/count", {"filter": {"must": [{"key": "n", "match": {}}]}}, 400),
    ("POST", "/points/count", {"filter": {"must": [{"key": "n"}]}}, 422),
    ("POST", "/points/count", {"filter": {"must": [{"key": "n[", "match": {"value": 1}}]}}, 400),
    ("POST", "/points/count", {"filter": {"must": [{"key": "n", "match": {"any": [1, "a"]}}]}}, 400),
    ("POST", "/points/count", {"filter": {"nope": []}}, 400),
    ("POST", "/points/count", {"filter": "x"}, 400),
    ("POST", "/points", {}, 400),
    ("POST", "/facet", {"key": "kind"}, 400),
    ("PUT", "/index", {"field_name": "n", "field_schema": "nope"}, 400),
    ("PUT", "/index", {"field_name": "n"}, 400),
    ("PUT", "/index", {"field_name": "a[", "field_schema": "keyword"}, 400),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), REFUSALS, ids=str)
async def test_a_bad_request_is_refused_and_changes_nothing(
    stocked_wire: Wire, method: str, path: str, body: Any, status: int
) -> None:
    wait = "?wait=true" if path.startswith("/points") and path.count("/") < 3 else ""
    assert (await stocked_wire.refused(method, path + wait, body))[0] == status
    assert await stocked_wire.ids(None) == [0, 1, 2, 3, 4, 5]
    assert (await stocked_wire("POST", "/points", {"ids": [1], "with_payload": True}))[0]["payload"] == point(1)[
        "payload"
    ]


@pytest.mark.parametrize("body", [b"", b"nope", b"{", b'{"limit": NaN}', b'"x', b"\xff\xfe"])
async def test_a_body_that_is_not_json_is_refused(stocked_wire: Wire, body: bytes) -> None:
    path = f"/collections/{stocked_wire.collection}/points/query"
    headers = {"Content-Type": "application/json"}
    async with stocked_wire.session.post(path, data=body, headers=headers) as response:
        assert response.status == 400
        assert "error" in (await response.json())["status"]
