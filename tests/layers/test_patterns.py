"""Regular expressions mean the same on every Python that is supported: none repeats a group possessively.

What such a group takes depends on the version: before 3.11.5 it keeps what its last, failed round has read (gh-100061).
Nor is it the same as an atomic group in 3.13: `(?:bb+){2}+` does not fit "bbbb" (gh-106052). A single character or set
of them is repeated possessively by other code, which is right everywhere, as are atomic groups.
"""

from __future__ import annotations

import ast
import importlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hartonomous

ROOT = Path(hartonomous.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

_PARSER: Any = importlib.import_module("re._parser")
_CHARACTER = {"LITERAL", "NOT_LITERAL", "ANY", "IN"}


def repeats_group_possessively(pattern: str | bytes, flags: int = 0) -> bool:
    """Tell whether a regular expression does; what is none does not."""
    with warnings.catch_warnings(action="ignore"):  # of strings that are no regular expressions
        try:
            return _has_possessive_group(_PARSER.parse(pattern, flags))
        except (re.error, ValueError, OverflowError):
            return False


def _has_possessive_group(part: Any) -> bool:
    """Tell it of what the parser has made: lists of pairs of operator and arguments, nested at will."""
    if isinstance(part, tuple) and len(part) == 2 and str(part[0]) == "POSSESSIVE_REPEAT":
        repeated = part[1][2]
        if len(repeated) != 1 or str(repeated[0][0]) not in _CHARACTER:
            return True
    nested = isinstance(part, list | tuple | _PARSER.SubPattern)
    return nested and any(_has_possessive_group(inner) for inner in part)


def compiled(value: object) -> Iterator[re.Pattern[Any]]:
    """Yield the regular expressions that a module's or a class's attribute holds."""
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, dict):
        yield from (pattern for pair in value.items() for part in pair for pattern in compiled(part))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from (pattern for part in value for pattern in compiled(part))


def held_by(module: str) -> Iterator[re.Pattern[Any]]:
    for value in vars(importlib.import_module(module)).values():
        yield from compiled(value)
        if isinstance(value, type) and value.__module__ == module:
            yield from compiled(dict(vars(value)))


def written_in(path: Path) -> Iterator[str | bytes]:
    """Yield a file's strings; of what functions put together a group stands for each part that is not known yet."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            yield node.value
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from (_put_together(part) for part in ast.walk(node) if isinstance(part, ast.JoinedStr))


def _put_together(text: ast.JoinedStr) -> str:
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "(?:ab)" for part in text.values)


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=names)
def test_no_regular_expression_repeats_a_group_possessively(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    held = [] if path.name == "__main__.py" else held_by(module)
    assert not [found.pattern for found in held if repeats_group_possessively(found.pattern, found.flags)]
    assert not [text for text in written_in(path) if repeats_group_possessively(text)]


@pytest.mark.parametrize(
    ("pattern", "does"),
    [
        ("(?:b(?=c))*+", True),
        ("(?:ab)?+", True),
        ("(a|bc){2,}+x", True),
        ("x(?=(?:y|(?:ab|c)++))", True),
        (b"(?:ab)*+", True),
        (r"(?:\W*+\w++)+", False),
        ("(?:[.': ][^a]b*+|a.?+)+", False),
        ("[)]++", False),
        (r"\)++", False),
        ("(?>ab|a)*", False),
        ("no regular expression (", False),
    ],
)
def test_such_groups_are_known_from_characters(pattern: str | bytes, does: bool) -> None:
    assert repeats_group_possessively(pattern) is does
