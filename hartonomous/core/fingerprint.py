"""Identities by hash: of a document, its version, its chunks, and of the embedding that made the vectors.

Every hash is SHA-256 over length-prefixed parts behind a tag that names its kind, so no two different inputs run
into each other by concatenation, and a hash of one kind is never one of another. All of them are pure functions of
their arguments: another process, or the same one after a crash, makes the same ids, which is why writing a document
twice is writing it once.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

# Hexadecimal digits of a hash: 128 bits.
_HALF = 32


class EmbeddingFingerprint(NamedTuple):
    """What decides whether two vectors may be compared: the model, its dimension, and the prefixes put before texts."""

    model: str
    dimension: int
    query_prefix: str
    document_prefix: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, as a collection stores them."""
        return self._asdict()

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> EmbeddingFingerprint:
        """Read what `as_dict` wrote, unknown keys aside; raise ValueError for anything else."""
        try:
            found = cls(**{name: value[name] for name in cls._fields})
        except KeyError as error:
            raise ValueError(f"the embedding fingerprint lacks {error.args[0]!r}") from error
        texts = (found.model, found.query_prefix, found.document_prefix)
        if type(found.dimension) is not int or not all(isinstance(text, str) for text in texts):
            raise ValueError("the embedding fingerprint has a field of the wrong type")
        return found

    def digest(self) -> str:
        """Return the SHA-256 of the fields, 64 hexadecimal digits."""
        return _hash("fingerprint", self.model, str(self.dimension), self.query_prefix, self.document_prefix)


def document_id(source: str | None, content: str | bytes) -> str:
    """Return the id of a document that came without one: the hash of its source, or where it has none of its content.

    A text and its UTF-8 bytes have the same id.
    """
    return _hash("document-by-source", source) if source else _hash("document-by-content", content)


def content_hash(
    text: str,
    *,
    format: str,  # noqa: A002 (API.md's own word)
    max_tokens: int,
    overlap_tokens: int,
    fingerprint: EmbeddingFingerprint,
    pages: Sequence[int] = (),
) -> str:
    """Return the hash of what is embedded: when it changes, a document must be chunked and embedded anew.

    Blanks at the end of the text do not count. They are in no chunk, so a text that is put together from its chunks
    has the hash of the one that was sent.
    """
    parts = [text.rstrip(), format, str(max_tokens), str(overlap_tokens), fingerprint.digest()]
    return _hash("content", *parts, *map(str, pages))


def cut_hash(content_hash: str, spans: Iterable[tuple[int, int]]) -> str:
    """Return the hash of a content as it is cut into these spans: its first half follows from the content alone.

    The same text is not always cut in the same way: the service that counts its tokens, or refuses a chunk as too
    long, may say another thing the next time. Chunks of two cuts make no document.
    """
    return content_hash[:_HALF] + _hash("cut", *(f"{start}-{end}" for start, end in spans))[:_HALF]


def is_same_content(one: str, other: str) -> bool:
    """Whether two hashes are of the same content, however it is cut."""
    return one[:_HALF] == other[:_HALF]


def attributes_hash(title: str | None, source: str | None, metadata: Mapping[str, Any] | None) -> str:
    """Return the hash of what is stored beside the text: when only this changes, no embedding call is needed.

    The order of keys in `metadata` does not count. Raises ValueError for NaN and infinities, TypeError for what is
    not JSON.
    """
    value = [title, source, metadata or {}]
    return _hash("attributes", json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False))


def version(content_hash: str, attributes_hash: str) -> str:
    """Return the version of a document as the caller sees it, `sha256:` and 64 hexadecimal digits.

    It does not depend on how the content is cut.
    """
    return "sha256:" + _hash("version", content_hash[:_HALF], attributes_hash)


def point_id(document_id: str, content_hash: str, index: int) -> str:
    """Return the id of a chunk's point: a UUID of version 8 (RFC 9562, 5.8) made of two SHA-256.

    Its first half (60 bits beside the version) follows from the document alone, so that a document keeps its place in
    the order of ids whatever its text becomes; the rest from the content and the chunk's number, from 0.
    """
    chunk = int(_hash("point", document_id, content_hash, str(index))[:16], 16)
    value = _document_half(document_id) | chunk & ~(0x3 << 62) | 0x2 << 62  # the variant
    digits = f"{value:032x}"  # a `uuid.UUID` takes 3 µs more, which ingests feel
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


@lru_cache(1024)
def _document_half(document_id: str) -> int:
    """Return the first half of a document's points' ids, with the version."""
    document = int(_hash("point-document", document_id)[:16], 16)
    return (document & ~(0xF << 12) | 0x8 << 12) << 64


def document_start(point_id: str, *, after: bool = False) -> str:
    """Return the lowest id that a point of the same document can have; `after`: the lowest one above all of them."""
    document = (uuid.UUID(point_id).int >> 64) + after
    return str(uuid.UUID(int=min(document, (1 << 64) - 1) << 64))


def _hash(*parts: str | bytes) -> str:
    """Hash the parts, each behind its length in bytes (8 bytes, big-endian)."""
    state = sha256()
    for part in parts:
        # A lone surrogate cannot come in by JSON, but a file's parser may make one: it must not raise here.
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "big"))
        state.update(data)
    return state.hexdigest()
