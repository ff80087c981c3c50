"""The one way to a collection in the vector store: no path to one is made but where the caller's grant is asked."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hartonomous

ROOT = Path(hartonomous.__file__).parent
# The store itself, and what is made of paths that callers see.
OTHERS = {"engine", "sending", "handlers"}
FILES = sorted(path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in OTHERS)
# What names no collection.
WITHOUT_ONE = {"/collections", "/collections/aliases"}


def paths_to_collections(path: Path) -> Iterator[str]:
    """Yield the strings of a file's code, whole or parts of them, that begin like such a path."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings)
    for text in texts:
        if isinstance(text.value, str) and "/collections" in text.value:
            yield text.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_to_collections_are_made_in_one_place(path: Path) -> None:
    found = set(paths_to_collections(path)) - WITHOUT_ONE
    assert found == ({"/collections/"} if path == ROOT / "clients" / "reach.py" else set())
