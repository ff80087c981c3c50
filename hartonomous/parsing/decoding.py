"""Bytes to text: by a byte order mark, by what an HTML page says of itself, as UTF-8, or else as windows-1252."""

from __future__ import annotations

import codecs
import re

from hartonomous.parsing.refusal import RefusedError

# UTF-32's mark begins with UTF-16's, so it is tried first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CHARSET = re.compile(rb"""<meta[^>]{0,256}?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{1,40})""", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"""\A\s*<\?xml[^>]{0,256}?encoding\s*=\s*["']([A-Za-z0-9_.:-]{1,40})["']""")
_CHARSET_WITHIN = 4_096

# What browsers read under these names (https://encoding.spec.whatwg.org/#names-and-labels).
_READ_AS = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
}
_CHARSETS = re.compile(r"cp\d+|iso8859-\d+|koi8-[ru]|mac-\w+|gb18030|big5hkscs|euc_jp|iso2022_jp|tis-620")

# Control characters that no text file has, and with them the bytes that windows-1252 does not have.
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_NOT_WINDOWS_1252 = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f\x81\x8d\x8f\x90\x9d]")
_BINARY_SHARE = 0.01
# A UTF-8 text may hold so many broken characters for each whole one beyond ASCII.
_BROKEN_SHARE = 0.1


def decode(data: bytes) -> str:
    """Return the text of `data`: by its byte order mark, as UTF-8, or else as windows-1252.

    Raises RefusedError when `data` is no text.
    """
    marked = _by_mark(data)
    if marked is not None:
        return marked
    text = _utf8(data)
    controls = _CONTROLS if text is not None else _NOT_WINDOWS_1252
    if len(controls.findall(data)) > len(data) * _BINARY_SHARE or (text is None and b"\x00" in data):
        raise RefusedError("not_text")
    return data.decode("cp1252", "replace") if text is None else text


def decode_html(data: bytes) -> str:
    """Return the text of an HTML page: by its byte order mark, by the charset that it names, or as `decode` does."""
    marked = _by_mark(data)
    if marked is not None:
        return marked
    charset = _charset(data[:_CHARSET_WITHIN])
    return decode(data) if charset is None or _is_utf8(data) else data.decode(charset, "replace")


def _by_mark(data: bytes) -> str | None:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    return None


def _is_utf8(data: bytes) -> bool:
    """Whether `data` is UTF-8 without a flaw, which text in another encoding than ASCII never is."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _utf8(data: bytes) -> str | None:
    """Return `data` as UTF-8, a few broken characters replaced; None when it is something else."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    whole = len(text) - len(text.encode("ascii", "ignore")) - broken
    return text if broken <= whole * _BROKEN_SHARE else None


def _charset(head: bytes) -> str | None:
    """Return the codec for the charset that an HTML page names, None when it names none that is known."""
    named = _CHARSET.search(head) or _XML_ENCODING.search(head)
    if named is None:
        return None
    try:
        name = codecs.lookup(named[1].decode("ascii")).name
    except LookupError:
        return None
    name = _READ_AS.get(name, name)
    return name if _CHARSETS.fullmatch(name) else None
