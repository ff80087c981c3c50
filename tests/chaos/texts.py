"""What the documents of a chaos run say: each version tells its own number in text, title and metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from zlib import crc32

COLLECTIONS = ("chaos-a", "chaos-b")
CHUNKING = {"max_tokens": 64, "overlap_tokens": 0}
QUESTIONS = (
    "Which part tells of the valve?",
    "What does the document say of the pump and the motor?",
    "cable document part",
    "In which round was the gasket changed?",
    "bearing piston round",
)

_TOPICS = ("valve", "pump", "motor", "cable", "gasket", "bearing", "piston", "filter")
_ROUND = re.compile(r"in round (\d+)\.")


@dataclass(frozen=True, slots=True)
class Version:
    """What a document is at one time: the number of its text, and the number of what stands beside it."""

    text: int
    title: int

    def __str__(self) -> str:
        """Return it as reports show it."""
        return f"text {self.text} title {self.title}"


@dataclass(frozen=True, slots=True)
class Name:
    """A document of a collection."""

    collection: str
    id: str

    def __str__(self) -> str:
        """Return it as reports show it."""
        return f"{self.collection}/{self.id}"

    @property
    def path(self) -> str:
        """Where it is read and deleted."""
        return f"/rag/collections/{self.collection}/documents/{self.id}"


def text_of(name: Name, number: int) -> str:
    """Return one text of a document, of two to seven chunks."""
    seed = crc32(f"{name.collection} {name.id} {number}".encode())
    about = (_TOPICS[(seed + part) % len(_TOPICS)] for part in range(2 + seed % 6))
    return "\n\n".join(
        f"Part {part} of document {name.id} tells of its {topic} in round {number}." for part, topic in enumerate(about)
    )


def body_of(name: Name, version: Version) -> dict[str, Any]:
    """Return the document as an ingest takes it."""
    title = f"Title {version.title}"
    return {
        "id": name.id,
        "text": text_of(name, version.text),
        "title": title,
        "metadata": {"name": name.id, "title": title, "text": version.text},
    }


def rounds_in(text: str) -> set[int]:
    """Return the numbers of the texts that a piece of text is from."""
    return {int(number) for number in _ROUND.findall(text)}


def version_of(name: Name, text: str, title: str | None, metadata: dict[str, Any]) -> Version | None:
    """Return the version that a document or a piece of it belongs to, None where it is none or a mix of several.

    A piece may be too short to tell its number: where a service says that the input is too large, chunks are cut again.
    """
    known: Any = metadata.get("text")
    right = metadata == {"name": name.id, "title": title, "text": known} and isinstance(known, int)
    if not right or not rounds_in(text) <= {known} or title is None or not title.startswith("Title "):
        return None
    return Version(known, int(title.removeprefix("Title ")))
