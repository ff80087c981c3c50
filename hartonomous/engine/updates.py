"""Write requests to the engine's update operations.

A whole request is converted, and so validated, before the first operation is applied. Large upserts become several
operations of `SLICE` points: a call into the engine holds Python's global lock, and between two of them the event loop
gets its turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qdrant_edge as edge
from qdrant_edge import UpdateOperation

from hartonomous.engine import values
from hartonomous.engine.filters import to_filter
from hartonomous.engine.refusal import RefusedError, array, fields, invalid, join, malformed, obj, text, unsupported
from hartonomous.engine.values import VectorSchema, point_id, point_ids

# 1,000 points of 384 dimensions hold the global lock for 15 ms.
SLICE = 500

Operations = list[UpdateOperation]
Convert = Callable[[Any, VectorSchema, str], Operations]

_UPSERT = frozenset({"points", "batch", "update_filter", "update_mode"})
_POINT = frozenset({"id", "vector", "payload"})
_BATCH = frozenset({"ids", "vectors", "payloads"})
_SELECTOR = frozenset({"points", "filter"})
_SET_PAYLOAD = frozenset({"payload", "points", "filter", "key"})
_DELETE_PAYLOAD = frozenset({"keys", "points", "filter"})
_MODES = {
    "upsert": edge.UpdateMode.Upsert,
    "insert_only": edge.UpdateMode.InsertOnly,
    "update_only": edge.UpdateMode.UpdateOnly,
}


def upsert(value: Any, schema: VectorSchema, where: str = "") -> Operations:
    """Convert `{"points": […]}` or the columnar `{"batch": {…}}`, with `update_filter` and `update_mode`."""
    body = fields(value, _UPSERT, where)
    condition = to_filter(body.get("update_filter"), join(where, "update_filter"))
    mode = _mode(body.get("update_mode"), join(where, "update_mode"))
    if body.get("points") is not None:
        points = _points(body["points"], schema, join(where, "points"))
    elif body.get("batch") is not None:
        points = _columns(body["batch"], schema, join(where, "batch"))
    else:
        raise malformed("expected `points` or `batch`")
    if not points:
        raise RefusedError(400, "Bad request: Empty update request")
    return [
        UpdateOperation.upsert_points(points[start : start + SLICE], condition, mode)
        for start in range(0, len(points), SLICE)
    ]


def _mode(value: Any, where: str) -> edge.UpdateMode | None:
    if value is None:
        return None
    if text(value, where) not in _MODES:
        raise malformed(f"{where}: expected one of {', '.join(_MODES)}")
    return _MODES[value]


def _points(value: Any, schema: VectorSchema, where: str) -> list[edge.Point]:
    points = []
    for i, item in enumerate(array(value, where)):
        at = f"{where}[{i}]"
        body = fields(item, _POINT, at)
        points.append(
            edge.Point(
                point_id(body.get("id"), f"{at}.id"),
                values.point_vectors(body.get("vector"), schema, f"{at}.vector"),
                values.payload(body.get("payload"), f"{at}.payload"),
            )
        )
    return points


def _columns(value: Any, schema: VectorSchema, where: str) -> list[edge.Point]:
    body = fields(value, _BATCH, where)
    ids = point_ids(body.get("ids"), join(where, "ids"))
    rows = _rows(body.get("vectors"), len(ids), join(where, "vectors"))
    payloads = body.get("payloads")
    payloads = [None] * len(ids) if payloads is None else array(payloads, join(where, "payloads"))
    if len(payloads) != len(ids):
        raise invalid(f"[{where}: number of ids and payloads must be equal ({len(ids)} != {len(payloads)})]")
    return [
        edge.Point(
            identifier,
            values.point_vectors(rows[i], schema, f"{where}.vectors[{i}]"),
            values.payload(payloads[i], f"{where}.payloads[{i}]"),
        )
        for i, identifier in enumerate(ids)
    ]


def _rows(value: Any, length: int, where: str) -> list[Any]:
    """Turn columns of vectors into one value a point."""
    columns = {"": value} if type(value) is list else obj(value, where)
    for name, column in columns.items():
        if len(array(column, join(where, name))) != length:
            raise invalid(f"[{where}: number of ids and vectors must be equal ({length} != {len(column)})]")
    if type(value) is list:
        return value
    return [{name: column[i] for name, column in columns.items()} for i in range(length)]


def delete(value: Any, _schema: VectorSchema, where: str = "") -> Operations:
    """Convert `{"points": [ids]}` or `{"filter": {…}}`."""
    ids, condition = _selector(fields(value, _SELECTOR, where), where)
    if condition is not None:
        return [UpdateOperation.delete_points_by_filter(condition)]
    return [UpdateOperation.delete_points(ids)]


def clear_payload(value: Any, _schema: VectorSchema, where: str = "") -> Operations:
    """Convert a selector of the points whose payload is removed."""
    ids, condition = _selector(fields(value, _SELECTOR, where), where)
    if condition is not None:
        return [UpdateOperation.clear_payload_by_filter(condition)]
    return [UpdateOperation.clear_payload(ids)]


def set_payload(value: Any, _schema: VectorSchema, where: str = "") -> Operations:
    """Convert a payload that is merged into the payloads of the selected points."""
    ids, condition, payload, key = _payload_change(value, where)
    if condition is not None:
        return [UpdateOperation.set_payload_by_filter(condition, payload, key)]
    return [UpdateOperation.set_payload(ids, payload, key)]


def overwrite_payload(value: Any, _schema: VectorSchema, where: str = "") -> Operations:
    """Convert a payload that replaces the payloads of the selected points."""
    ids, condition, payload, key = _payload_change(value, where)
    if condition is not None:
        return [UpdateOperation.overwrite_payload_by_filter(condition, payload, key)]
    return [UpdateOperation.overwrite_payload(ids, payload, key)]


def delete_payload(value: Any, _schema: VectorSchema, where: str = "") -> Operations:
    """Convert a list of payload keys that are removed from the selected points."""
    body = fields(value, _DELETE_PAYLOAD, where)
    keys = [
        text(key, f"{join(where, 'keys')}[{i}]") for i, key in enumerate(array(body.get("keys"), join(where, "keys")))
    ]
    ids, condition = _selector(body, where)
    if condition is not None:
        return [UpdateOperation.delete_payload_by_filter(condition, keys)]
    return [UpdateOperation.delete_payload(ids, keys)]


def _payload_change(value: Any, where: str) -> tuple[list[Any], edge.Filter | None, dict[str, Any], str | None]:
    body = fields(value, _SET_PAYLOAD, where)
    key = body.get("key")
    ids, condition = _selector(body, where)
    return (
        ids,
        condition,
        obj(body.get("payload"), join(where, "payload")),
        None if key is None else text(key, join(where, "key")),
    )


def _selector(body: dict[str, Any], where: str) -> tuple[list[Any], edge.Filter | None]:
    if body.get("points") is not None:
        if body.get("filter") is not None:
            raise unsupported(f"`{join(where, 'points')}` beside `{join(where, 'filter')}`")
        return point_ids(body["points"], join(where, "points")), None
    condition = to_filter(body.get("filter"), join(where, "filter"))
    if condition is None:
        raise malformed(f"expected `{join(where, 'points')}` or `{join(where, 'filter')}`")
    return [], condition


_BATCH_OPERATIONS: dict[str, Convert] = {
    "upsert": upsert,
    "delete": delete,
    "set_payload": set_payload,
    "overwrite_payload": overwrite_payload,
    "delete_payload": delete_payload,
    "clear_payload": clear_payload,
}


def batch(value: Any, schema: VectorSchema) -> list[Operations]:
    """Convert `{"operations": [{"upsert": {…}}, …]}`: the operations of each entry, in order."""
    body = fields(value, frozenset({"operations"}))
    return [
        _batch_entry(entry, schema, f"operations[{i}]")
        for i, entry in enumerate(array(body.get("operations"), "operations"))
    ]


def _batch_entry(entry: Any, schema: VectorSchema, where: str) -> Operations:
    fields(entry, frozenset(_BATCH_OPERATIONS), where)
    if len(entry) != 1:
        raise malformed(f"{where}: expected one operation")
    ((name, value),) = entry.items()
    return _BATCH_OPERATIONS[name](value, schema, join(where, name))
