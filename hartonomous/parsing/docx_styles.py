"""What the styles and the numbering of a DOCX make of a paragraph: a heading of some level, an item of a list."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

from hartonomous.parsing.trees import Element

_W: Final = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MAX_CHAIN: Final = 16
_MAX_LEVEL: Final = 8
_NO_LEVEL: Final = 9  # the outline level of body text


def w(name: str) -> str:
    """Return the qualified name of an element or attribute of WordprocessingML."""
    return _W + name


class Styles:
    """Looks up what the paragraphs of one document are; counts the items of its numbered lists."""

    def __init__(self, part: Any) -> None:
        self._styles = _by_id(part.styles.element, "style", "styleId")
        self._default = next((key for key, style in self._styles.items() if _is_default(style)), None)
        self._formats = _formats(_numbering(part))
        self._counts: dict[str, list[int]] = defaultdict(lambda: [0] * (_MAX_LEVEL + 1))

    def heading(self, paragraph: Element) -> int | None:
        """Return the level, 1 to 6, of a paragraph that is a heading or the document's title, else None."""
        if self.is_title(paragraph):
            return 1
        level = _number(self._find(paragraph, "outlineLvl"))
        if level is None:
            level = self._level_by_name(paragraph)
        return None if level is None or level >= _NO_LEVEL else min(level + 1, 6)

    def is_title(self, paragraph: Element) -> bool:
        """Whether a paragraph is the document's title."""
        return self._name(paragraph) == "title"

    def list_item(self, paragraph: Element) -> tuple[int, str] | None:
        """Return the depth of a list's item, from 0, and its marker; None for another paragraph.

        Each call counts the item.
        """
        properties = self._find(paragraph, "numPr")
        if properties is None:
            return self._list_by_name(paragraph)
        number = _value(properties.find(w("numId")))
        if number is None or number == "0":
            return None
        depth = min(_number(properties.find(w("ilvl"))) or 0, _MAX_LEVEL)
        form = self._formats.get((number, depth), "decimal")
        return depth, "- " if form in ("bullet", "none") else f"{self._count(number, depth)}. "

    def _count(self, number: str, depth: int) -> int:
        counts = self._counts[number]
        counts[depth] += 1
        counts[depth + 1 :] = [0] * (_MAX_LEVEL - depth)
        return counts[depth]

    def _level_by_name(self, paragraph: Element) -> int | None:
        kind, _, level = self._name(paragraph).rpartition(" ")
        return int(level) - 1 if kind == "heading" and level in set("123456789") else None

    def _list_by_name(self, paragraph: Element) -> tuple[int, str] | None:
        name = self._name(paragraph)
        return (0, "- ") if name.startswith("list bullet") else None

    def _name(self, paragraph: Element) -> str:
        """Return the name of the paragraph's style: Word keeps the English ones whatever its language."""
        style = self._styles.get(_style_id(paragraph) or self._default or "")
        return (_value(None if style is None else style.find(w("name"))) or "").lower()

    def _find(self, paragraph: Element, name: str) -> Element | None:
        """Return a property of the paragraph itself, or else of its style or the styles that that is based on."""
        own = paragraph.find(f"{w('pPr')}/{w(name)}")
        style = self._styles.get(_style_id(paragraph) or self._default or "")
        for _ in range(_MAX_CHAIN):
            if own is not None or style is None:
                break
            own = style.find(f"{w('pPr')}/{w(name)}")
            style = self._styles.get(_value(style.find(w("basedOn"))) or "")
        return own


def _numbering(part: Any) -> Element | None:
    for relation in part.rels.values():
        if not relation.is_external and relation.reltype.endswith("/numbering"):
            return getattr(relation.target_part, "element", None)
    return None


def _formats(numbering: Element | None) -> dict[tuple[str, int], str]:
    """Return the number format, such as `bullet` or `decimal`, of each level of each list."""
    if numbering is None:
        return {}
    abstract = _by_id(numbering, "abstractNum", "abstractNumId")
    formats = {}
    for number, instance in _by_id(numbering, "num", "numId").items():
        levels = abstract.get(_value(instance.find(w("abstractNumId"))) or "")
        for level in () if levels is None else levels.findall(w("lvl")):
            depth = level.get(w("ilvl"), "")
            form = _value(level.find(w("numFmt")))
            if depth in set("012345678") and form:
                formats[number, int(depth)] = form
    return formats


def _by_id(parent: Element, name: str, key: str) -> dict[str, Element]:
    return {element.get(w(key), ""): element for element in parent.findall(w(name))}


def _is_default(style: Element) -> bool:
    return style.get(w("type")) == "paragraph" and style.get(w("default")) in ("1", "true", "on")


def _style_id(paragraph: Element) -> str | None:
    return _value(paragraph.find(f"{w('pPr')}/{w('pStyle')}"))


def _value(element: Element | None) -> str | None:
    return None if element is None else element.get(w("val"))


def _number(element: Element | None) -> int | None:
    value = _value(element)
    return int(value) if value is not None and value.isascii() and value.isdecimal() and len(value) < 6 else None
