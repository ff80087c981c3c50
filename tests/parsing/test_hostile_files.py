"""Broken and hostile files through the real processes: one refused file each, and a parser that serves the next."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parsing.conftest import MIB, MakeParser, refusal, resident_bytes
from tests.parsing.docx_writer import DOCUMENT, part, with_part, write_docx
from tests.parsing.pdf_writer import content, locked_pdf, pages_pdf, text_pdf

LIMITED = {"memory_bytes": 256 * MIB, "timeout_s": 20.0, "max_text_bytes": MIB // 4}


def deflated(unit: bytes, size: int) -> bytes:
    """Return `size` bytes of `unit` after `unit`, compressed, but for the checksum, which nobody looks at."""
    compress = zlib.compressobj(9)
    first = compress.compress(unit) + compress.flush(zlib.Z_FULL_FLUSH)
    again = compress.compress(unit) + compress.flush(zlib.Z_FULL_FLUSH)
    return first + again * (size // len(unit) - 1) + compress.flush()


def pdf_bomb() -> bytes:
    return pages_pdf([deflated(b" " * MIB, 4096 * MIB)], filters=b"/Filter /FlateDecode")


def nested_pdf_bomb() -> bytes:
    twice = zlib.compress(deflated(b" " * MIB, 4096 * MIB), 9)
    return pages_pdf([twice], filters=b"/Filter [/FlateDecode /FlateDecode]")


def pdf_text_bomb() -> bytes:
    return pages_pdf([deflated(content("hello world") * 1_000, 2 * MIB)], filters=b"/Filter /FlateDecode")


def docx_bomb() -> bytes:
    return with_part(write_docx(lambda document: document.add_paragraph("x")), DOCUMENT, b" " * (80 * MIB))


def docx_of_elements() -> bytes:
    """Within the ratio that is allowed, and too much for the memory once it is a tree."""
    file = write_docx(lambda document: document.add_paragraph("MARK"))
    paragraphs = b"".join(b"<w:p w:x='%d'/>" % (number * 7919) for number in range(1_500_000))
    return with_part(file, DOCUMENT, part(file, DOCUMENT).replace(b"<w:sectPr", paragraphs + b"<w:sectPr", 1))


@pytest.mark.parametrize(
    ("make", "kind", "code"),
    [
        (lambda: text_pdf("x" * 5_000)[:2_000], "pdf", "broken_file"),
        (locked_pdf, "pdf", "encrypted_file"),
        (lambda: text_pdf(""), "pdf", "no_text"),
        (pdf_bomb, "pdf", "file_too_costly"),
        (nested_pdf_bomb, "pdf", "file_too_costly"),
        (pdf_text_bomb, "pdf", "text_too_large"),
        (docx_bomb, "docx", "file_too_costly"),
        (docx_of_elements, "docx", "file_too_costly"),
        (lambda: b"PK\x03\x04", "docx", "broken_file"),
        (lambda: "<div>" * 100_000, "html", "broken_file"),
        (lambda: "<nav>Menu</nav>", "html", "no_text"),
        (lambda: "<p>some text</p>" * 100_000, "html", "text_too_large"),
        (lambda: b"<b>x</b>" * 4_000_000, "html", "file_too_costly"),
        (lambda: bytes(1_000), "text", "broken_file"),
        (lambda: b" \n ", "markdown", "no_text"),
        (lambda: "ü" * MIB, "markdown", "text_too_large"),
    ],
)
async def test_a_hostile_file_is_one_refused_file(
    make_parser: MakeParser, make: Callable[[], str | bytes], kind: str, code: str
) -> None:
    parser = make_parser(**LIMITED)
    data = await asyncio.to_thread(make)
    assert await refusal(parser, data, kind) == code  # type: ignore[arg-type]  # a literal among the parameters
    assert (await parser.parse("<p>Next</p>", "html", 30)).text == "Next"


async def test_a_hundred_megabytes_of_html_end_by_a_limit_and_cost_the_server_nothing(
    make_parser: MakeParser, tmp_path: Path
) -> None:
    page = tmp_path / "large.html"
    with page.open("wb") as file:
        for number in range(1_000):
            file.write(b"<div><p>Paragraph %d, with <b>some</b> text.</p></div>\n" % number * 2_000)
    assert page.stat().st_size > 100 * MIB
    parser = make_parser(memory_bytes=512 * MIB, timeout_s=60.0)
    before = resident_bytes("self")
    assert await refusal(parser, page, "html") == "file_too_costly"
    assert resident_bytes("self") - before < 4 * MIB
    assert (await parser.parse("<p>Next</p>", "html", 30)).text == "Next"


async def test_a_file_that_takes_too_long_is_stopped(make_parser: MakeParser) -> None:
    parser = make_parser(timeout_s=1.0)
    assert await refusal(parser, "<form><p>x" * 90_000, "html") == "parsing_timeout"
    assert (await parser.parse("<p>Next</p>", "html", 30)).text == "Next"


async def test_more_bytes_than_a_worker_could_hold_are_not_even_sent(make_parser: MakeParser) -> None:
    parser = make_parser(memory_bytes=256 * MIB)
    assert await refusal(parser, bytes(129 * MIB), "html") == "file_too_costly"
    assert not parser.pids


async def test_ordinary_files_need_no_more_than_the_least_memory_that_can_be_set(make_parser: MakeParser) -> None:
    parser = make_parser(memory_bytes=256 * MIB)
    sentence = "This is a sentence of an article that says something about the matter. "
    page = "<html><body><div><p>" + "</p><p>".join([sentence * 5] * 400) + "</p></div></body></html>"
    assert len((await parser.parse(page, "html", 30)).text) > 100_000
    assert len((await parser.parse(text_pdf(*["some text\n" * 50] * 200), "pdf", 30)).pages) == 199
    paragraphs = write_docx(lambda document: [document.add_paragraph(sentence * 5) for _ in range(500)])
    assert len((await parser.parse(paragraphs, "docx", 30)).text) > 100_000
