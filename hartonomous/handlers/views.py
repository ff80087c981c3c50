"""Results of the pipelines to the bodies of responses, one function for each shape of the contract (`shapes`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hartonomous.clients.points import DocumentState, StoredChunk, assemble
from hartonomous.core.citations import SentenceGrounding
from hartonomous.errors import HartonomousError, ValidationFailedError
from hartonomous.pipelines.documents import DocumentResult, Status
from hartonomous.pipelines.ingest import IngestResult
from hartonomous.pipelines.query import QueryResult
from hartonomous.pipelines.questions import ScoredHit, SearchResult
from hartonomous.pipelines.sweep import Swept


def hit(scored: ScoredHit) -> dict[str, Any]:
    """Return the view of a hit."""
    chunk = scored.chunk
    view: dict[str, Any] = {
        "chunk_id": chunk.id,
        "document_id": chunk.document_id,
        "title": chunk.title,
        "source": chunk.source,
        "text": chunk.text,
        "start": chunk.start,
        "end": chunk.end,
        "metadata": chunk.metadata,
        "score": scored.score,
        "scores": scored.scores,
    }
    if chunk.headings:
        view["headings"] = chunk.headings
    if chunk.page is not None:
        view["page"] = chunk.page
    return view


def search_answer(result: SearchResult, total_ms: float, request_id: str) -> dict[str, Any]:
    """Return the body of `/rag/search`."""
    return {
        "results": [hit(scored) for scored in result.hits],
        "degraded": result.degraded,
        "timings_ms": {**result.timings, "total": total_ms},
        "request_id": request_id,
    }


def citations(result: QueryResult) -> list[dict[str, Any]]:
    """Return the sources that the answer uses, by marker."""
    return _cited(result, [hit(scored) for scored in result.sources])


def _cited(result: QueryResult, sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**sources[marker - 1], "marker": marker} for marker in sorted(result.cited)]


def grounding(rows: list[SentenceGrounding]) -> list[dict[str, Any]]:
    """Return the row of every sentence."""
    return [
        {"start": row.start, "end": row.end, "markers": row.markers, "support": round(row.support, 4)} for row in rows
    ]


def query_answer(
    result: QueryResult, timings: dict[str, float], request_id: str, *, sources: bool = True
) -> dict[str, Any]:
    """Return the body of `/rag/query`; a stream's last event leaves the sources out, which it sent first."""
    views = [hit(scored) for scored in result.sources]
    answer = {
        "answer": result.answer,
        "citations": _cited(result, views),
        "sources": views,
        "model": result.model,
        "finish_reason": result.finish_reason,
        "usage": result.usage.as_dict(),
        "grounding": grounding(result.grounding),
        "omitted": result.omitted,
        "search_query": result.search_query,
        "degraded": result.degraded,
        "timings_ms": timings,
        "request_id": request_id,
    }
    if not sources:
        del answer["sources"]
    return answer


def no_documents() -> dict[Status, int]:
    """Return the counts of documents by status before there are any."""
    return {"created": 0, "updated": 0, "unchanged": 0, "failed": 0}


def ingest_answer(collection: str, result: IngestResult, request_id: str) -> dict[str, Any]:
    """Return the body of `/rag/ingest`, with the error beside the documents when none was stored."""
    counts = no_documents()
    for document in result.documents:
        counts[document.status] += 1
    body: dict[str, Any] = {
        "collection": collection,
        "documents": [_document_result(document) for document in result.documents],
        "counts": counts,
        "usage": {"embedding_tokens": result.embedding_tokens},
        "request_id": request_id,
    }
    return body if result.failure is None else body | {"error": result.failure.as_dict()}


def ingest_line(result: DocumentResult) -> dict[str, Any]:
    """Return what a stream answers for one of its lines."""
    return {"line": result.index, **_document_result(result), "tokens": round(result.tokens)}


def ingest_summary(collection: str, counts: Mapping[Status, int], tokens: int, request_id: str) -> dict[str, Any]:
    """Return the last line of a stream that was read to its end."""
    return {
        "collection": collection,
        "counts": counts,
        "usage": {"embedding_tokens": tokens},
        "request_id": request_id,
    }


def ingest_broken_off(error: HartonomousError, counts: Mapping[Status, int], request_id: str) -> dict[str, Any]:
    """Return the last line of a stream that ended early."""
    return {"error": error.as_dict(), "counts": counts, "request_id": request_id}


def _document_result(document: DocumentResult) -> dict[str, Any]:
    return {
        "id": document.id,
        "status": document.status,
        "version": document.version,
        "chunks": document.chunks,
        "error": None if document.error is None else document.error.as_dict(),
    }


def batch_item(index: int, outcome: QueryResult | HartonomousError, request_id: str) -> dict[str, Any]:
    """Return the outcome of one query of a batch."""
    if isinstance(outcome, HartonomousError):
        error = outcome.as_dict()
        if outcome.param or isinstance(outcome, ValidationFailedError):
            error["param"] = ".".join(filter(None, ("queries", str(index), outcome.param)))
        return {"index": index, "status": outcome.status, "error": error}
    total = round(sum(outcome.timings.values()), 2)
    return {
        "index": index,
        "status": 200,
        "result": query_answer(outcome, outcome.timings | {"total": total}, request_id),
    }


def sweep_answer(swept: Mapping[str, Swept], request_id: str) -> dict[str, Any]:
    """Return the body of `/admin/sweep`."""
    return {
        "collections": {name: asdict(removed) for name, removed in swept.items()},
        "chunks": sum(removed.chunks for removed in swept.values()),
        "reindexes": sum(removed.reindexes for removed in swept.values()),
        "request_id": request_id,
    }


def document(state: DocumentState) -> dict[str, Any]:
    """Return a document without its text."""
    return {**_about(state), "chunks": state.chunk_count}


def whole_document(chunks: list[StoredChunk], request_id: str) -> dict[str, Any]:
    """Return a document put together from its chunks, which are in order and may overlap."""
    return {
        **_about(chunks[0]),
        "text": assemble(chunks),
        "chunks": [_chunk(chunk) for chunk in chunks],
        "request_id": request_id,
    }


def _about(stored: DocumentState | StoredChunk) -> dict[str, Any]:
    """Return what a document and each of its chunks know of it."""
    return {
        "id": stored.document_id,
        "title": stored.title,
        "source": stored.source,
        "metadata": stored.metadata,
        "format": stored.format,
        "version": stored.version,
        "updated_at": stored.updated_at,
    }


def _chunk(chunk: StoredChunk) -> dict[str, Any]:
    return {
        "chunk_id": chunk.id,
        "index": chunk.chunk_index,
        "text": chunk.text,
        "start": chunk.start,
        "end": chunk.end,
        "headings": chunk.headings,
    }
