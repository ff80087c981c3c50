"""lxml, which comes without types: its elements, and the walk over them that needs no recursion."""

from __future__ import annotations

from typing import Any

from lxml import etree

Element = Any  # lxml.etree._Element


def walk(root: Element, *events: str) -> Any:
    """Return an iterator over the `start` or `end` events of a tree; it can skip the content of an element.

    An element whose content is skipped ends all the same.
    """
    return etree.iterwalk(root, events=events)


def names(text: str) -> frozenset[str]:
    """Return the names in `text`."""
    return frozenset(text.split())
