"""Hits made ready for a prompt: no text twice, and what stands together in a document in one piece.

1. A near-duplicate goes: a chunk all of whose words stand in a better one of the same document in nearly the same
   order (three in a row at a time: it is contained, or the Jaccard similarity is at least 0.8). A number, a code or a
   name that only the worse one has keeps it: "weighs 5 kg" is no duplicate of "weighs 7 kg".
2. Neighbours and overlapping chunks become one passage, its text exactly the document's from the first one's start to
   the last one's end. Better hits grow first, and a passage grows to `MERGED_TOKENS` at most: a prompt holds whole
   passages, and in an endless one the best chunk might be the part that is cut off, or leave no room for others.
3. Where that bound, or a chunk that was not found, keeps two overlapping ones apart, the worse one loses the overlap.

Only chunks of one version of a document meet, known by its `content_hash`. All of it is pure.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

from msgspec import structs

from hartonomous.clients.points import FoundChunk
from hartonomous.core.tokens import estimate_tokens
from hartonomous.pipelines.questions import ScoredHit

MERGED_TOKENS = 1_024
"""How long a merged passage may be, in estimated tokens: four chunks of the usual size."""

_SHINGLE = 3
_SIMILAR = 0.8
_WORD = re.compile(r"\w+")
_version = attrgetter("chunk.document_id", "chunk.content_hash")

_Shingle = tuple[str, ...]


def merge(hits: Sequence[ScoredHit], *, max_tokens: int = MERGED_TOKENS) -> list[ScoredHit]:
    """Return the hits without near-duplicates, neighbouring and overlapping ones merged; `hits` are not changed.

    A merged hit has the first chunk's id, page and headings, the best score of each kind, and the place of the best
    of its parts. No chunk lies in another one of its version; so it is with all that ingest makes.
    """
    if len(set(map(_version, hits))) == len(hits):
        return list(hits)
    documents: dict[tuple[str, str], list[_Passage]] = {}
    for place, hit in _distinct(hits):
        passages = documents.setdefault(_version(hit), [])
        _place(passages, _Passage(hit.chunk, hit.chunk.chunk_index, place, hit.score, hit.scores), max_tokens)
    kept = [passage for passages in documents.values() for passage in _apart(passages)]
    kept.sort(key=lambda passage: passage.place)
    return [ScoredHit(passage.chunk, passage.score, **passage.scores) for passage in kept]


@dataclass(slots=True)
class _Passage:
    """Chunks of one document in a row, as one: `chunk` begins as the first of them, `last` is the last one's index."""

    chunk: FoundChunk
    last: int
    place: int
    score: float
    scores: dict[str, float]


def _place(passages: list[_Passage], new: _Passage, limit: int) -> None:
    """Put a passage among those of its version, which are in the document's order, and merge it with its neighbours.

    The better placed of the two neighbours comes first: both may not fit.
    """
    at = bisect_left(passages, new.chunk.chunk_index, key=lambda passage: passage.chunk.chunk_index)
    around = sorted(passages[max(0, at - 1) : at + 1], key=lambda passage: passage.place)
    for other in around:
        first, second = sorted((other, new), key=lambda passage: passage.chunk.chunk_index)
        chunk = _joined(first, second)
        if chunk is None or (chunk.text != first.chunk.text and estimate_tokens(chunk.text) > limit):
            continue
        passages.remove(other)
        new = _Passage(
            chunk,
            max(first.last, second.last),
            min(first.place, second.place),
            max(first.score, second.score),
            _best_of_each(first.scores, second.scores),
        )
    passages.insert(bisect_right(passages, new.chunk.chunk_index, key=lambda passage: passage.chunk.chunk_index), new)


def _joined(first: _Passage, second: _Passage) -> FoundChunk | None:
    """Return the text of both in one chunk; None when something unknown may stand between them."""
    before, after = first.chunk, second.chunk
    gap = after.start - before.end
    if gap > 0 and (first.last + 1 != after.chunk_index or gap != len(after.gap or "")):
        return None
    text = before.text + (after.gap or "" if gap > 0 else "") + after.text[max(0, -gap) :]
    return structs.replace(before, text=text, end=before.start + len(text))


def _best_of_each(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {kind: max(scores[kind] for scores in (one, other) if kind in scores) for kind in {**one, **other}}


def _apart(passages: Iterable[_Passage]) -> list[_Passage]:
    """Return the passages of one version, the worse of two that overlap cut where the better one begins or ends."""
    kept: list[_Passage] = []
    for passage in sorted(passages, key=lambda passage: passage.place):
        chunk = passage.chunk
        start, end = chunk.start, chunk.end
        for other in (better.chunk for better in kept):
            if other.chunk_index < chunk.chunk_index:
                start = max(start, other.end)
            else:
                end = min(end, other.start)
        cut = _cut(chunk, start, end)
        if cut is not None:
            kept.append(replace(passage, chunk=cut))
    return kept


def _cut(chunk: FoundChunk, start: int, end: int) -> FoundChunk | None:
    """Return a chunk between two offsets of its document, without blanks where it was cut; None if nothing is left."""
    if (start, end) == (chunk.start, chunk.end):
        return chunk
    text = chunk.text[: max(0, end - chunk.start)]
    if end < chunk.end:
        text = text.rstrip()
    rest = text[start - chunk.start :]
    if start > chunk.start:
        rest = rest.lstrip()
    start = chunk.start + len(text) - len(rest)
    return structs.replace(chunk, text=rest, start=start, end=start + len(rest)) if rest else None


@dataclass(slots=True)
class _Known:
    """What was kept of one version: which chunks have a shingle, how many each chunk has, and its words."""

    having: dict[_Shingle, list[int]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    words: list[frozenset[str]] = field(default_factory=list)

    def says(self, text: str) -> bool:
        """Whether one of the chunks says what this text says; if not, the text is one of them from now on.

        Looked up shingle by shingle: the time is that of the words, not of all pairs of chunks.
        """
        found = _WORD.findall(text)
        # Numbers, codes, names; the first words of sentences among them do no harm.
        telling = {word.lower() for word in found if not (word.isalpha() and word.islower())}
        words = [word.lower() for word in found]
        shingles = _shingles(words)
        shared = Counter(other for shingle in shingles for other in self.having.get(shingle, ()))
        for other, common in shared.items():
            contained = common == len(shingles)
            jaccard = common / (len(shingles) + self.sizes[other] - common)
            if (contained or jaccard >= _SIMILAR) and telling <= self.words[other]:
                return True
        for shingle in shingles:
            self.having.setdefault(shingle, []).append(len(self.sizes))
        self.sizes.append(len(shingles))
        self.words.append(frozenset(words))
        return False


def _distinct(hits: Iterable[ScoredHit]) -> list[tuple[int, ScoredHit]]:
    """Return the hits that say something which no better one of their version says, each with its place."""
    known: dict[tuple[str, str], _Known] = {}
    return [
        (place, hit)
        for place, hit in enumerate(hits)
        if not known.setdefault(_version(hit), _Known()).says(hit.chunk.text)
    ]


def _shingles(words: Sequence[str]) -> set[_Shingle]:
    """Return every three words in a row, or all words where there are fewer."""
    rows = set(zip(*(words[start:] for start in range(_SHINGLE)), strict=False))
    return rows or ({tuple(words)} if words else set())
