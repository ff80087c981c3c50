"""nDCG, recall and reciprocal rank of rankings, by ir-measures (trec_eval's own code underneath)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hartonomous.errors import HartonomousError
from hartonomous.evaluation.dataset import Qrels

NAMES = ("nDCG@10", "recall@5", "recall@20", "recall@100", "MRR")
"""What is measured, in the order in which it is shown; each is 0..1, the mean over the questions."""

_THEIRS = dict(zip(NAMES, ("nDCG@10", "R@5", "R@20", "R@100", "RR"), strict=True))


class MissingExtraError(HartonomousError):
    """The package that measures is not installed."""

    code = "missing_extra"


def require() -> None:
    """Raise MissingExtraError unless what measures is installed."""
    try:
        import ir_measures  # noqa: F401 (its being there is what is asked)
        import pytrec_eval  # noqa: F401 (what computes behind it)
    except ImportError as error:
        raise MissingExtraError("measuring needs the package ir-measures: pip install 'hartonomous[eval]'") from error


def measure(qrels: Qrels, rankings: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return each of `NAMES`, the mean over all questions of `qrels`; a question without a ranking counts 0.

    The gain of nDCG is the grade itself, its discount log2(rank + 1) (Järvelin and Kekäläinen, "Cumulated Gain-based
    Evaluation of IR Techniques", 2002, as trec_eval has it).
    """
    import ir_measures

    # trec_eval goes by scores, and breaks ties its own way: each rank is a score of its own.
    run = {name: {document: -float(rank) for rank, document in enumerate(rankings.get(name, ()))} for name in qrels}
    grades = {name: {document: max(0, grade) for document, grade in judged.items()} for name, judged in qrels.items()}
    wanted = {ours: ir_measures.parse_measure(theirs) for ours, theirs in _THEIRS.items()}
    found = ir_measures.calc_aggregate(list(wanted.values()), grades, run)
    return {ours: float(found[theirs]) for ours, theirs in wanted.items()}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of them do not exceed (nearest rank); 0 without values."""
    ordered = sorted(values)
    return ordered[max(1, math.ceil(round(share * len(ordered), 9))) - 1] if ordered else 0.0
