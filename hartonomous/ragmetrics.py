"""The metrics of retrieval, generation and ingest, declared once.

Part of `metrics.Metrics`; names, labels and kept children follow its rules.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache, partial
from typing import Final, Literal

from prometheus_client import CollectorRegistry

from hartonomous.tally import Counter, Histogram

# Searches take milliseconds, generations up to the deadline of five minutes.
STAGE_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
FIRST_TOKEN_S: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
# From a small model on a good graphics card to a large one on a processor.
_TOKEN_S: Final = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_PARSING_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_DOCUMENT_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_DOCUMENTS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000, 20_000, 100_000)
_CHUNKS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000)
_CITATIONS: Final = (0, 1, 2, 3, 4, 6, 8, 12)

Outcome = Literal["grounded", "partly_grounded", "ungrounded", "nothing_found", "without_generation"]
_OUTCOMES: tuple[Outcome, ...] = ("grounded", "partly_grounded", "ungrounded", "nothing_found", "without_generation")
STAGES: Final = ("embed", "search", "rerank", "rewrite", "generate")
# What an answer may be given without.
LEFT_OUT: Final = ("embedding", "feedback", "reranking", "rewriting", "generation", "grounding")


class RagMetrics:
    """Retrieval, generation and ingest."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._retrieve(registry)
        self._generate(registry)
        self._ingest(registry)

    def _retrieve(self, registry: CollectorRegistry) -> None:
        stage = Histogram(
            "hartonomous_stage_duration_seconds",
            "Time of one stage of a RAG request (embed, search, rerank, rewrite, generate).",
            ("stage",),
            buckets=STAGE_S,
            registry=registry,
        )
        self.stage = {name: stage.labels(name) for name in STAGES}
        degraded = Counter(
            "hartonomous_degraded_answers_total",
            "Answers given without a stage whose backend was down, by stage.",
            ("stage",),
            registry=registry,
        )
        self.degraded = {name: degraded.labels(name) for name in LEFT_OUT}

    def _generate(self, registry: CollectorRegistry) -> None:
        histogram = partial(Histogram, registry=registry)
        answers = Counter(
            "hartonomous_answers_total",
            "Answers made (those from the cache are not), by what they rest on: every sentence that claims something "
            "on the sources (grounded), some (partly_grounded), none (ungrounded); nothing relevant was found "
            "(nothing_found); the sources alone were given (without_generation).",
            ("outcome",),
            registry=registry,
        )
        self._answers = {outcome: answers.labels(outcome) for outcome in _OUTCOMES}
        self._citations = histogram(
            "hartonomous_answer_citations", "Sources that a generated answer cites.", buckets=_CITATIONS
        )
        self.first_token = histogram(
            "hartonomous_generation_first_token_seconds",
            "Time from the call of the generative service to the first token, waiting for its turn included.",
            buckets=FIRST_TOKEN_S,
        )
        self.token = histogram(
            "hartonomous_generation_token_seconds",
            "Time of a token after the first one, as the mean of a generation.",
            buckets=_TOKEN_S,
        )

    def _ingest(self, registry: CollectorRegistry) -> None:
        histogram = partial(Histogram, registry=registry)
        documents = Counter(
            "hartonomous_ingested_documents_total", "Documents ingested, by outcome.", ("status",), registry=registry
        )
        self.documents = {status: documents.labels(status) for status in ("created", "updated", "unchanged", "failed")}
        failures = Counter(
            "hartonomous_ingest_failures_total",
            "Documents that could not be ingested, by the type of the error.",
            ("type",),
            registry=registry,
        )
        self.failure = cache(failures.labels)
        self.request_documents = histogram(
            "hartonomous_ingest_request_documents", "Documents of one ingest request.", buckets=_DOCUMENTS
        )
        self.chunks = histogram(
            "hartonomous_ingest_document_chunks", "Chunks of a document that was created or updated.", buckets=_CHUNKS
        )
        self.document_s = histogram(
            "hartonomous_ingest_document_duration_seconds",
            "Time from taking a document to its being durable and searchable, or to its failure.",
            buckets=_DOCUMENT_S,
        )
        self.embedded = Counter(
            "hartonomous_ingest_embedding_tokens_total", "Tokens of documents that were embedded.", registry=registry
        )
        parsing = Histogram(
            "hartonomous_parsing_duration_seconds",
            "Time to make text of a file, waiting for a process included, by the file's format.",
            ("format",),
            buckets=_PARSING_S,
            registry=registry,
        )
        self.parsing = cache(parsing.labels)

    def answered(self, outcome: Outcome, citations: int | None = None) -> None:
        """Count an answer that was made; `citations` are those of a generated one."""
        self._answers[outcome].inc()
        if citations is not None:
            self._citations.observe(citations)


def outcome_of(supported: Sequence[bool]) -> Outcome:
    """Return what a generated answer rests on, from whether each of its claims is supported."""
    if not any(supported):
        return "ungrounded"
    return "grounded" if all(supported) else "partly_grounded"


class Pace:
    """How fast one generation goes, told as it goes; `exemplar` names the trace that it belongs to."""

    __slots__ = ("_began", "_exemplar", "_first", "_metrics")

    def __init__(self, metrics: RagMetrics, exemplar: dict[str, str] | None = None) -> None:
        self._metrics = metrics
        self._exemplar = exemplar
        self._began = time.perf_counter()
        self._first: float | None = None

    def token(self) -> None:
        """A piece of text has come."""
        if self._first is None:
            self._first = time.perf_counter()
            self._metrics.first_token.observe(self._first - self._began, self._exemplar)

    def counted(self, tokens: int) -> None:
        """The service says that it has generated so many, after the last one."""
        if self._first is not None and tokens > 1:
            self._metrics.token.observe((time.perf_counter() - self._first) / (tokens - 1), self._exemplar)
