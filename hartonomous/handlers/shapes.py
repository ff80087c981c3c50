"""The bodies of answers as types, one for each shape of the contract, which `/openapi.json` is made from.

`views` makes them; a test holds real answers against them.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict


class ErrorObject(TypedDict):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(TypedDict):
    """Every error response."""

    error: ErrorObject
    request_id: str


class HitView(TypedDict):
    """A chunk that was found. `start` and `end` are code points into the document's text, `score` is in 0..1."""

    chunk_id: str
    document_id: str
    title: str | None
    source: str | None
    text: str
    start: int
    end: int
    metadata: dict[str, Any]
    score: float
    scores: dict[str, float]
    headings: NotRequired[list[str]]
    page: NotRequired[int]


class CitationView(HitView):
    """A hit that the answer uses, with its marker."""

    marker: int


class SearchAnswer(TypedDict):
    """Hits, best first."""

    results: list[HitView]
    degraded: list[str]
    timings_ms: dict[str, float]
    request_id: str


class GroundingView(TypedDict):
    """A sentence of the answer, the sources it is attributed to and how well they support it, 0..1."""

    start: int
    end: int
    markers: list[int]
    support: float


class UsageView(TypedDict):
    """Tokens of the generation."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class QueryAnswer(TypedDict):
    """An answer. Marker n is `sources[n-1]`; `omitted` counts hits that did not fit the model's context.

    `search_query` is the question that was searched for, where earlier messages made it another one than was asked.
    """

    answer: str
    citations: list[CitationView]
    sources: NotRequired[list[HitView]]
    model: str | None
    finish_reason: str
    usage: UsageView
    grounding: list[GroundingView]
    omitted: int
    search_query: str | None
    degraded: list[str]
    timings_ms: dict[str, float]
    request_id: str


class DocumentResultView(TypedDict):
    """What became of a document."""

    id: str
    status: Literal["created", "updated", "unchanged", "failed"]
    version: str | None
    chunks: int
    error: ErrorObject | None


class IngestCounts(TypedDict):
    """How many documents ended how."""

    created: int
    updated: int
    unchanged: int
    failed: int


class IngestUsage(TypedDict):
    """Tokens that the embedding service counted."""

    embedding_tokens: int


class IngestAnswer(TypedDict):
    """What became of every document, in the order of the request; `error` when none could be stored."""

    collection: str
    documents: list[DocumentResultView]
    counts: IngestCounts
    usage: IngestUsage
    request_id: str
    error: NotRequired[ErrorObject]


class IngestLine(TypedDict):
    """What became of the document on a line of a stream, counted from 1; `id` is null for one that was not read."""

    line: int
    id: str | None
    status: Literal["created", "updated", "unchanged", "failed"]
    version: str | None
    chunks: int
    tokens: int
    error: ErrorObject | None


class IngestSummary(TypedDict):
    """The last line of a stream of which every line has been answered."""

    collection: str
    counts: IngestCounts
    usage: IngestUsage
    request_id: str


class IngestBrokenOff(TypedDict):
    """The last line of a stream that ended early: `counts` are of the lines that were answered."""

    error: ErrorObject
    counts: IngestCounts
    request_id: str


class BatchItemView(TypedDict):
    """The outcome of one query of a batch."""

    index: int
    status: int
    result: NotRequired[QueryAnswer]
    error: NotRequired[ErrorObject]


class BatchCounts(TypedDict):
    """How many queries of a batch were answered."""

    succeeded: int
    failed: int


class BatchAnswer(TypedDict):
    """The outcomes, in the order of the queries."""

    results: list[BatchItemView]
    counts: BatchCounts
    request_id: str


class CollectionView(TypedDict):
    """A collection and the embedding model that made it."""

    name: str
    documents: int
    chunks: int
    dimension: int
    embedding: dict[str, Any]


class CollectionsAnswer(TypedDict):
    """All collections that the key may see."""

    collections: list[CollectionView]
    request_id: str


class SweptView(TypedDict):
    """What was removed: chunks that were never shown, and collections of reindexes that were given up."""

    chunks: int
    reindexes: int


class SweepAnswer(SweptView):
    """What was removed in all, and of each collection."""

    collections: dict[str, SweptView]
    request_id: str


class ReloadAnswer(TypedDict):
    """The key paths that serve with their new value, and those that do so after a restart."""

    status: Literal["reloaded"]
    changed: list[str]
    restart_required: list[str]


class DocumentView(TypedDict):
    """A document without its text."""

    id: str
    title: str | None
    source: str | None
    metadata: dict[str, Any]
    format: str
    version: str
    chunks: int
    updated_at: str


class DocumentsAnswer(TypedDict):
    """A page of documents; `next_cursor` is null on the last one."""

    documents: list[DocumentView]
    next_cursor: str | None
    request_id: str


class ChunkView(TypedDict):
    """A chunk of a document."""

    chunk_id: str
    index: int
    text: str
    start: int
    end: int
    headings: list[str]


class DocumentAnswer(TypedDict):
    """A document with its text, put together from its chunks."""

    id: str
    title: str | None
    source: str | None
    metadata: dict[str, Any]
    format: str
    version: str
    updated_at: str
    text: str
    chunks: list[ChunkView]
    request_id: str
