"""DOCX to Markdown: headings, lists, tables, notes, in the order of the body; headers and footers are left out.

python-docx opens the package and knows its parts. The body is read from its XML, since python-docx passes over what
stands in content controls and in tracked insertions, which is text like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from zipfile import BadZipFile

import docx
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.opc.exceptions import OpcError
from lxml import etree

from hartonomous.parsing.archive import safe_package
from hartonomous.parsing.docx_styles import Styles, w
from hartonomous.parsing.markdown import BREAK, MarkdownWriter
from hartonomous.parsing.refusal import RefusedError
from hartonomous.parsing.trees import Element, walk

_MATH_TEXT: Final = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_FALLBACK: Final = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_PARAGRAPH, _TABLE, _ROW, _CELL = w("p"), w("tbl"), w("tr"), w("tc")
_TEXT_BOX = w("txbxContent")
# What stands around blocks, rows and cells, and shows nothing of its own.
_AROUND = frozenset(w(name) for name in ("sdt", "sdtContent", "customXml", "ins", "moveTo", "smartTag"))
# Text that was deleted, or moved away, or is no text.
_UNREAD = frozenset((*(w(name) for name in ("del", "moveFrom", "pPr", "rPr", "sdtPr", "instrText")), _FALLBACK))
_SIGNS = {w("tab"): " ", w("br"): BREAK, w("cr"): BREAK, w("noBreakHyphen"): "-"}
_NOTES = (("footnotes", "footnote", ""), ("endnotes", "endnote", "e"))
_MAX_SPAN: Final = 64
_MAX_CELL: Final = 2_000


def parse(data: bytes, max_bytes: int, max_inflated: int) -> tuple[str, str | None]:
    """Return the text of a document as Markdown, and its title; at most `max_inflated` bytes of XML are inflated.

    Raises RefusedError.
    """
    try:
        document = docx.Document(safe_package(data, max_inflated))
        body = document.element.body
    except etree.XMLSyntaxError as error:
        if error.code == etree.ErrorTypes.ERR_NO_MEMORY:
            raise MemoryError from None
        raise RefusedError("broken_file") from None
    except (OpcError, BadZipFile, KeyError, ValueError, AttributeError, TypeError):
        raise RefusedError("broken_file") from None
    if body is None or body.getroottree().docinfo.internalDTD is not None:
        raise RefusedError("broken_file")  # no document type stands in a DOCX; one with entities may be a bomb
    reader = _Reader(document.part, max_bytes)
    reader.blocks(body)
    reader.notes()
    return reader.text(), _title(document.part) or reader.title


class _Reader:
    """Reads one document: what it writes, and the list items that are open."""

    def __init__(self, part: Any, max_bytes: int) -> None:
        self._part = part
        self._styles = Styles(part)
        self._writer = MarkdownWriter(max_bytes)
        self._open_items = 0
        self._in_list = False
        self.title: str | None = None

    def text(self) -> str:
        return self._writer.text()

    def blocks(self, parent: Element) -> None:
        """Write the paragraphs and tables in `parent`, in order."""
        for child in parent:
            if child.tag == _PARAGRAPH:
                self._paragraph(child)
            elif child.tag == _TABLE:
                self._table(child)
            elif child.tag in _AROUND:
                self.blocks(child)

    def notes(self) -> None:
        """Write the footnotes and endnotes that the document has."""
        self._end_list()
        for parts, one, mark in _NOTES:
            notes = _related(self._part, parts)
            for note in () if notes is None else notes.iter(w(one)):
                text = " ".join(_text(paragraph) for paragraph in note.iter(_PARAGRAPH)).strip()
                if text and note.get(w("type"), "normal") == "normal":
                    self._writer.paragraph(f"[^{mark}{note.get(w('id'))}]: {text}")

    def _paragraph(self, paragraph: Element) -> None:
        text = _text(paragraph)
        if text.strip():
            self._write(paragraph, text)
        for box in _text_boxes(paragraph):
            self.blocks(box)

    def _write(self, paragraph: Element, text: str) -> None:
        level = self._styles.heading(paragraph)
        if level is not None:
            self._end_list()
            self._writer.heading(level, text)
            if self.title is None and self._styles.is_title(paragraph):
                self.title = text
            return
        item = self._styles.list_item(paragraph)
        if item is None:
            self._end_list()
        else:
            self._begin_item(*item)
        self._writer.paragraph(text)

    def _begin_item(self, depth: int, marker: str) -> None:
        self._end_items(depth)
        if not self._in_list:
            self._writer.begin_list()
        self._writer.begin_item(marker)
        self._open_items += 1
        self._in_list = True

    def _end_items(self, depth: int) -> None:
        """End the items deeper than `depth`."""
        while self._open_items > depth:
            self._writer.end()
            self._open_items -= 1

    def _end_list(self) -> None:
        self._end_items(0)
        self._in_list = False

    def _table(self, table: Element) -> None:
        """Write a table as a table, and one that lays out a page as the blocks in its cells."""
        self._end_list()
        rows = [list(_within(row, _CELL)) for row in _within(table, _ROW)]
        texts = None if _is_layout(rows) else [_row(cells) for cells in rows]
        if texts is not None and all(len(text) <= _MAX_CELL for row in texts for text in row):
            self._writer.table(texts)
            return
        for cells in rows:
            for cell in cells:
                if not _continues(cell):
                    self.blocks(cell)


def _is_layout(rows: list[list[Element]]) -> bool:
    if max(map(len, rows), default=0) < 2 or len(rows) < 2:
        return True
    return any(next(cell.iter(_TABLE), None) is not None for cells in rows for cell in cells)


def _row(cells: list[Element]) -> list[str]:
    """Return the texts of a row: a merged cell's stands in its first place, its other places are empty."""
    row: list[str] = []
    for cell in cells:
        text = "" if _continues(cell) else " ".join(_text(paragraph) for paragraph in cell.iter(_PARAGRAPH))
        span = cell.find(f"{w('tcPr')}/{w('gridSpan')}")
        width = _number(None if span is None else span.get(w("val")))
        row += [text, *[""] * (min(width, _MAX_SPAN) - 1)]
    return row


def _continues(cell: Element) -> bool:
    """Whether `cell` is the lower part of one that is merged downwards."""
    merge = cell.find(f"{w('tcPr')}/{w('vMerge')}")
    return merge is not None and merge.get(w("val"), "continue") == "continue"


def _within(parent: Element, tag: str) -> Iterator[Element]:
    """Yield the rows of a table, or the cells of a row, those in content controls too."""
    for child in parent:
        if child.tag == tag:
            yield child
        elif child.tag in _AROUND:
            yield from _within(child, tag)


def _text(paragraph: Element) -> str:
    """Return the running text of a paragraph, but for what stands in its text boxes."""
    parts: list[str] = []
    events = walk(paragraph, "start")
    for _, element in events:
        tag = element.tag
        if tag in _UNREAD or tag == _TEXT_BOX:
            events.skip_subtree()
        elif tag in (_T, _MATH_TEXT):
            parts.append(element.text or "")
        elif tag in _SIGNS:
            parts.append(_SIGNS[tag])
        elif tag in _REFERENCES:
            parts.append(f"[^{_REFERENCES[tag]}{element.get(w('id'))}]")
    return "".join(parts)


_T = w("t")
_REFERENCES = {w(f"{one}Reference"): mark for _, one, mark in _NOTES}


def _text_boxes(paragraph: Element) -> Iterator[Element]:
    """Yield the contents of the text boxes that are anchored in a paragraph; of two renderings the first."""
    events = walk(paragraph, "start")
    for _, element in events:
        if element.tag in _UNREAD:
            events.skip_subtree()
        elif element.tag == _TEXT_BOX:
            events.skip_subtree()
            yield element


def _related(part: Any, name: str) -> Element | None:
    """Return the XML of the part of the kind `name` that belongs to the document, None when there is none."""
    for relation in part.rels.values():
        if not relation.is_external and relation.reltype.endswith(f"/{name}"):
            try:
                return etree.fromstring(relation.target_part.blob, etree.XMLParser(resolve_entities=False))
            except etree.XMLSyntaxError:
                return None
    return None


def _title(part: Any) -> str | None:
    """Return the title among the document's properties, None when it has none: python-docx would make some up."""
    try:
        properties = part.package.part_related_by(RELATIONSHIP_TYPE.CORE_PROPERTIES).core_properties
        return str(properties.title).strip() or None
    except (KeyError, ValueError, AttributeError):
        return None


def _number(value: str | None) -> int:
    return int(value) if value is not None and value.isascii() and value.isdecimal() and len(value) < 6 else 1
