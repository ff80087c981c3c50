"""The sentence of the sources that fits a question best, to be quoted where a model's own words have no support.

A sentence's fit is the share of the question's terms that it has, each weighted by its rarity among the sentences of
the sources: log(1 + N / n), the inverse document frequency (Spärck Jones, "A statistical interpretation of term
specificity", 1972) with sentences for documents. Terms that stand nowhere weigh half as much as the rarest, so a
question about something else finds nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hartonomous.core.sentences import sentences
from hartonomous.core.terms import terms

_LEAST_SHARE = 0.3
_ABSENT = 0.5  # of the weight of the rarest
_LONGEST = 600  # characters: beyond that it is a table or a list, no sentence to quote


@dataclass(slots=True, frozen=True)
class Quote:
    """A sentence of source `marker` (from 1), as it stands there."""

    marker: int
    text: str


def best_quote(question: str, sources: Sequence[str]) -> Quote | None:
    """Return the sentence that fits the question best, from the best source where several do; None where none does."""
    candidates = [
        Quote(marker, source[start:end])
        for marker, source in enumerate(sources, 1)
        for start, end in sentences(source)
        if _is_prose(source[start:end])
    ]
    forms = [{form for term in terms(candidate.text) for form in term.forms} for candidate in candidates]
    wanted = list({term.forms for term in terms(question)})
    holders = Counter(term for term in wanted for found in forms if not found.isdisjoint(term))
    weights = {term: _rarity(len(candidates), holders[term]) for term in wanted}
    total = sum(weights.values())
    best, best_share = None, 0.0
    for candidate, found in zip(candidates, forms, strict=True):
        share = sum(weight for term, weight in weights.items() if not found.isdisjoint(term)) / total if total else 0.0
        if share > best_share:
            best, best_share = candidate, share
    return best if best_share >= _LEAST_SHARE else None


def _rarity(count: int, holders: int) -> float:
    return math.log1p(count / holders) if holders else _ABSENT * math.log1p(count)


def _is_prose(sentence: str) -> bool:
    return not sentence.startswith(("#", "|", "```")) and len(sentence) <= _LONGEST
