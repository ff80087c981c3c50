"""The engine's results to Qdrant's JSON values (orjson writes UUIDs and floats itself)."""

from __future__ import annotations

from typing import Any

import qdrant_edge as edge


def vector(value: Any) -> Any:
    """Return an array, a sparse vector as an object, or an object of named ones."""
    if isinstance(value, dict):
        return {name: vector(item) for name, item in value.items()}
    if isinstance(value, edge.SparseVector):
        return {"indices": value.indices, "values": value.values}
    return value


def _optional_parts(point: Any, result: dict[str, Any]) -> dict[str, Any]:
    # Each attribute is converted anew when it is read: read it once.
    payload = point.payload
    if payload is not None:
        result["payload"] = payload
    vectors = point.vector
    if vectors is not None:
        result["vector"] = vector(vectors)
    order_value = point.order_value
    if order_value is not None:
        result["order_value"] = order_value
    return result


def scored(points: list[edge.ScoredPoint]) -> dict[str, Any]:
    """Return the result of one query."""
    return {
        "points": [
            _optional_parts(point, {"id": point.id, "version": point.version, "score": point.score}) for point in points
        ]
    }


def records(points: list[edge.Record]) -> list[dict[str, Any]]:
    """Return retrieved or scrolled points."""
    return [_optional_parts(point, {"id": point.id}) for point in points]


def facet(response: edge.FacetResponse) -> dict[str, Any]:
    """Return the result of a facet request."""
    return {"hits": [{"value": hit.value, "count": hit.count} for hit in response.hits]}
