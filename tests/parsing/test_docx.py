"""DOCX to Markdown: headings, lists, tables and notes in the order of the body, whatever stands around them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator

import pytest
from docx.document import Document
from docx.table import Table, _Cell

from hartonomous.parsing import from_docx
from hartonomous.parsing.cleaning import clean
from hartonomous.parsing.refusal import RefusedError
from tests.parsing.conftest import MIB
from tests.parsing.docx_writer import DOCUMENT, RELATIONS, body_docx, part, with_part, write_docx


def markdown(data: bytes) -> str:
    return clean(from_docx.parse(data, MIB, 64 * MIB)[0])


def reason(data: bytes, max_inflated: int = 64 * MIB) -> str:
    with pytest.raises(RefusedError) as caught:
        from_docx.parse(data, MIB, max_inflated)
    return caught.value.reason


def handbook(document: Document) -> None:
    document.add_heading("Handbook", 0)
    document.add_heading("Limits", 1)
    document.add_paragraph("Twelve requests\ta second.\nNot more.")
    document.add_paragraph("first", style="List Bullet")
    document.add_paragraph("deeper", style="List Bullet 2")
    document.add_paragraph("one", style="List Number")
    document.add_paragraph("two", style="List Number")
    table = document.add_table(2, 2)
    for cell, text in zip(cells(table), ("a|b", "c", "1\n2", ""), strict=True):
        cell.text = text
    document.add_heading("End", 2)
    document.sections[0].header.paragraphs[0].text = "Header"
    document.sections[0].footer.paragraphs[0].text = "Footer"


def cells(table: Table) -> Iterator[_Cell]:
    for row in table.rows:
        yield from row.cells


def test_a_document_becomes_markdown_in_the_order_of_its_body() -> None:
    text = markdown(write_docx(handbook))
    assert text == (
        "# Handbook\n\n# Limits\n\nTwelve requests a second.\nNot more.\n\n- first\n- deeper\n1. one\n2. two\n\n"
        "| a\\|b | c |\n| --- | --- |\n| 1 2 |  |\n\n## End"
    )


def test_the_title_is_the_propertys_or_the_titles_of_the_text() -> None:
    assert from_docx.parse(write_docx(handbook, title="The title"), MIB, MIB)[1] == "The title"
    assert from_docx.parse(write_docx(handbook), MIB, MIB)[1] == "Handbook"
    assert from_docx.parse(write_docx(lambda document: document.add_paragraph("x")), MIB, MIB)[1] is None


PARAGRAPH = "<w:p><w:r><w:t>{}</w:t></w:r></w:p>"


def test_lists_by_numbering_keep_depth_and_count() -> None:
    item = (
        "<w:p><w:pPr><w:numPr><w:ilvl w:val='{}'/><w:numId w:val='1'/></w:numPr></w:pPr><w:r><w:t>{}</w:t></w:r></w:p>"
    )
    numbering = (
        b'<w:numbering xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">'
        b'<w:abstractNum w:abstractNumId="7"><w:lvl w:ilvl="0"><w:numFmt w:val="decimal"/></w:lvl>'
        b'<w:lvl w:ilvl="1"><w:numFmt w:val="lowerLetter"/></w:lvl></w:abstractNum>'
        b'<w:num w:numId="1"><w:abstractNumId w:val="7"/></w:num></w:numbering>'
    )
    items = [item.format(*one) for one in ((0, "a"), (1, "b"), (1, "c"), (0, "d"), (1, "e"))]
    file = with_part(body_docx(*items), "word/numbering.xml", numbering)
    assert markdown(file) == "1. a\n   1. b\n   2. c\n2. d\n   1. e"


def test_content_controls_insertions_and_text_boxes_are_text() -> None:
    control = f"<w:sdt><w:sdtPr/><w:sdtContent>{PARAGRAPH.format('controlled')}</w:sdtContent></w:sdt>"
    tracked = (
        "<w:p><w:r><w:t>kept </w:t></w:r><w:ins><w:r><w:t>inserted</w:t></w:r></w:ins>"
        "<w:del><w:r><w:delText>deleted</w:delText><w:t>deleted</w:t></w:r></w:del>"
        "<w:moveFrom><w:r><w:t>moved</w:t></w:r></w:moveFrom>"
        "<w:hyperlink><w:r><w:t> linked</w:t></w:r></w:hyperlink></w:p>"
    )
    box = f"<w:txbxContent>{PARAGRAPH.format('boxed')}</w:txbxContent>"
    boxed = (
        f"<w:p><w:r><w:t>anchor</w:t><mc:AlternateContent><mc:Choice Requires='wps'>{box}</mc:Choice>"
        f"<mc:Fallback>{box}</mc:Fallback></mc:AlternateContent></w:r></w:p>"
    )
    assert markdown(body_docx(control, tracked, boxed)) == "controlled\n\nkept inserted linked\n\nanchor\n\nboxed"


def test_special_signs_and_formulas_are_text() -> None:
    signs = (
        "<w:p><w:r><w:t>a</w:t><w:noBreakHyphen/><w:t>b</w:t><w:softHyphen/><w:t>c</w:t><w:cr/><w:t>d</w:t>"
        "<w:instrText>PAGE</w:instrText></w:r><m:oMath><m:r><m:t>x+1</m:t></m:r></m:oMath></w:p>"
    )
    assert markdown(body_docx(signs)) == "a-bc\ndx+1"


def test_merged_cells_are_empty_in_all_places_but_the_first() -> None:
    def cell(text: str, properties: str = "") -> str:
        return f"<w:tc><w:tcPr>{properties}</w:tcPr>{PARAGRAPH.format(text)}</w:tc>"

    rows = (
        cell("wide", "<w:gridSpan w:val='2'/>") + cell("c"),
        cell("tall", "<w:vMerge w:val='restart'/>") + cell("e") + cell("f"),
        cell("hidden", "<w:vMerge/>") + cell("h") + cell("i", "<w:gridSpan w:val='999999'/>"),
    )
    table = "<w:tbl>" + "".join(f"<w:tr>{row}</w:tr>" for row in rows) + "</w:tbl>"
    lines = markdown(body_docx(table)).split("\n")
    assert lines[0].startswith("| wide |  | c |")
    assert lines[2].startswith("| tall | e | f |")
    assert lines[3].startswith("|  | h | i |")
    assert len(lines[3]) < 500


def test_tables_within_tables_give_their_text_once() -> None:
    table = PARAGRAPH.format("innermost")
    for depth in range(40):
        table = f"<w:tbl><w:tr><w:tc>{table}<w:p/></w:tc><w:tc>{PARAGRAPH.format(depth)}</w:tc></w:tr></w:tbl>"
    text = markdown(body_docx(table))
    assert text.count("innermost") == 1
    assert text.split("\n\n") == ["innermost", *map(str, range(40))]


def test_footnotes_stand_at_the_end_and_are_referred_to() -> None:
    reference = "<w:p><w:r><w:t>Claim</w:t><w:footnoteReference w:id='2'/></w:r></w:p>"
    notes = (
        b'<w:footnotes xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">'
        b'<w:footnote w:id="0" w:type="separator"><w:p><w:r><w:t>-</w:t></w:r></w:p></w:footnote>'
        b'<w:footnote w:id="2"><w:p><w:r><w:t>Source.</w:t></w:r></w:p></w:footnote></w:footnotes>'
    )
    file = with_part(body_docx(reference, PARAGRAPH.format("After")), "word/footnotes.xml", notes)
    relation = (
        b'<Relationship Id="rIdN" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"'
        b' Target="footnotes.xml"/></Relationships>'
    )
    rels = part(file, RELATIONS).replace(b"</Relationships>", relation)
    assert markdown(with_part(file, RELATIONS, rels)) == "Claim[^2]\n\nAfter\n\n[^2]: Source."


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


COMPOUND_FILE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1_000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no zip",
        b"PK\x03\x04 and then nothing",
        zipped(readme=b"a zip file, but no document"),
        COMPOUND_FILE,
        write_docx(handbook)[:-3_000],
        write_docx(handbook)[3_000:],
        with_part(write_docx(handbook), DOCUMENT, b"<w:document"),
        with_part(write_docx(handbook), DOCUMENT, b"<other/>"),
        with_part(write_docx(handbook), DOCUMENT, b""),
        with_part(write_docx(handbook), "[Content_Types].xml", b"<Types/>"),
        with_part(write_docx(handbook), "_rels/.rels", b"<nothing/>"),
    ],
)
def test_what_is_no_document_is_broken(data: bytes) -> None:
    assert reason(data) == "broken_file"


def test_a_document_with_a_password_is_encrypted() -> None:
    assert reason(COMPOUND_FILE + "EncryptedPackage".encode("utf-16-le")) == "encrypted_file"


def test_entities_of_an_xml_bomb_are_not_expanded() -> None:
    """The billion laughs, in the text of a document."""
    lol = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    body = part(write_docx(handbook), DOCUMENT).partition(b"?>")[2].replace(b"Limits", b"&l9;")
    bomb = f'<?xml version="1.0"?><!DOCTYPE w:document [<!ENTITY l0 "lol">{lol}]>'.encode() + body
    assert reason(with_part(write_docx(handbook), DOCUMENT, bomb)) == "broken_file"


def test_no_external_entity_is_read() -> None:
    body = part(write_docx(handbook), DOCUMENT).partition(b"?>")[2].replace(b"Limits", b"&x;")
    sly = b'<?xml version="1.0"?><!DOCTYPE w:document [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + body
    assert reason(with_part(write_docx(handbook), DOCUMENT, sly)) == "broken_file"


def test_a_zip_bomb_is_refused_by_what_it_claims() -> None:
    file = with_part(write_docx(handbook), DOCUMENT, b" " * (40 * MIB))
    assert len(file) < 100_000
    assert reason(file) == "file_too_costly"
    many = zipped(**{f"{number}.xml": b"x" for number in range(10_001)})
    assert reason(many) == "file_too_costly"


def test_a_zip_bomb_that_claims_little_is_refused_by_what_it_inflates_to() -> None:
    file = with_part(write_docx(handbook), DOCUMENT, b" " * (40 * MIB))
    claimed = (40 * MIB).to_bytes(4, "little")
    assert file.count(claimed) == 2
    assert reason(file.replace(claimed, (1_000).to_bytes(4, "little"))) == "broken_file"


def test_only_as_much_xml_as_allowed_is_inflated() -> None:
    assert reason(write_docx(handbook), 10_000) == "file_too_costly"


def test_a_relation_to_a_part_that_is_not_there_is_passed_over() -> None:
    """As Word leaves behind, with the target NULL."""
    rels = part(write_docx(handbook), RELATIONS)
    kind = b"http://schemas.openxmlformats.org/officeDocument/2006/relationships/image"
    dangling = b'<Relationship Id="rIdX" Type="%s" Target="NULL"/></Relationships>' % kind
    file = with_part(write_docx(handbook), RELATIONS, rels.replace(b"</Relationships>", dangling))
    assert markdown(file).startswith("# Handbook")


def test_a_document_in_the_strict_form_of_the_standard_is_read() -> None:
    file = write_docx(handbook)
    for name in ("_rels/.rels", RELATIONS, DOCUMENT, "word/styles.xml", "word/numbering.xml"):
        content = part(file, name)
        for kind in (b"officeDocument/2006/relationships", b"wordprocessingml/2006/main"):
            strict = b"http://purl.oclc.org/ooxml/" + kind.replace(b"/2006", b"")
            content = content.replace(b"http://schemas.openxmlformats.org/" + kind, strict)
        file = with_part(file, name, content)
    assert markdown(file) == markdown(write_docx(handbook))


def test_pictures_are_not_inflated() -> None:
    file = with_part(write_docx(handbook), "docProps/thumbnail.jpeg", b" " * (40 * MIB))
    assert markdown(file).startswith("# Handbook")


def test_more_text_than_allowed_is_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        from_docx.parse(write_docx(handbook), 50, MIB)
    assert caught.value.reason == "text_too_large"
