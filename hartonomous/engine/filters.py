"""Qdrant's filter JSON to the engine's filter.

`to_filter` first measures the filter without recursion (`refusal.bounded`), then converts it clause by clause. Every
key of every clause is known or refused by name: a misspelt condition never matches everything in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qdrant_edge as edge

from hartonomous.engine import refusal
from hartonomous.engine.refusal import array, count, fields, flag, join, malformed, number, obj, text
from hartonomous.engine.values import point_ids

_FILTER = frozenset({"must", "should", "must_not", "min_should"})
_MIN_SHOULD = frozenset({"conditions", "min_count"})
_FIELD = frozenset({"key", "match", "range", "values_count", "is_empty", "is_null"})
_KEY = frozenset({"key"})
_NESTED = frozenset({"key", "filter"})
_BOUNDS = frozenset({"gte", "gt", "lte", "lt"})


class _Bool:
    """A boolean that the binding takes for one.

    Its converter tries integers before booleans, and a Python bool is an integer: `MatchValue(True)` would look for 1.
    It takes NumPy's scalar booleans, which it knows by module and name, for booleans only; this is the shape of one.
    """

    def __init__(self, value: bool) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return self._value


_Bool.__module__ = "numpy"
_Bool.__name__ = "bool_"


def to_filter(value: Any, where: str = "filter") -> edge.Filter | None:
    """Convert Qdrant's filter JSON (or null); raise `RefusedError` for what is malformed, unknown or too deep."""
    if value is None:
        return None
    refusal.bounded(value, where)
    return _filter(value, where)


def _filter(value: Any, where: str) -> edge.Filter:
    body = fields(value, _FILTER, where)
    min_should = body.get("min_should")
    return edge.Filter(
        must=_conditions(body.get("must"), join(where, "must")),
        should=_conditions(body.get("should"), join(where, "should")),
        must_not=_conditions(body.get("must_not"), join(where, "must_not")),
        min_should=None if min_should is None else _min_should(min_should, join(where, "min_should")),
    )


def _min_should(value: Any, where: str) -> edge.MinShould:
    body = fields(value, _MIN_SHOULD, where)
    conditions = array(body.get("conditions"), join(where, "conditions"))
    return edge.MinShould(
        _conditions(conditions, join(where, "conditions")) or [],
        count(body.get("min_count"), join(where, "min_count")),
    )


def _conditions(value: Any, where: str) -> list[Any] | None:
    if value is None:
        return None
    if type(value) is dict:
        return [_condition(value, where)]
    return [_condition(item, f"{where}[{i}]") for i, item in enumerate(array(value, where))]


def _condition(value: Any, where: str) -> Any:
    body = obj(value, where)
    if "key" in body:
        return _field(body, where)
    for kind, convert in _KINDS.items():
        if kind in body:
            fields(body, frozenset({kind}), where)
            return convert(body[kind], join(where, kind))
    return _filter(body, where)


def _is_empty(value: Any, where: str) -> edge.IsEmptyCondition:
    return edge.IsEmptyCondition(_key(fields(value, _KEY, where), where))


def _is_null(value: Any, where: str) -> edge.IsNullCondition:
    return edge.IsNullCondition(_key(fields(value, _KEY, where), where))


def _has_id(value: Any, where: str) -> edge.HasIdCondition:
    return edge.HasIdCondition(set(point_ids(value, where)))


def _has_vector(value: Any, where: str) -> edge.HasVectorCondition:
    return edge.HasVectorCondition(text(value, where))


def _nested(value: Any, where: str) -> edge.NestedCondition:
    body = fields(value, _NESTED, where)
    return edge.NestedCondition(_key(body, where), _filter(body.get("filter"), join(where, "filter")))


_KINDS: dict[str, Callable[[Any, str], Any]] = {
    "is_empty": _is_empty,
    "is_null": _is_null,
    "has_id": _has_id,
    "has_vector": _has_vector,
    "nested": _nested,
}


def _key(body: dict[str, Any], where: str) -> str:
    return text(body.get("key"), join(where, "key"))


def _field(value: dict[str, Any], where: str) -> edge.FieldCondition:
    body = fields(value, _FIELD, where)
    given = {name: body[name] for name in body if name != "key" and body[name] is not None}
    if not given:
        raise refusal.invalid(f"[{where}: at least one field condition must be specified]")
    converted = {name: _PARTS[name](part, join(where, name)) for name, part in given.items()}
    try:
        return edge.FieldCondition(_key(body, where), **converted)
    except ValueError as error:
        raise malformed(f"{join(where, 'key')}: {error}") from error


def _match(value: Any, where: str) -> Any:
    body = obj(value, where)
    for kind, convert in _MATCHES.items():
        if body.get(kind) is not None:
            fields(body, frozenset({kind}), where)
            return convert(body[kind], join(where, kind))
    fields(body, frozenset(_MATCHES), where)
    raise malformed(f"{where}: expected one of {', '.join(_MATCHES)}")


def _match_value(value: Any, where: str) -> edge.MatchValue:
    if type(value) is bool:
        return edge.MatchValue(_Bool(value))  # type: ignore[arg-type]  # see _Bool
    if type(value) is str or (type(value) is int and -(2**63) <= value < 2**63):
        return edge.MatchValue(value)
    raise malformed(f"{where}: expected a string, an integer or a boolean")


def _variants(value: Any, where: str) -> list[Any]:
    items = array(value, where)
    kinds = set(map(type, items))
    if not (kinds <= {str} or kinds <= {int}) or any(type(i) is int and abs(i) >= 2**63 for i in items):
        raise malformed(f"{where}: expected an array of strings or one of integers")
    return items


_MATCHES: dict[str, Callable[[Any, str], Any]] = {
    "value": _match_value,
    "any": lambda value, where: edge.MatchAny(_variants(value, where)),
    "except": lambda value, where: edge.MatchExcept(_variants(value, where)),
    "text": lambda value, where: edge.MatchText(text(value, where)),
    "text_any": lambda value, where: edge.MatchTextAny(text(value, where)),
    "phrase": lambda value, where: edge.MatchPhrase(text(value, where)),
}


def _range(value: Any, where: str) -> edge.RangeFloat | edge.RangeDateTime:
    body = fields(value, _BOUNDS, where)
    bounds = {name: bound for name, bound in body.items() if bound is not None}
    if not any(type(bound) is str for bound in bounds.values()):
        return edge.RangeFloat(**{name: number(bound, join(where, name)) for name, bound in bounds.items()})
    dates = {name: text(bound, join(where, name)) for name, bound in bounds.items()}
    try:
        return edge.RangeDateTime(**dates)
    except ValueError as error:
        raise malformed(f"{where}: expected numbers or RFC 3339 date-times") from error


def _values_count(value: Any, where: str) -> edge.ValuesCount:
    body = fields(value, _BOUNDS, where)
    return edge.ValuesCount(
        **{name: count(bound, join(where, name)) for name, bound in body.items() if bound is not None}
    )


_PARTS: dict[str, Callable[[Any, str], Any]] = {
    "match": _match,
    "range": _range,
    "values_count": _values_count,
    "is_empty": flag,
    "is_null": flag,
}
