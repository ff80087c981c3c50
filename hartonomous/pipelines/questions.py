"""What a search is made of: the question as it was asked, on its way through the stages, and its hits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from hartonomous.clients.embedding import Vector
from hartonomous.clients.points import FoundChunk, Hit
from hartonomous.clients.schema import CollectionInfo
from hartonomous.core.call import Call
from hartonomous.core.timings import milliseconds
from hartonomous.errors import HartonomousError
from hartonomous.metrics import Metrics

Mode = Literal["hybrid", "dense", "sparse"]
Kind = Literal["dense", "sparse"]


@dataclass(slots=True)  # not frozen: that takes a microsecond more for each
class SearchRequest:
    """One question to one collection, which does not change. `filter` is Qdrant's filter, checked already."""

    query: str
    collection: str
    top_k: int
    mode: Mode = "hybrid"
    filter: Mapping[str, Any] | None = None
    rerank: bool = True
    feedback: bool = False
    score_threshold: float | None = None


class ScoredHit(msgspec.Struct, gc=False):
    """A chunk with its final score in 0..1 and the scores that it was made of, None those that are not known."""

    chunk: FoundChunk
    score: float
    dense: float | None = None
    sparse: float | None = None
    rerank: float | None = None

    @property
    def scores(self) -> dict[str, float]:
        """What the score was made of, by name."""
        scores = {}
        if self.dense is not None:
            scores["dense"] = self.dense
        if self.sparse is not None:
            scores["sparse"] = self.sparse
        if self.rerank is not None:
            scores["rerank"] = self.rerank
        return scores


@dataclass(slots=True)
class SearchResult:
    """Hits, best first; stages that were left out; milliseconds by stage."""

    hits: list[ScoredHit]
    degraded: list[str]
    timings: dict[str, float]


class Question(msgspec.Struct):
    """A question on its way through the stages. Once `error` is set, the later stages leave it alone.

    `best_vectors` are those of the best hits, for feedback; after it `rankings` has the moved question's dense ranking,
    and `asked` the one of the question as it was asked.
    """

    request: SearchRequest
    info: CollectionInfo | None = None
    vector: Vector | None = None
    rankings: dict[Kind, list[Hit]] = {}
    best_vectors: list[list[float]] = []
    asked: list[Hit] | None = None
    hits: list[ScoredHit] = []
    degraded: list[str] = []
    timings: dict[str, float] = {}
    error: HartonomousError | None = None

    def forget_rankings(self) -> None:
        """Let go of what was found, which is fused for good."""
        self.rankings, self.asked = {}, None

    @property
    def wants_embedding(self) -> bool:
        return self.error is None and self.request.mode != "sparse"

    @property
    def wants_feedback(self) -> bool:
        return self.error is None and self.request.feedback and self.vector is not None


class Account:
    """Tells the metrics and the questions how long a stage took, and what was left out."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics.rag

    def degrade(self, item: Question, stage: str) -> None:
        """Note that a stage was left out for a question, because its backend is down."""
        item.degraded.append(stage)
        self._metrics.degraded[stage].inc()

    def took(self, items: Sequence[Question], stage: str, started: float, call: Call) -> None:
        """Note how long a stage took that began at `started` (of `time.perf_counter`)."""
        took = time.perf_counter() - started
        self._metrics.stage[stage].observe(took, call.exemplar)
        for item in items:
            item.timings[stage] = milliseconds(item.timings.get(stage, 0.0) / 1000 + took)


async def all_of(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do pieces of work side by side; a single one, as of most requests, without a task of its own."""
    if len(work) == 1:
        await work[0]
    elif work:
        await asyncio.gather(*work)


def by_collection(items: Sequence[Question]) -> dict[str, list[Question]]:
    """Return the questions of each collection."""
    groups: dict[str, list[Question]] = {}
    for item in items:
        groups.setdefault(item.request.collection, []).append(item)
    return groups


def fail(items: Sequence[Question], error: HartonomousError) -> None:
    """Give these questions their error."""
    for item in items:
        item.error = error
