"""What was measured, as a table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hartonomous.config import Chunking, Retrieval
from hartonomous.evaluation.dataset import Dataset
from hartonomous.evaluation.measures import NAMES
from hartonomous.evaluation.runs import Fed, Measured

_HEADINGS = ("", *NAMES, "median ms", "p95 ms")


@dataclass(slots=True, frozen=True)
class Report:
    """All of a run. `reranker` says whether one is configured."""

    dataset: Dataset
    model: str
    chunking: Chunking
    retrieval: Retrieval
    fed: Fed
    measured: Sequence[Measured]
    reranker: bool


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as JSON values: measures 0..1, times in milliseconds, speeds per second."""
    dataset, fed = report.dataset, report.fed
    return {
        "folder": str(dataset.folder),
        "questions": len(dataset.questions),
        "embedding_model": report.model,
        "chunking": report.chunking.model_dump(),
        "retrieval": report.retrieval.model_dump(mode="json"),
        "feeding": {
            "documents": fed.documents,
            "chunks": fed.chunks,
            "tokens": fed.tokens,
            "seconds": round(fed.seconds, 3),
            "documents_per_second": round(fed.documents / max(fed.seconds, 1e-9), 1),
            "tokens_per_second": round(fed.tokens / max(fed.seconds, 1e-9), 1),
            "failed": len(fed.failures),
        },
        "left_out": {
            "empty_documents": dataset.empty,
            "unknown_documents": dataset.unknown,
            "questions_without_relevant_documents": dataset.idle,
            "judged_questions_without_text": dataset.unasked,
        },
        "results": [_result(measured) for measured in report.measured],
    }


def _result(measured: Measured) -> dict[str, Any]:
    setting = measured.setting
    return {
        "name": setting.name,
        "mode": setting.mode,
        "feedback": setting.feedback,
        "rerank": setting.rerank,
        **{name: round(value, 4) for name, value in measured.measures.items()},
        "latency_ms": {"median": round(measured.median_ms, 2), "p95": round(measured.p95_ms, 2)},
        "questions_per_second": round(measured.per_second, 1),
        "degraded": list(measured.degraded),
    }


def as_text(report: Report) -> str:
    """Return the report as a table between sentences."""
    dataset, fed, chunking = report.dataset, report.fed, report.chunking
    speed = f"{fed.documents / max(fed.seconds, 1e-9):,.0f} documents/s, {fed.tokens / max(fed.seconds, 1e-9):,.0f}"
    head = (
        f"{dataset.folder}: {fed.documents:,} documents as {fed.chunks:,} chunks of up to {chunking.max_tokens} tokens,"
        f" {len(dataset.questions):,} questions, {report.model}"
    )
    feeding = f"fed in {fed.seconds:.1f} s ({speed} tokens/s)"
    rows = [_HEADINGS, *(_row(measured) for measured in report.measured)]
    return "\n".join([head, feeding, "", *_aligned(rows), "", *_notes(report)]).rstrip()


def _row(measured: Measured) -> tuple[str, ...]:
    values = [f"{measured.measures[name]:.4f}" for name in NAMES]
    return (measured.setting.name, *values, f"{measured.median_ms:.1f}", f"{measured.p95_ms:.1f}")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(cells)
        ).rstrip()
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]


def _notes(report: Report) -> list[str]:
    dataset = report.dataset
    counted = (
        (dataset.empty, "documents have no text and were left out"),
        (dataset.unknown, "relevant documents are not in the corpus and count as not found"),
        (dataset.idle, "questions have no relevant document and were not asked"),
        (dataset.unasked, "judged questions are not in queries.jsonl and were not asked"),
        (len(report.fed.failures), "documents could not be stored and count as not found"),
    )
    notes = [f"{number:,} {sentence}." for number, sentence in counted if number]
    if not report.reranker:
        notes.append("No reranking: no reranking service is configured (backends.reranking).")
    degraded = [measured for measured in report.measured if measured.degraded]
    notes += [f"{one.setting.name}: without {', '.join(one.degraded)} for some questions." for one in degraded]
    return notes
