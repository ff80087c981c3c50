"""The filter of a caller: checked before anything recursive touches it, and never able to widen what may be seen.

A filter is Qdrant's own JSON. Validating it by a recursive schema costs seconds for a few kilobytes of nesting, so it
is walked here with a stack, inside limits on depth and on the number of conditions, and only what is known passes:

- clauses `must`, `should`, `must_not` (a condition or a list of them) and `min_should` (`conditions`, `min_count`);
- conditions on one key: `match` (`value`, `text`, `any`, `except`), `range` (numbers or RFC 3339 datetimes; time
  zone and time of day may be left out, as in Qdrant), `values_count`; `is_empty` and `is_null`; a filter in a filter;
- keys `document_id`, `source` and `metadata.` with a JSON path of Qdrant's grammar.

`has_id`, `has_vector`, `nested` and geographic conditions are refused. A key whose value is null counts as absent, as
in Qdrant and in what its client library's models print.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NoReturn, TypeGuard

from hartonomous.errors import ValidationFailedError

MAX_VALUES = 1_000
"""The most values that one `any` or `except` may list."""

_CLAUSES = ("must", "should", "must_not")
_MATCHES = ("value", "text", "any", "except")
_BOUNDS = ("gt", "gte", "lt", "lte")
_SEGMENT = r'(?:[\w-]+|"[^"\x00-\x1f\x7f]+")(?:\[[0-9]{0,9}\])*'
_KEY = re.compile(rf"document_id|source|metadata(?:\.{_SEGMENT}){{1,16}}")
_KEY_LENGTH = 256
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:[Zz]|[+-]\d\d:?\d\d)?)?", re.ASCII)
_INT64 = 1 << 63

_Object = Mapping[Any, Any]
_Item = tuple[_Object, str, int]  # a filter, its path, its level


def check(filter: object, *, max_depth: int = 8, max_clauses: int = 64) -> None:  # noqa: A002 (Qdrant's own word)
    """Raise `ValidationFailedError` unless `filter` is one that a caller may send; `param` says where it breaks.

    `max_depth` bounds filters within filters (the outermost is level 1), `max_clauses` the conditions in all of them.
    Takes time in proportion to the conditions that are allowed, whatever the size of the input.
    """
    left = max_clauses
    stack: list[_Item] = [(_object(filter, "filter"), "filter", 1)]
    while stack:
        current, path, depth = stack.pop()
        if depth > max_depth:
            _refuse(f"The filter is nested deeper than {max_depth} levels.", path)
        for condition, where in _conditions(current, path, left):
            left -= 1
            if left < 0:
                _refuse(f"The filter has more than {max_clauses} conditions.", where)
            if _is_filter(condition):
                stack.append((condition, where, depth + 1))
            else:
                _check_condition(condition, where)


def whole(filter: Any) -> Any:  # noqa: A002 (Qdrant's own word)
    """Return a filter that passed `check` without nulls, and with numbers like 3.0 as the integers that they are."""
    if isinstance(filter, Mapping):
        return {name: whole(value) for name, value in filter.items() if value is not None}
    if isinstance(filter, list):
        return [whole(value) for value in filter]
    return int(filter) if _is_whole(filter) else filter


def combine(user_filter: Mapping[str, Any] | None, *must: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a filter that wants all of `must` and what the user's filter wants; None when that is nothing.

    The user's filter stands as one condition among the required ones, so nothing in it can widen the result.
    """
    conditions = [dict(condition) for condition in must]
    if user_filter and any(value is not None and value != [] for value in user_filter.values()):
        conditions.append(dict(user_filter))
    return {"must": conditions} if conditions else None


def _conditions(current: _Object, path: str, left: int) -> Iterator[tuple[_Object, str]]:
    """Yield the conditions of every clause of one filter with their paths; `left` of them may still come."""
    for clause, value in current.items():
        where = f"{path}.{_shown(clause)}"
        if clause == "min_should":
            if value is not None:
                yield from _listed(_min_should(value, where), f"{where}.conditions", left)
        elif clause not in _CLAUSES:
            _refuse("A filter has no such clause (it has must, should, must_not, min_should).", where)
        elif isinstance(value, list):
            yield from _listed(value, where, left)
        elif value is not None:
            yield _object(value, where), where


def _listed(values: list[Any], path: str, left: int) -> Iterator[tuple[_Object, str]]:
    if len(values) > left:
        _refuse("The filter has too many conditions.", path)
    for index, value in enumerate(values):
        where = f"{path}.{index}"
        yield _object(value, where), where


def _min_should(value: object, path: str) -> list[Any]:
    clause = _object(value, path)
    _only(clause, ("conditions", "min_count"), path)
    count = clause.get("min_count")
    if not _is_whole(count) or count <= 0:
        _refuse("This must be a whole number above 0.", f"{path}.min_count")
    conditions = clause.get("conditions")
    if not isinstance(conditions, list) or not conditions:
        _refuse("This must be a list of conditions.", f"{path}.conditions")
    return conditions


def _is_filter(condition: _Object) -> bool:
    return any(clause in condition for clause in (*_CLAUSES, "min_should"))


def _check_condition(condition: _Object, path: str) -> None:
    """Check one condition that is not a filter; it has exactly one kind."""
    _only(condition, ("key", *_KINDS), path)
    kinds = [kind for kind in _KINDS if condition.get(kind) is not None]
    if len(kinds) != 1:
        _refuse("A condition must say exactly one thing (match, range, is_empty, is_null or values_count).", path)
    kind = kinds[0]
    value = _object(condition[kind], f"{path}.{kind}")
    if kind in ("is_empty", "is_null"):
        if condition.get("key") is not None:
            _refuse(f"The key of {kind} stands inside of it.", f"{path}.key")
        _only(value, ("key",), f"{path}.{kind}")
        _check_key(value.get("key"), f"{path}.{kind}.key")
    else:
        _check_key(condition.get("key"), f"{path}.key")
    _KINDS[kind](value, f"{path}.{kind}")


def _check_key(key: object, path: str) -> None:
    if not isinstance(key, str) or len(key) > _KEY_LENGTH or not _KEY.fullmatch(key):
        _refuse("A filter's key must be document_id, source or metadata.NAME.", path)


def _check_match(value: _Object, path: str) -> None:
    _only(value, _MATCHES, path)
    given = [name for name in _MATCHES if value.get(name) is not None]
    if len(given) != 1:
        _refuse("A match must have exactly one of value, text, any, except.", path)
    name = given[0]
    wanted, where = value[name], f"{path}.{name}"
    if name == "text":
        if not isinstance(wanted, str):
            _refuse("This must be a string.", where)
    elif name == "value":
        if not isinstance(wanted, bool):
            _check_scalars([wanted], where)
    elif not isinstance(wanted, list) or len(wanted) > MAX_VALUES:
        _refuse(f"This must be a list of at most {MAX_VALUES} strings or of whole numbers.", where)
    else:
        _check_scalars(wanted, where)


def _check_scalars(values: list[Any], path: str) -> None:
    """Allow strings, or whole numbers of 64 bits: not both in one list."""
    texts = all(isinstance(value, str) for value in values)
    if not texts and not all(map(_is_whole, values)):
        _refuse("Values to match must be strings or whole numbers, all of one kind.", path)


def _check_range(value: _Object, path: str) -> None:
    bounds = _bounds(value, path)
    dates = isinstance(next(iter(bounds.values())), str)
    for name, bound in bounds.items():
        if not (_is_date(bound) if dates else _is_number(bound)):
            _refuse("The bounds of a range must be numbers, or all of them datetimes.", f"{path}.{name}")


def _check_values_count(value: _Object, path: str) -> None:
    for name, bound in _bounds(value, path).items():
        if not _is_whole(bound) or bound < 0:
            _refuse("This must be a whole number, 0 or more.", f"{path}.{name}")


def _bounds(value: _Object, path: str) -> dict[str, Any]:
    _only(value, _BOUNDS, path)
    bounds = {name: value[name] for name in _BOUNDS if value.get(name) is not None}
    if not bounds:
        _refuse("This needs at least one of gt, gte, lt, lte.", path)
    return bounds


def _is_whole(value: object) -> TypeGuard[int | float]:
    """Whether it is a whole number of 64 bits, which JSON may write with a fraction of zero."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return float(value).is_integer() and -_INT64 < value < _INT64


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else -_INT64 <= value < _INT64


def _is_date(value: object) -> bool:
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value.upper())
    except ValueError:
        return False
    return True


def _no_more(_value: _Object, _path: str) -> None:
    """`is_empty` and `is_null` have their key and nothing else."""


_KINDS: dict[str, Callable[[_Object, str], None]] = {
    "match": _check_match,
    "range": _check_range,
    "values_count": _check_values_count,
    "is_empty": _no_more,
    "is_null": _no_more,
}


def _object(value: object, path: str) -> _Object:
    if not isinstance(value, Mapping):
        _refuse("This must be a JSON object.", path)
    return value


def _only(value: _Object, names: tuple[str, ...], path: str) -> None:
    """Refuse a key that is none of `names`, unless it is null."""
    for name in value:
        if name not in names:
            _refuse("A filter has no such field here, or it is not allowed.", f"{path}.{_shown(name)}")


def _shown(name: object) -> str:
    """Return a key as a part of a path: it is the caller's, so it may be of any length and hold control characters."""
    text = str(name)[:64]
    return text if text.isprintable() else ascii(text)[1:-1]


def _refuse(message: str, path: str) -> NoReturn:
    raise ValidationFailedError(message, param=path)
