"""What is measured: the corpus is fed into a scratch collection, each mode of search answers every question.

A document's place in a ranking is that of its best chunk. So many chunks are fetched that 100 documents come out, where
there are as many. Of a search with reranking the chunks that a server would rerank come first, then the ranking that
they were taken from. How good the answers are is measured on batches of questions, because that is fast; how long one
takes is measured apart, on some questions one at a time, with as many hits as a server would return.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from hartonomous.config import Chunking, Retrieval
from hartonomous.core.call import Call
from hartonomous.errors import HartonomousError
from hartonomous.evaluation.dataset import Dataset, Record
from hartonomous.evaluation.measures import measure, percentile
from hartonomous.pipelines.documents import Document, DocumentResult
from hartonomous.pipelines.ingest import Ingestor
from hartonomous.pipelines.questions import Mode, SearchRequest, SearchResult
from hartonomous.pipelines.search import Searcher

SCRATCH = "hartonomous-eval-"
"""How the names of scratch collections begin, so that the left-over of a kill is known for what it is."""

DEPTH = 100
"""How many documents a ranking is measured to."""

_BATCH = 16
# Questions that are timed: so many, or after so long at least a few.
_TIMED, _LEAST_TIMED, _TIMED_MS = 50, 10, 15_000.0
_DOCUMENT_S = 600.0
_MOST_CHUNKS = 10_000

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


@dataclass(slots=True, frozen=True)
class Setting:
    """A way to search, under the name that it has in the report."""

    name: str
    mode: Mode
    feedback: bool = False
    rerank: bool = False


SETTINGS = (
    Setting("dense", "dense"),
    Setting("sparse", "sparse"),
    Setting("hybrid", "hybrid"),
    Setting("hybrid + feedback", "hybrid", feedback=True),
    Setting("hybrid + reranking", "hybrid", rerank=True),
)


@dataclass(slots=True)
class Fed:
    """What feeding came to; `failures` are (document, sentence)."""

    documents: int = 0
    chunks: int = 0
    tokens: int = 0
    seconds: float = 0.0
    failures: list[tuple[str, str]] = field(default_factory=list)


@dataclass(slots=True, frozen=True)
class Measured:
    """What a setting came to: measures in 0..1 by name, milliseconds of one question at a time, questions per second.

    `degraded` are the stages that were left out for some question because a backend was down.
    """

    setting: Setting
    measures: dict[str, float]
    median_ms: float
    p95_ms: float
    per_second: float
    degraded: tuple[str, ...] = ()


def scratch_name() -> str:
    """Return a name that no other collection has."""
    return f"{SCRATCH}{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(4).hex()}"


async def feed(
    ingestor: Ingestor, collection: str, dataset: Dataset, chunking: Chunking, call: Call, progress: Progress
) -> Fed:
    """Take the corpus into a collection; what could not be stored is tried once more, and told if it fails again.

    Raises what ends every ingest.
    """
    fed, begun, failed = Fed(), time.monotonic(), dict[str, str]()

    async def count(result: DocumentResult) -> None:
        if result.error is not None:
            failed[result.id or ""] = result.error.message
        else:
            failed.pop(result.id or "", None)
            fed.documents += 1
            fed.chunks += result.chunks
        progress("feeding", fed.documents + len(failed), dataset.documents)

    sizes = chunking.max_tokens, chunking.overlap_tokens
    for attempt in range(2):
        if attempt and not failed:
            break
        again = set(failed)
        source = _documents(record for record in dataset.records() if not attempt or record.id in again)
        fed.tokens += await ingestor.stream(collection, source, *sizes, call, count, document_s=_DOCUMENT_S)
    fed.failures = list(failed.items())
    fed.seconds = time.monotonic() - begun
    return fed


async def _documents(records: Iterable[Record]) -> AsyncIterator[Document | DocumentResult]:
    for index, record in enumerate(records, 1):
        yield Document(index, record.text, record.id, title=record.title or None)


class Judge:
    """Measures settings on a collection that the corpus was fed into."""

    def __init__(self, searcher: Searcher, dataset: Dataset, collection: str, fed: Fed, config: Retrieval) -> None:
        self._searcher = searcher
        self._dataset = dataset
        self._collection = collection
        self._documents = fed.documents
        self._chunks = max(fed.chunks, 1)
        self._config = config
        self._known: dict[Setting, dict[str, list[str]]] = {}

    async def measure(self, setting: Setting, call: Call, progress: Progress) -> Measured:
        """Ask every question by one setting. Raises the first error of a question."""
        rankings: dict[str, list[str]] = {}
        degraded: set[str] = set()
        times = await self._times(setting, call)
        begun = time.monotonic()
        for names in _batches(list(self._dataset.questions), _BATCH):
            rankings.update(await self._ranked(setting, names, call, degraded))
            progress(setting.name, len(rankings), len(self._dataset.questions))
        self._known[setting] = rankings
        return Measured(
            setting,
            measure(self._dataset.qrels, rankings),
            median_ms=percentile(times, 0.5),
            p95_ms=percentile(times, 0.95),
            per_second=len(rankings) / max(time.monotonic() - begun, 1e-9),
            degraded=tuple(sorted(degraded)),
        )

    async def _times(self, setting: Setting, call: Call) -> list[float]:
        """Return the milliseconds of some questions; of fewer where the services are slow."""
        times: list[float] = []
        for text in islice(self._dataset.questions.values(), _TIMED):
            if len(times) >= _LEAST_TIMED and sum(times) > _TIMED_MS:
                break
            times.append(await self._timed(setting, text, call))
        return times

    async def _timed(self, setting: Setting, text: str, call: Call) -> float:
        """Return the milliseconds that one question takes when it is asked alone, as by a user."""
        begun = time.perf_counter()
        await self._searcher.search(self._request(setting, text, self._config.top_k), call)
        return (time.perf_counter() - begun) * 1_000

    async def _ranked(
        self, setting: Setting, names: Sequence[str], call: Call, degraded: set[str]
    ) -> dict[str, list[str]]:
        """Return the ranking of each question."""
        if not setting.rerank:
            return await self._deep(setting, names, call, degraded)
        below = self._known.get(replace(setting, name=setting.mode, rerank=False), {})
        top_k = max(self._config.rerank_candidates, self._config.top_k)
        found = await self._search(setting, names, top_k, call, degraded)
        return {
            name: list(dict.fromkeys([*best_documents(result), *below.get(name, ())]))[:DEPTH]
            for name, result in found.items()
        }

    async def _deep(
        self, setting: Setting, names: Sequence[str], call: Call, degraded: set[str]
    ) -> dict[str, list[str]]:
        """Return the ranking of each question, asked deeper where too many chunks are of the same documents."""
        ranked: dict[str, list[str]] = {}
        deepest = min(self._chunks, _MOST_CHUNKS)
        top_k = min(deepest, DEPTH * math.ceil(2 * self._chunks / self._documents))
        while left := [name for name in names if name not in ranked]:
            for name, result in (await self._search(setting, left, top_k, call, degraded)).items():
                documents = best_documents(result)
                if len(documents) >= DEPTH or len(result.hits) < top_k or top_k >= deepest:
                    ranked[name] = documents[:DEPTH]
            top_k = min(2 * top_k, deepest)
        return ranked

    async def _search(
        self, setting: Setting, names: Sequence[str], top_k: int, call: Call, degraded: set[str]
    ) -> dict[str, SearchResult]:
        requests = [self._request(setting, self._dataset.questions[name], top_k) for name in names]
        found: dict[str, SearchResult] = {}
        for name, result in zip(names, await self._searcher.search_many(requests, call), strict=True):
            if isinstance(result, HartonomousError):
                raise result
            degraded.update(result.degraded)
            found[name] = result
        return found

    def _request(self, setting: Setting, text: str, top_k: int) -> SearchRequest:
        return SearchRequest(
            text, self._collection, top_k, mode=setting.mode, rerank=setting.rerank, feedback=setting.feedback
        )


def best_documents(result: SearchResult) -> list[str]:
    """Return the documents of a ranking of chunks, each at the place of its best one."""
    return list(dict.fromkeys(hit.chunk.document_id for hit in result.hits))


def _batches(names: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]
