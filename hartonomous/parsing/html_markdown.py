"""An HTML tree to Markdown: one walk over its elements, without recursion, however deep they are nested."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from hartonomous.parsing.boilerplate import is_dropped
from hartonomous.parsing.cleaning import without_invisible
from hartonomous.parsing.markdown import BREAK, MarkdownWriter, running
from hartonomous.parsing.trees import Element, names, walk

_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = names(
    "p div section article main header footer aside ul ol li dl dt dd table thead tbody tfoot tr td th caption"
    " blockquote figure figcaption details summary address fieldset legend form center hgroup menu dir body html hr"
)
_LISTS = names("ul ol menu dir")
_CODE = names("code kbd samp tt")
_NOT_INLINE = names("pre br table div p")
# A cell with one of these is a part of the page's layout.
_LAYOUT = names("table pre h1 h2 h3 h4 h5 h6 blockquote article section form")
_NO_TEXT = names("script style button template")
_MAX_CELL = 2_000
_MAX_SPAN = 64
_PERMALINKS = frozenset(("", "#", "¶", "§", "🔗", "\uf0c1", "permalink"))
_LANGUAGE = re.compile(r"(?:^|\s)(?:language|lang|highlight|brush|sourceCode)[-:]\s*([A-Za-z0-9+#]{1,20})(?=\s|;|$)")
_NO_LANGUAGE = names("default none text plaintext notranslate")


def to_markdown(root: Element, whole_form: Element | None, max_bytes: int) -> str:
    """Return the content of `root` as Markdown, menus and forms but `whole_form` left out.

    Raises RefusedError when it has more than `max_bytes` characters.
    """
    return _Walk(root, whole_form, max_bytes).text()


class _Walk:
    """The state of one walk: the running text since the last block, and the lists that are open."""

    def __init__(self, root: Element, whole_form: Element | None, max_bytes: int) -> None:
        self._root = root
        self._whole_form = whole_form
        self._writer = MarkdownWriter(max_bytes)
        self._inline: list[str] = []
        self._heading = 0
        self._numbers: list[int | None] = []  # of the open lists: the next number, None without
        self._within_content = int(root.tag in ("main", "article") or root.get("role") == "main")
        self._skipped = False

    def text(self) -> str:
        events = walk(self._root, "start", "end")
        for event, element in events:
            if event == "start":
                if not self._start(element):
                    events.skip_subtree()
            else:
                self._end(element)
        self._flush()
        return self._writer.text()

    def _start(self, element: Element) -> bool:
        """Take up an element; return whether its content is to be walked through."""
        self._skipped = not self._takes(element)
        if not self._skipped:
            self._open(element.tag, element)
            self._inline.append(element.text or "")
        return not self._skipped

    def _takes(self, element: Element) -> bool:
        """Whether `element` is content that is walked through; what is written as a whole is written here."""
        if element is self._root:
            return True
        tag = element.tag
        if is_dropped(element, self._within_content > 0) or (tag == "form" and element is not self._whole_form):
            return False
        if tag == "a" and self._heading and _whole_text(element).strip() in _PERMALINKS:
            return False
        write = _WHOLE.get(tag)
        return write is None or not write(self, element)

    def _end(self, element: Element) -> None:
        if self._skipped:
            self._skipped = False
        else:
            self._close(element.tag)
        if element is not self._root:
            self._inline.append(element.tail or "")

    def _open(self, tag: str, element: Element) -> None:
        if tag in _HEADINGS:
            self._flush()
            self._heading = _HEADINGS[tag]
        elif tag == "br":
            self._inline.append(BREAK)
        elif tag in _BLOCKS:
            self._flush()
            self._open_block(tag, element)

    def _open_block(self, tag: str, element: Element) -> None:
        if tag in _LISTS:
            if not self._numbers:
                self._writer.begin_list()
            self._numbers.append(_number(element.get("start"), 1) if tag == "ol" else None)
        elif tag == "li":
            self._writer.begin_item(self._marker())
        elif tag == "blockquote":
            self._writer.begin_quote()
        elif tag in ("main", "article"):
            self._within_content += 1

    def _close(self, tag: str) -> None:
        if tag in _HEADINGS:
            self._flush(closing=True)
            self._heading = 0
        elif tag in _BLOCKS:
            self._flush()
            if tag in ("li", "blockquote"):
                self._writer.end()
            elif tag in _LISTS:
                self._numbers.pop()
            elif tag in ("main", "article"):
                self._within_content -= 1

    def _marker(self) -> str:
        number = self._numbers[-1] if self._numbers else None
        if number is None:
            return "- "
        self._numbers[-1] = number + 1
        return f"{number}. "

    def _flush(self, closing: bool = False) -> None:
        """Write the running text as a paragraph, or as a heading when its element closes."""
        if self._heading and not closing:
            self._inline.append(" ")
            return
        text = without_invisible("".join(self._inline))
        self._inline.clear()
        if self._heading:
            self._writer.heading(self._heading, text)
        else:
            self._writer.paragraph(text)

    def _pre(self, element: Element) -> bool:
        self._flush()
        self._writer.code(_whole_text(element, newlines=True).replace("\xa0", " "), _language(element))
        return True

    def _code(self, element: Element) -> bool:
        """Write `code` within running text; one that holds blocks is walked through."""
        if next(element.iterdescendants(*_NOT_INLINE), None) is not None:
            return False
        code = " ".join(without_invisible(_whole_text(element)).split())
        if code:
            self._inline.append(f"`` {code} ``" if "`" in code else f"`{code}`")
        return True

    def _math(self, element: Element) -> bool:
        source = next(element.iter("annotation"), None)
        self._inline.append(element.get("alttext") or _whole_text(element if source is None else source))
        return True

    def _table(self, element: Element) -> bool:
        rows = _rows(element)
        if rows is None:
            return False
        self._flush()
        caption = element.find("caption")
        if caption is not None:
            self._writer.paragraph(_cell_text(caption))
        self._writer.table(rows)
        return True


# Elements that are written as a whole, by what returns whether it has done so.
_WHOLE: dict[str, Callable[[_Walk, Element], bool]] = {
    "pre": _Walk._pre,
    "math": _Walk._math,
    "table": _Walk._table,
    **dict.fromkeys(_CODE, _Walk._code),
}


def _whole_text(element: Element, newlines: bool = False) -> str:
    """Return the text in `element`; with `newlines` those as well that `br` and a second block of code stand for."""
    parts: list[str] = []
    events = walk(element, "start", "end")
    for event, one in events:
        if event == "end":
            parts.append(one.tail or "" if one is not element else "")
        elif one.tag in _NO_TEXT:
            events.skip_subtree()
        else:
            if newlines and (one.tag == "br" or (one.tag == "code" and one.getprevious() is not None)):
                parts.append("\n" if one.tag == "br" or (parts and not parts[-1].endswith("\n")) else "")
            parts.append(one.text or "")
    return "".join(parts)


def _language(pre: Element) -> str:
    """Return the language of a block of code where a class of it, its `code` or what is around it says it."""
    code = pre.find("code")
    around = [pre.getparent(), pre.getparent().getparent()] if pre.getparent() is not None else []
    for element in (code, pre, *around):
        found = _LANGUAGE.search(element.get("class", "")) if element is not None else None
        if found and found[1].lower() not in _NO_LANGUAGE:
            return found[1].lower()
    return ""


def _rows(table: Element) -> list[list[str]] | None:
    """Return the cells of a table of data, row by row; None for one that lays out a page, or has one column."""
    rows = []
    for element in table.iterdescendants():
        if element.tag in _LAYOUT:
            return None
        if element.tag == "tr":
            rows.append([cell for cell in element if cell.tag in ("td", "th")])
    if max(map(len, rows), default=0) < 2 or (len(rows) < 2 and not any(cell.tag == "th" for cell in rows[0])):
        return None
    grid = list(_grid(rows))
    return None if any(len(cell) > _MAX_CELL for row in grid for cell in row) else grid


def _grid(rows: list[list[Element]]) -> Iterator[list[str]]:
    """Yield the texts of each row: a merged cell's stands in its first place, the other places are empty."""
    covered: dict[int, int] = {}  # column: rows that a cell above still reaches into
    for cells in rows:
        row: list[str] = []
        for cell in cells:
            _skip_covered(row, covered)
            text, down = _cell_text(cell), _number(cell.get("rowspan"), 1)
            for place in range(max(1, min(_number(cell.get("colspan"), 1), _MAX_SPAN))):
                covered[len(row)] = min(down, _MAX_SPAN) - 1
                row.append("" if place else text)
        _skip_covered(row, covered)
        yield row


def _skip_covered(row: list[str], covered: dict[int, int]) -> None:
    while covered.get(len(row), 0) > 0:
        covered[len(row)] -= 1
        row.append("")


def _cell_text(cell: Element) -> str:
    """Return the text of a cell as running text; what stands in blocks of its own is parted by a blank."""
    if not len(cell):
        return running(without_invisible(cell.text or ""))
    parts = []
    events = walk(cell, "start", "end")
    for event, element in events:
        if element.tag in _BLOCKS or element.tag == "br":
            parts.append(" ")
        if event == "end":
            parts.append(element.tail or "" if element is not cell else "")
        elif element is not cell and is_dropped(element, within_content=True):
            events.skip_subtree()
        else:
            parts.append(element.text or "")
    return running(without_invisible("".join(parts)))


def _number(value: Any, default: int) -> int:
    return (
        int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10 else default
    )
