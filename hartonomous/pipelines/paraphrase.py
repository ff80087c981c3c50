"""Support for sentences that say in other words what a source says, by the similarity of embeddings.

Asked about are the sentences of an answer that claim something, lack support by their words, and have no number, name
or code that their source lacks: similar sentences differ in just those. They and the sentences of the sources (the
ones with most words in common first, as many as the limit leaves room for) go to the embedding service in one call,
where they fit one. Support is `2 * (cosine - 0.37)`, within 0..1: it reaches the threshold of 0.5 at a cosine of 0.62.
Measured with all-MiniLM-L6-v2 on 20 sentences each: of paraphrases with hardly a word in common 13 reach it, of other
statements about the same thing 1, of unrelated sentences none. An opposite ("does not cover") is similar, too.

The text of an answer has been given out by then: a row that gains support names its source in `markers`, the text has
no marker for it, and the source is not among the citations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

from msgspec import structs

from hartonomous.clients.embedding import EmbeddingClient, Vector
from hartonomous.core.call import Call
from hartonomous.core.citations import SentenceGrounding
from hartonomous.core.grounding import THRESHOLD, Grounding
from hartonomous.core.sentences import sentences
from hartonomous.core.terms import terms

_UNRELATED = 0.37  # the cosine that counts as no support
_SLOPE = 2.0
_MOST_TEXTS = 256  # of one answer; a service with small batches takes several calls for them
_MOST_ASKED = 32  # sentences of an answer
_LONGEST = 1_000  # characters of a sentence of a source: beyond that it is a table or a list
_MARKER = re.compile(r"\s*\[[0-9]+\]")


@dataclass(slots=True, frozen=True)
class _Doubt:
    """A row whose words have no support, and the sources (from 0) that have all of its numbers, names and codes."""

    row: int
    text: str
    sources: frozenset[int]


@dataclass(slots=True, frozen=True)
class _Candidate:
    """A sentence of a source (from 0)."""

    source: int
    text: str


class Paraphrases:
    """Raises the support of sentences that say a source's content in other words."""

    def __init__(self, embedding: EmbeddingClient) -> None:
        self._embedding = embedding

    async def support(
        self, grounding: Sequence[SentenceGrounding], answer: str, sources: Sequence[str], call: Call
    ) -> list[SentenceGrounding]:
        """Return the rows of `answer`, those with support by similarity raised; marker n is `sources[n - 1]`.

        Raises what the embedding client raises: the rows are as good as they were.
        """
        rows = list(grounding)
        doubts = _doubts(rows, answer, sources)
        room = max(min(_MOST_TEXTS, self._embedding.batch_size) - len(doubts), _MOST_TEXTS // 8)
        candidates = _candidates(doubts, sources)[:room]
        if not candidates:
            return rows
        texts = [*(doubt.text for doubt in doubts), *(candidate.text for candidate in candidates)]
        embedded = await self._embedding.embed_documents(texts, call)
        vectors = [_unit(vector) for vector in embedded.vectors]
        known = list(zip(candidates, vectors[len(doubts) :], strict=True))
        for doubt, vector in zip(doubts, vectors, strict=False):
            rows[doubt.row] = _raised(rows[doubt.row], doubt, vector, known)
        return rows


def _doubts(rows: Sequence[SentenceGrounding], answer: str, sources: Sequence[str]) -> list[_Doubt]:
    """Return the sentences to ask about."""
    weak = [index for index, row in enumerate(rows) if row.support < THRESHOLD]
    judge = Grounding(sources) if weak else None
    found: list[_Doubt] = []
    for index in weak:
        text = _MARKER.sub("", answer[rows[index].start : rows[index].end])
        verdict = judge.judge(text) if judge else None
        if verdict is None or not verdict.claims:
            continue
        able = frozenset(range(len(sources))).intersection(*verdict.hard)
        if able and not text.lstrip().startswith("#"):
            found.append(_Doubt(index, text, able))
    return found[:_MOST_ASKED]


def _candidates(doubts: Sequence[_Doubt], sources: Sequence[str]) -> list[_Candidate]:
    """Return the sentences of the sources that may support one, those with most words in common first."""
    wanted = {form for doubt in doubts for term in terms(doubt.text) for form in term.forms}
    able = {source for doubt in doubts for source in doubt.sources}
    found = [
        _Candidate(number, source[start:end])
        for number, source in enumerate(sources)
        if number in able
        for start, end in sentences(source)
        if end - start <= _LONGEST and not source.startswith("#", start)
    ]
    return sorted(found, key=lambda candidate: -_overlap(candidate.text, wanted))


def _overlap(text: str, wanted: set[str]) -> int:
    return sum(not wanted.isdisjoint(term.forms) for term in terms(text))


def _unit(vector: Vector) -> list[float]:
    length = math.sqrt(math.fsum(value * value for value in vector))
    return [value / length for value in vector]


def _raised(
    row: SentenceGrounding, doubt: _Doubt, vector: Sequence[float], known: Sequence[tuple[_Candidate, Sequence[float]]]
) -> SentenceGrounding:
    """Return a row with the support by the most similar sentence, if that is more than it has."""
    best, source = 0.0, -1
    for candidate, other in known:
        if candidate.source in doubt.sources:
            support = calibrated(sum(map(mul, vector, other)))
            if support > best:
                best, source = support, candidate.source
    if best <= row.support:
        return row
    return structs.replace(row, support=round(best, 4), markers=[source + 1] if best >= THRESHOLD else row.markers)


def calibrated(cosine: float) -> float:
    """Return the support, 0..1, that a similarity stands for."""
    return min(1.0, max(0.0, _SLOPE * (cosine - _UNRELATED)))
