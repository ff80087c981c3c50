"""PDF to text, page by page, with PDFium.

A file that was cut off is refused, though PDFium would read what is left of it: a document that is stored without its
end is worse than one that is not stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import pypdfium2

from hartonomous.parsing.cleaning import join_pages
from hartonomous.parsing.refusal import RefusedError

# What PDFium sets for a hyphen at a line's end, the line end with it: within a word it goes, else it is a hyphen.
_BROKEN_WORD = re.compile("[\ufffe\x02](?=[^\\W\\d_A-Z])")
_HYPHEN = re.compile("[\ufffe\x02]")
# The end of a file is marked within so many bytes of it, white space not counted.
_TAIL: Final = 4_096
_MAX_PAGES: Final = 50_000
# PDFium's error codes (fpdfview.h): a password is needed, or the security scheme is unknown.
_ENCRYPTED = frozenset((4, 5))
_NO_TITLE = frozenset(("untitled", "untitled document", "microsoft word"))
_WRITER = re.compile(r"^Microsoft (?:Word|PowerPoint|Excel) - ")


def parse(data: bytes, max_bytes: int) -> tuple[str, str | None, tuple[int, ...]]:
    """Return the text of a PDF, its title, and the code points at which pages 2, 3, … begin.

    Raises RefusedError.
    """
    tail = data.rstrip(b"\x00 \t\r\n\x1a")[-_TAIL:]
    if b"%%EOF" not in tail and b"startxref" not in tail:
        raise RefusedError("broken_file")
    document = _opened(data)
    text, pages = join_pages(_pages(document, max_bytes), max_bytes)
    if not text:
        raise RefusedError("no_text_layer")
    return text, _title(document), pages


def _opened(data: bytes) -> Any:
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise RefusedError("encrypted_file" if error.err_code in _ENCRYPTED else "broken_file") from None
    if not 0 < len(document) <= _MAX_PAGES:
        raise RefusedError("text_too_large" if len(document) else "broken_file")
    return document


def _pages(document: Any, max_bytes: int) -> Iterator[str]:
    """Yield the text of each page; a page that cannot be read is a part of the document that would be missing."""
    for index in range(len(document)):
        try:
            page = document.get_page(index)
            text_page = page.get_textpage()
        except pypdfium2.PdfiumError:
            raise RefusedError("broken_file") from None
        if text_page.count_chars() > max_bytes:
            raise RefusedError("text_too_large")
        text = text_page.get_text_range(errors="replace")
        text_page.close()
        page.close()
        yield _HYPHEN.sub("-", _BROKEN_WORD.sub("", text))


def _title(document: Any) -> str | None:
    try:
        title = document.get_metadata_value("Title")
    except UnicodeDecodeError:
        return None
    title = _WRITER.sub("", title.strip())
    return None if not title or title.lower() in _NO_TITLE else title
