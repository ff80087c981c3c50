"""Scores from different worlds made comparable: rank fusion, and maps of single scores to 0..1."""

from __future__ import annotations

import math
from collections.abc import Sequence

BM25_HALF = 8.0
"""The BM25 score that maps to one half: what a good match of a few words gets."""


def reciprocal_rank(
    rankings: Sequence[Sequence[str]], *, k: int = 60, weights: Sequence[float] | None = None
) -> list[tuple[str, float]]:
    """Fuse rankings of ids, best first, by reciprocal rank; return (id, score), best first, scores in 0..1.

    score(d) = sum_i w_i / (k + rank_i(d)) / sum_i w_i / (k + 1), ranks from 1: an id that leads every ranking scores
    1. An id that comes twice in one ranking counts by its first place. Ties go to the better single rank, then to the
    ranking named first, then to the smaller id. Raises ValueError for weights that do not fit the rankings.

    Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
    SIGIR 2009.
    """
    shares = _shares(len(rankings), k, weights)
    parts: dict[str, list[float]] = {}
    best: dict[str, tuple[int, int]] = {}
    for which, ranking in enumerate(rankings):
        for rank, name in enumerate(dict.fromkeys(ranking), 1):
            parts.setdefault(name, []).append(shares[which] * (k + 1) / (k + rank))
            place = (rank, which)
            best[name] = min(best.get(name, place), place)
    # Rounded, so that ties do not hang on the order in which equal parts were added.
    fused = [(name, min(1.0, round(math.fsum(terms), 12))) for name, terms in parts.items()]
    return sorted(fused, key=lambda item: (-item[1], best[item[0]], item[0]))


def _shares(count: int, k: int, weights: Sequence[float] | None) -> list[float]:
    """Return each ranking's share of the best possible score; the shares add up to 1."""
    if k < 0:
        raise ValueError(f"k must not be negative, not {k!r}")
    given = [1.0] * count if weights is None else list(weights)
    if len(given) != count or not all(0 <= weight < math.inf for weight in given):
        raise ValueError(f"{count} rankings cannot have the weights {given!r}")
    total = math.fsum(given)
    if count and not 0 < total < math.inf:
        raise ValueError(f"at least one weight must be above 0: {given!r}")
    return [weight / total for weight in given]


def rocchio(
    query: Sequence[float], relevant: Sequence[Sequence[float]], *, alpha: float = 1.0, beta: float = 0.75
) -> list[float]:
    """Return a query vector moved towards the mean of vectors taken for relevant: alpha q + beta mean(d).

    Rocchio, "Relevance Feedback in Information Retrieval", 1971, without its negative part; the weights are those of
    Manning, Raghavan and Schütze, "Introduction to Information Retrieval", 2008, 9.1. Without vectors it is the query.
    """
    if not relevant:
        return list(query)
    share = beta / len(relevant)
    return [alpha * q + share * math.fsum(column) for q, column in zip(query, zip(*relevant, strict=True), strict=True)]


def unit_cosine(score: float) -> float:
    """Return a cosine similarity cut to 0..1: opposite meaning is as irrelevant as none. NaN gives 0."""
    return min(1.0, max(0.0, score)) if score == score else 0.0


def unit_bm25(score: float, *, half: float = BM25_HALF) -> float:
    """Map a BM25 score, 0 to infinity, to 0..1 by score / (score + half); `half` maps to 0.5.

    The saturating form of BM25's own term-frequency part (Robertson and Zaragoza, "The Probabilistic Relevance
    Framework", 2009): monotonic, so it keeps the order. NaN and what is below 0 give 0.
    """
    if math.isinf(score) and score > 0:
        return 1.0
    return score / (score + half) if score > 0 else 0.0


def sigmoid(logit: float) -> float:
    """Return 1 / (1 + exp(-logit)), without overflow at either end: a cross-encoder's logit as 0..1."""
    if logit >= 0:
        return 1.0 / (1.0 + math.exp(-logit))
    grown = math.exp(logit)
    return grown / (1.0 + grown)
