"""What the engine refuses, and the checks of JSON shapes that every converter shares.

A refusal carries an HTTP status and a sentence in Qdrant's words where Qdrant has any. A field that the engine does
not know is refused by name (`fields`), unless it is null: qdrant-client writes nulls for what was left out.
"""

from __future__ import annotations

import struct
from typing import Any

# Deeper or larger conditions are refused before they are converted: conversion recurses, in Python and in the engine.
MAX_DEPTH = 48
MAX_NODES = 20_000


class RefusedError(Exception):
    """A request that is answered with `status` and Qdrant's error envelope around `message`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def malformed(message: str) -> RefusedError:
    """Return the 400 of a body whose shape is wrong."""
    return RefusedError(400, f"Format error in JSON body: {message}")


def invalid(message: str) -> RefusedError:
    """Return the 422 of a body whose shape is right and whose values are not."""
    return RefusedError(422, f"Validation error in JSON body: {message}")


def unsupported(what: str) -> RefusedError:
    """Return the 400 that names a field, a value or a route which only a true Qdrant serves."""
    return RefusedError(400, f"Bad request: not supported by the embedded engine: {what}")


def wrong_input(message: str) -> RefusedError:
    """Return the 400 of a request that does not fit the collection."""
    return RefusedError(400, f"Wrong input: {message}")


def not_found(message: str) -> RefusedError:
    """Return a 404."""
    return RefusedError(404, f"Not found: {message}")


def join(where: str, key: object) -> str:
    """Return the dotted path of `key` inside `where` (empty: the body itself)."""
    return f"{where}.{key}" if where else str(key)


def obj(value: Any, where: str) -> dict[str, Any]:
    """Return `value` if it is a JSON object, else raise a 400 that names `where`."""
    if type(value) is not dict:
        raise malformed(f"{where or 'body'}: expected an object")
    return value


def array(value: Any, where: str) -> list[Any]:
    """Return `value` if it is a JSON array, else raise a 400 that names `where`."""
    if type(value) is not list:
        raise malformed(f"{where}: expected an array")
    return value


def text(value: Any, where: str) -> str:
    """Return `value` if it is a string, else raise a 400 that names `where`."""
    if type(value) is not str:
        raise malformed(f"{where}: expected a string")
    return value


def flag(value: Any, where: str) -> bool:
    """Return `value` if it is a boolean, else raise a 400 that names `where`."""
    if type(value) is not bool:
        raise malformed(f"{where}: expected a boolean")
    return value


def number(value: Any, where: str) -> float:
    """Return `value` as a float if it is a number, else raise a 400 that names `where`."""
    if type(value) is not float and type(value) is not int:
        raise malformed(f"{where}: expected a number")
    return float(value)


def count(value: Any, where: str, *, minimum: int = 0) -> int:
    """Return `value` if it is an integer of at least `minimum`: 400 for another type, 422 below the minimum."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise malformed(f"{where}: expected an unsigned integer")
    if value < minimum:
        raise invalid(f"[{where}: value {value} invalid, must be {minimum} or larger]")
    return value


def fields(value: Any, known: frozenset[str], where: str = "") -> dict[str, Any]:
    """Return the JSON object `value`; raise a 400 that names the first field that is set and not `known`."""
    body = obj(value, where)
    for key in body.keys() - known:
        if body[key] is not None:
            raise unsupported(f"the field `{join(where, key)}`")
    return body


def floats(value: list[Any], where: str) -> list[float]:
    """Return `value` if it is a list of numbers that fit 32-bit floats; an empty one is passed on."""
    if not set(map(type, value)) <= {float, int}:
        raise malformed(f"{where}: expected an array of numbers")
    try:
        # Faster than to compare the smallest and the largest; without "<" the overflow would pass.
        struct.pack(f"<{len(value)}f", *value)
    except (struct.error, OverflowError) as error:
        raise malformed(f"{where}: a number does not fit a 32-bit float") from error
    return value


def bounded(value: Any, where: str) -> None:
    """Raise a 400 if `value` nests deeper than MAX_DEPTH or has more than MAX_NODES containers; never recurses.

    Arrays that start with a scalar (vectors, lists of ids) count as one node and are not walked.
    """
    level = [value]
    nodes = 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for node in level:
            if type(node) is dict:
                below.extend(node.values())
            elif type(node) is list and node and type(node[0]) in (dict, list):
                below.extend(node)
        level = [node for node in below if type(node) is dict or type(node) is list]
        nodes += len(level)
        if nodes > MAX_NODES:
            raise unsupported(f"more than {MAX_NODES} clauses in `{where}`")
        if not level:
            return
    raise unsupported(f"more than {MAX_DEPTH} levels of nesting in `{where}`")
