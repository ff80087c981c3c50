"""Writes DOCX files: by python-docx, with XML of one's own in the body, or with any content in any part."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import docx
from docx.document import Document
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

DOCUMENT = "word/document.xml"
RELATIONS = "word/_rels/document.xml.rels"


def write_docx(fill: Callable[[Document], object], title: str | None = None) -> bytes:
    """Return a document that `fill` has written into."""
    document = docx.Document()
    document.core_properties.title = title or ""
    fill(document)
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def body_docx(*blocks: str) -> bytes:
    """Return a document whose body is `blocks` of WordprocessingML."""

    def fill(document: Document) -> None:
        section = document.element.body[-1]
        for block in blocks:
            tag, _, rest = block.partition(">") if block.startswith(("<w:p>", "<w:tbl>", "<w:sdt>")) else ("", "", "")
            assert tag, "a block begins with <w:p>, <w:tbl> or <w:sdt>"
            namespaces = (
                nsdecls("w", "wp", "a", "m") + ' xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
            )
            section.addprevious(parse_xml(f"{tag} {namespaces}>{rest}"))

    return write_docx(fill)


def with_part(file: bytes, name: str, content: bytes) -> bytes:
    """Return `file` with another content of one part."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, content if member == name else old.read(member))
        if name not in old.namelist():
            new.writestr(name, content)
    return changed.getvalue()


def part(file: bytes, name: str) -> bytes:
    """Return the content of a part."""
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        return archive.read(name)
