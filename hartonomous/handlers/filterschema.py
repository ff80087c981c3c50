"""The grammar of a caller's filter (`core.filters`) as JSON Schema, for the OpenAPI document.

A key that is null counts as absent. The schema says nothing of filters in filters, whose conditions in all JSON Schema
cannot count (the description does), and it leaves out the letters beyond ASCII that a name may have without quotes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hartonomous.core.filters import MAX_VALUES

_KINDS = ("match", "range", "values_count", "is_empty", "is_null")
_CLAUSES = ("must", "should", "must_not")
_BOUNDS = ("gt", "gte", "lt", "lte")
_INT64 = 2**63
_NAME = r'([A-Za-z0-9_-]{1,64}|"[^"\u0000-\u001f\u007f]{1,64}")(\[[0-9]{0,9}\])?'

_NULL = {"type": "null"}
_INTEGER = {"type": "integer", "minimum": 1 - _INT64, "maximum": _INT64 - 1}
_KEY = {"type": "string", "maxLength": 256, "pattern": rf"^(document_id|source|metadata(\.{_NAME}){{1,3}})$"}
_DATE = {"type": "string", "format": "date"}
_CONDITION = {"$ref": "#/components/schemas/Condition"}
_CONDITIONS = {"type": "array", "items": _CONDITION}


def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def _one_of(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with exactly one of these fields; the others may be null."""
    nothing = dict.fromkeys(choices, _NULL)
    return {"anyOf": [_object({**nothing, name: schema}, name) for name, schema in choices.items()]}


def _some_of(names: tuple[str, ...], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with at least one of these fields; any may be null."""
    maybe = _object({name: {"anyOf": [schema, _NULL]} for name in names})
    return {**maybe, "anyOf": [{"properties": {name: schema}, "required": [name]} for name in names]}


def _scalars(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema, "maxItems": MAX_VALUES}


_LISTED = {"anyOf": [_scalars({"type": "string"}), _scalars(_INTEGER)]}
_MATCH = _one_of(
    {
        "value": {"anyOf": [{"type": "string"}, {"type": "boolean"}, _INTEGER]},
        "text": {"type": "string"},
        "any": _LISTED,
        "except": _LISTED,
    }
)
_RANGE = {"anyOf": [_some_of(_BOUNDS, {"type": "number"}), _some_of(_BOUNDS, _DATE)]}
_COUNT = _some_of(_BOUNDS, {"type": "integer", "minimum": 0, "maximum": _INT64 - 1})
_MIN_SHOULD = _object(
    {
        "conditions": {**_CONDITIONS, "minItems": 1},
        "min_count": {"type": "integer", "minimum": 1, "maximum": _INT64 - 1},
    },
    "conditions",
    "min_count",
)
_FILTER = _object(
    {
        **{clause: {"anyOf": [_CONDITIONS, _CONDITION, _NULL]} for clause in _CLAUSES},
        "min_should": {"anyOf": [_MIN_SHOULD, _NULL]},
    }
)


def _condition(kind: str, schema: Mapping[str, Any], *required: str) -> dict[str, Any]:
    key = _KEY if "key" in required else _NULL
    return _object({**dict.fromkeys(_KINDS, _NULL), "key": key, kind: schema}, kind, *required)


_CONDITION_SCHEMA = {
    "description": "A condition on one key, which says exactly one thing of it. A filter may stand in its place.",
    "anyOf": [
        _condition("match", _MATCH, "key"),
        _condition("range", _RANGE, "key"),
        _condition("values_count", _COUNT, "key"),
        _condition("is_empty", _object({"key": _KEY}, "key")),
        _condition("is_null", _object({"key": _KEY}, "key")),
    ],
}

COMPONENTS: dict[str, Any] = {
    "Filter": {"description": "Qdrant's filter: at most 8 levels and 64 conditions in all.", **_FILTER},
    "Condition": _CONDITION_SCHEMA,
}
# pydantic knows no references but its own.
PLACEHOLDER: dict[str, Any] = {"title": "The filter's place"}


def resolved(schema: Any) -> Any:
    """Return a schema with a reference to the filter's component where its place was."""
    if schema == PLACEHOLDER:
        return {"$ref": "#/components/schemas/Filter"}
    if isinstance(schema, dict):
        return {name: resolved(value) for name, value in schema.items()}
    return [resolved(value) for value in schema] if isinstance(schema, list) else schema
