"""The XML of a DOCX, inflated within bounds: a zip file may claim any size, and inflate to any other.

The sizes that the zip file's directory claims are checked first, then each member is inflated in steps, as far as it
claimed. What is handed on is a new zip file in memory of what was inflated; pictures are empty in it.
"""

from __future__ import annotations

import io
import posixpath
import zipfile
import zlib
from typing import Final

from lxml import etree

from hartonomous.parsing.refusal import RefusedError

_MAX_MEMBERS: Final = 10_000
# Beyond so many bytes, a file may inflate to so many times its size; WordprocessingML has 10 to 40, rarely 100.
_RATIO_FROM: Final = 8 * 1024 * 1024
_MAX_RATIO: Final = 150
_STEP: Final = 256 * 1024
# A compound file, as Word wrote until 2003, and as it still wraps around an encrypted document; within one, the name of
# the stream that holds it.
_COMPOUND_FILE: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ENCRYPTED_STREAM: Final = "EncryptedPackage".encode("utf-16-le")
_ENCRYPTED_FLAG: Final = 1
# What the Open Packaging Conventions allow; `zipfile` inflates others without a bound.
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

# The names of the standard's strict form, and those of the transitional one, which python-docx knows.
_STRICT: Final = (
    (
        b"http://purl.oclc.org/ooxml/officeDocument/relationships",
        b"http://schemas.openxmlformats.org/officeDocument/2006/relationships",
    ),
    (
        b"http://purl.oclc.org/ooxml/wordprocessingml/main",
        b"http://schemas.openxmlformats.org/wordprocessingml/2006/main",
    ),
    (
        b"http://purl.oclc.org/ooxml/officeDocument/math",
        b"http://schemas.openxmlformats.org/officeDocument/2006/math",
    ),
)


def safe_package(data: bytes, max_inflated: int) -> io.BytesIO:
    """Return a zip file that holds the XML of `data`, at most `max_inflated` bytes in all.

    Raises RefusedError.
    """
    if data.startswith(_COMPOUND_FILE):
        raise RefusedError("encrypted_file" if _ENCRYPTED_STREAM in data else "broken_file")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _copied(archive, len(data), max_inflated)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, OSError):
        raise RefusedError("broken_file") from None


def _copied(archive: zipfile.ZipFile, size: int, max_inflated: int) -> io.BytesIO:
    members = list({member.filename: member for member in archive.infolist()}.values())
    _check_claims(members, size, max_inflated)
    names = {member.filename for member in members}
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as copy:
        for member in members:
            content = _inflated(archive, member) if _is_xml(member) else b""
            for strict, transitional in _STRICT:
                content = content.replace(strict, transitional)
            if member.filename.endswith(".rels"):
                content = _without_dangling(member.filename, content, names)
            copy.writestr(zipfile.ZipInfo(member.filename), content)
    package.seek(0)
    return package


def _check_claims(members: list[zipfile.ZipInfo], size: int, max_inflated: int) -> None:
    if len(members) > _MAX_MEMBERS:
        raise RefusedError("file_too_costly")
    if any(member.flag_bits & _ENCRYPTED_FLAG for member in members):
        raise RefusedError("encrypted_file")
    if any(member.compress_type not in _METHODS for member in members):
        raise RefusedError("broken_file")
    claimed = sum(member.file_size for member in members if _is_xml(member))
    if claimed > max_inflated or claimed > max(_RATIO_FROM, size * _MAX_RATIO):
        raise RefusedError("file_too_costly")


def _is_xml(member: zipfile.ZipInfo) -> bool:
    return member.filename.lower().endswith((".xml", ".rels"))


def _without_dangling(name: str, content: bytes, names: set[str]) -> bytes:
    """Return a part's relationships without those to parts that are not there: Word passes over them."""
    try:
        relations = etree.fromstring(content, etree.XMLParser(resolve_entities=False))
    except etree.XMLSyntaxError:
        return content
    base = posixpath.dirname(posixpath.dirname(name))
    for relation in list(relations):
        target = posixpath.normpath(posixpath.join("/", base, relation.get("Target", "")))
        if relation.get("TargetMode") != "External" and target.lstrip("/") not in names:
            relations.remove(relation)
    return bytes(etree.tostring(relations))


def _inflated(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return the content of a member; `zipfile` raises BadZipFile where it is not of the size that was claimed.

    It is read in steps, since all at once as much is inflated as there is, and cut to that size afterwards.
    """
    with archive.open(member) as stream:
        return b"".join(iter(lambda: stream.read(_STEP), b""))
