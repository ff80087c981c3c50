"""What a file is called: the id and the source of its document, and how a name is shown on a terminal.

The path of a document begins with the name of the PATH that was given, then the way down from there, with slashes:
`handbook/limits/cpu.md` for `ingest /srv/handbook`, from wherever it is sent. A path that fits is its document's id;
one that is too long or holds what an id may not have is shortened or cleaned, and a hash of the true path keeps it
apart from all others.
"""

from __future__ import annotations

import os
import re
from hashlib import sha256
from typing import NamedTuple

ID_CHARS = 256
"""The longest document id, in code points."""

_DIGEST_CHARS = 32
# The longest name of an uploaded file.
_SOURCE_CHARS = 1_024
# Controls, line ends, half surrogates (how Python shows bytes that are no UTF-8), and the backslash: the server takes
# it for a separator in the name of an uploaded file.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\\\]")
# What steers a terminal in addition to ASCII's controls, or turns the direction of its text: of a regular expression.
STEERING = "\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"
"""Characters that may stand in JSON as they are and on a terminal may not, as the inside of a class of `re`."""

_STEERS = re.compile(f"[\x00-\x1f{STEERING}\ud800-\udfff]")


class DocumentName(NamedTuple):
    """The id and the source of a document."""

    id: str
    source: str


def document_name(path: str) -> DocumentName:
    """Return the names of the document at `path`, a relative path as the operating system gives it."""
    source = _UNFIT.sub("_", path)[:_SOURCE_CHARS]
    if source == path and len(path) <= ID_CHARS:
        return DocumentName(path, path)
    digest = sha256(os.fsencode(path)).hexdigest()[:_DIGEST_CHARS]
    return DocumentName(f"{source[: ID_CHARS - _DIGEST_CHARS - 1]}~{digest}", source)


def is_ours(name: DocumentName) -> bool:
    """Whether an id and a source are a pair that `document_name` makes: others' documents are never deleted."""
    if {"", ".", ".."}.intersection(name.source.split("/")):
        return False
    if name.id == name.source:
        return True
    head, mark, digest = name.id.rpartition("~")
    return bool(mark and head) and len(digest) == _DIGEST_CHARS and name.source.startswith(head)


def printable(text: str) -> str:
    """Return a text of a file system or a server with everything escaped that would steer a terminal."""
    return _STEERS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def readable(text: str) -> str:
    """Return what is `printable` of a text of several lines: their ends and tabs stay."""
    return _STEERS.sub(lambda match: match[0] if match[0] in "\n\t" else printable(match[0]), text)
