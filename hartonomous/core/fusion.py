"""Scores from different worlds made comparable: fusion of rankings, and maps of single scores to 0..1."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain, zip_longest
from math import exp
from operator import itemgetter
from typing import Literal

Rule = Literal["rrf", "relative", "dbsf"]
"""How rankings are fused: by rank, or by scores scaled by their range or by their distribution."""

Ranking = Sequence[tuple[str, float]]
"""Ids with their scores, best first."""

_name, _score = itemgetter(0), itemgetter(1)

# The exponential of 710 is no float any more. What is lower is 0 but for 304 digits.
_LOWEST_LOGIT = -700.0

BM25_HALF = 8.0
"""The BM25 score that maps to one half: what a good match of a few words gets."""


def fuse(
    rankings: Sequence[Ranking], *, rule: Rule = "rrf", k: int = 60, weights: Sequence[float] | None = None
) -> list[tuple[str, float]]:
    """Fuse rankings of (id, score), best first, by a rule; return (id, score), best first, scores in 0..1.

    `k` is the constant of `rrf`. Ties go to the better single rank, then to the ranking named first, then to the
    smaller id. Raises ValueError as the rule does.
    """
    if rule == "rrf":
        return reciprocal_rank([list(map(_name, ranking)) for ranking in rankings], k=k, weights=weights)
    return relative_score(rankings, weights) if rule == "relative" else distribution_based(rankings, weights)


def reciprocal_rank(
    rankings: Sequence[Sequence[str]], *, k: int = 60, weights: Sequence[float] | None = None
) -> list[tuple[str, float]]:
    """Fuse rankings of ids, best first, by reciprocal rank; return (id, score), best first, scores in 0..1.

    score(d) = sum_i w_i / (k + rank_i(d)) / sum_i w_i / (k + 1), ranks from 1: an id that leads every ranking scores
    1. An id that comes twice in one ranking counts by its first place. Raises ValueError for a negative `k` and for
    weights that do not fit the rankings.

    Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods",
    SIGIR 2009.
    """
    if k < 0:
        raise ValueError(f"k must not be negative, not {k!r}")
    shared = zip(rankings, _shares(len(rankings), weights), strict=True)
    return _sum([_ranked(names, k, share) for names, share in shared])


def _ranked(names: Sequence[str], k: int, share: float) -> dict[str, float]:
    """Return what a ranking gives each id; of one that comes twice the first."""
    ranked = dict(zip(names, _reciprocals(k, len(names), share), strict=True))
    return ranked if len(ranked) == len(names) else _ranked(list(dict.fromkeys(names)), k, share)


@lru_cache(64)
def _reciprocals(k: int, count: int, share: float) -> Sequence[float]:
    """Return what the first `count` ranks of a ranking with this share add."""
    return tuple([share * ((k + 1) / (k + rank)) for rank in range(1, count + 1)])


def relative_score(rankings: Sequence[Ranking], weights: Sequence[float] | None = None) -> list[tuple[str, float]]:
    """Fuse rankings of (id, score) by their scores, each ranking stretched over 0..1; scores in 0..1, best first.

    score(d) = sum_i w_i (s_i(d) - min_i) / (max_i - min_i) / sum_i w_i; where all scores of a ranking are equal (a
    single one is) each counts 1. The last of a ranking counts as much as what is not in it: nothing. So does a score
    that is not finite. Raises ValueError for weights that do not fit the rankings.

    Min-max normalisation, CombSUM: Fox and Shaw, "Combination of Multiple Searches", TREC-2, 1994; Weaviate's
    `relativeScoreFusion`.
    """
    shared = zip(rankings, _shares(len(rankings), weights), strict=True)
    return _sum([_scaled(ranking, *_range(ranking), constant=1.0, share=share) for ranking, share in shared])


def distribution_based(rankings: Sequence[Ranking], weights: Sequence[float] | None = None) -> list[tuple[str, float]]:
    """Fuse rankings of (id, score) by their scores, each seen against its ranking's mean; scores in 0..1, best first.

    score(d) = sum_i w_i (s_i(d) - (mean_i - 3 sd_i)) / (6 sd_i) / sum_i w_i, each term cut to 0..1, with the sample's
    standard deviation; where all scores of a ranking are equal (a single one is) each counts 0.5. A score that is not
    finite counts nothing. Raises ValueError for weights that do not fit the rankings.

    Mazzeschi, "Distribution-Based Score Fusion (DBSF)", 2023; Qdrant's `dbsf`, which has neither weights nor a cut.
    """
    shared = zip(rankings, _shares(len(rankings), weights), strict=True)
    return _sum([_scaled(ranking, *_three_deviations(ranking), constant=0.5, share=share) for ranking, share in shared])


def _sum(parts: Sequence[Mapping[str, float]]) -> list[tuple[str, float]]:
    """Return the sum of what each ranking gives an id (nothing where it is not in it), best first."""
    totals = dict(parts[0]) if parts else {}
    for part in parts[1:]:
        for name, value in part.items():
            totals[name] = totals.get(name, 0.0) + value
    # Rank by rank, each time through the rankings: the order in which ties are broken, before a stable sort.
    names = dict.fromkeys(chain.from_iterable(zip_longest(*parts)))
    names.pop(None, None)  # of the shorter ones
    scores = map(_rounded, map(totals.__getitem__, names))
    return sorted(zip(names, scores, strict=True), key=_score, reverse=True)


@lru_cache(4096)
def _rounded(score: float) -> float:
    """Return a score without the digits that hang on the order in which equal parts were added: those make no order.

    Ranks are few, and rounding takes 0.7 µs.
    """
    return min(1.0, round(score, 12))


def _shares(count: int, weights: Sequence[float] | None) -> Sequence[float]:
    """Return each ranking's share of the best possible score; the shares add up to 1."""
    return _normalised(count, (1.0,) * count if weights is None else tuple(weights))


@lru_cache(64)
def _normalised(count: int, weights: tuple[float, ...]) -> Sequence[float]:
    if len(weights) != count or not all(0 <= weight < math.inf for weight in weights):
        raise ValueError(f"{count} rankings cannot have the weights {weights!r}")
    total = math.fsum(weights)
    if count and not 0 < total < math.inf:
        raise ValueError(f"at least one weight must be above 0: {weights!r}")
    return tuple([weight / total for weight in weights])


def _scaled(ranking: Ranking, low: float, high: float, *, constant: float, share: float) -> dict[str, float]:
    """Return where each score lies between `low` and `high`, cut to 0..1, times `share`; of an id that comes twice the
    first."""
    scaled: dict[str, float] = {}
    for name, score in ranking:
        if not math.isfinite(score):
            value = 0.0
        elif not low < high:
            value = constant
        else:
            value = min(1.0, max(0.0, (score - low) / (high - low)))
        scaled.setdefault(name, share * value)
    return scaled


def _range(ranking: Ranking) -> tuple[float, float]:
    scores = [score for _, score in ranking if math.isfinite(score)]
    return min(scores, default=0.0), max(scores, default=0.0)


def _three_deviations(ranking: Ranking) -> tuple[float, float]:
    scores = [score for _, score in ranking if math.isfinite(score)]
    if len(scores) < 2 or min(scores) == max(scores):  # equal ones can have a deviation by rounding
        return 0.0, 0.0
    try:
        mean, reach = statistics.fmean(scores), 3 * statistics.stdev(scores)
    except OverflowError:  # their sum is no number, and they no scores of any search
        return 0.0, 0.0
    return mean - reach, mean + reach


def rocchio(
    query: Sequence[float], relevant: Sequence[Sequence[float]], *, alpha: float = 1.0, beta: float = 0.75
) -> list[float]:
    """Return a query vector moved towards the mean of vectors taken for relevant: alpha q + beta mean(d).

    All vectors count with length 1, and the result has the length of the query, so that the scores of a dot product
    stay on one scale. Vectors without a direction (zero) say nothing; without any other it is the query.

    Rocchio, "Relevance Feedback in Information Retrieval", 1971, without its negative part; the weights are those of
    Manning, Raghavan and Schütze, "Introduction to Information Retrieval", 2008, 9.1.
    """
    length = math.hypot(*query)
    directions = [[value / size for value in vector] for vector in relevant if (size := math.hypot(*vector)) > 0]
    if not directions or not length:
        return list(query)
    share = beta / len(directions)
    totals = map(sum, zip(*directions, strict=True))
    moved = [alpha * value / length + share * total for value, total in zip(query, totals, strict=True)]
    size = math.hypot(*moved)
    return [value * length / size for value in moved] if size else list(query)


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


def sigmoids(logits: Sequence[float]) -> list[float]:
    """Return 1 / (1 + exp(-logit)) for each, without overflow at either end: a cross-encoder's logits as 0..1."""
    if min(logits, default=0.0) <= _LOWEST_LOGIT:
        logits = [logit if logit > _LOWEST_LOGIT else -math.inf for logit in logits]
    return [1.0 / (1.0 + exp(-logit)) for logit in logits]
