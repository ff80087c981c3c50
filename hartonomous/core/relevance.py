"""Whether a hit may ground an answer: by meaning, by the question's words, or by a code that the question names.

A hit is relevant when one of these holds:

- its cosine similarity to the question reaches `min_similarity`;
- it has `min_words` of the question's words (a share of 0..1; function words do not count, a word counts once and in
  any of its forms);
- it has a code that the question names ("HX-200", "E7", "v2.1", "max_retries"), which an embedding hardly knows. With
  which marks it is written does not matter.

Where only words were searched there is no similarity to help: then half of `min_words` is enough, and of a long
question no more than twelve words are counted, because nobody's text has all the words of a long question. BM25 itself
has no such scale: its sums grow with the question and with the collection.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

from hartonomous.core.terms import forms_in, terms
from hartonomous.core.words import CODE, IDENTIFIER, SYMBOL, Term

_CODES = frozenset((CODE, IDENTIFIER, SYMBOL))
_LONG = 12
_LONGEST_KEPT = 4_000  # characters


class Relevance:
    """What makes a hit relevant to one question, whose words are read when the first hit is in doubt."""

    def __init__(self, question: str, min_similarity: float, min_words: float) -> None:
        """Both limits are 0..1; with a limit of 0 everything is relevant."""
        self._min_similarity = min_similarity
        self._min_words = min_words
        self._question = question

    def is_similar(self, similarity: float | None) -> bool:
        """Whether a hit is relevant by this similarity, whatever its words are."""
        return similarity is not None and similarity >= self._min_similarity

    def holds(self, text: str, similarity: float | None) -> bool:
        """Whether a hit is relevant; `similarity` is None where only words were searched.

        `text` is all that is shown of the hit, headings included.
        """
        if self.is_similar(similarity):
            return True
        found = _forms_in(text)
        return not self._codes.isdisjoint(found) or self._share(found, similarity) >= self._needed(similarity)

    @cached_property
    def _terms(self) -> list[Term]:
        return terms(self._question)

    @cached_property
    def _words(self) -> dict[tuple[str, ...], Sequence[str]]:
        return {term.forms: _forms(term) for term in self._terms}

    @cached_property
    def _codes(self) -> set[str]:
        return {form for term in self._terms if term.kind in _CODES for form in term.forms}

    def _share(self, found: frozenset[str], similarity: float | None) -> float:
        """Return the share of the question's words that are among these; 0 for a question without words."""
        count = len(self._words) if similarity is not None else min(len(self._words), _LONG)
        return sum(not found.isdisjoint(forms) for forms in self._words.values()) / count if count else 0.0

    def _needed(self, similarity: float | None) -> float:
        return self._min_words if similarity is not None else self._min_words / 2


def _forms_in(text: str) -> frozenset[str]:
    return _kept_forms(text) if len(text) <= _LONGEST_KEPT else forms_in(text)


# The same chunks are found again and again, and reading one takes 0.2 ms.
_kept_forms = lru_cache(maxsize=512)(forms_in)


def _forms(term: Term) -> Sequence[str]:
    return (*term.forms, *term.implied)
