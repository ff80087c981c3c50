"""What a query is asked with and what comes of it: the request, the answer, and the events of a stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hartonomous.clients.generative import Usage
from hartonomous.core.citations import SentenceGrounding
from hartonomous.pipelines.conversation import StandAlone
from hartonomous.pipelines.questions import ScoredHit, SearchRequest, SearchResult


@dataclass(slots=True)
class QueryRequest:
    """A question, what came before it, and how to answer it.

    `system` replaces the instruction, `added_system` stands behind it. `options` are passed to the generative service
    as they are (temperature, top_p, seed, stop). `alone` says how a follow-up came to be the question of `search`; it
    is set by `Answerer.prepare`. `on_sources` is called when the sources of an answer in one piece are there and its
    generation begins; one from the cache has neither.
    """

    search: SearchRequest
    history: Sequence[Mapping[str, str]] = ()
    system: str | None = None
    added_system: str | None = None
    max_tokens: int | None = None
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    sources_on_failure: bool = False
    require_grounding: bool = False
    alone: StandAlone | None = field(default=None, compare=False)
    on_sources: Callable[[SourcesFound], None] | None = field(default=None, compare=False)

    @property
    def search_query(self) -> str | None:
        """The question that was searched for, where it is not the one that was asked."""
        return self.search.query if self.alone is not None and self.alone.changed else None

    def tell(self, event: SourcesFound) -> None:
        """Say that the sources are there."""
        if self.on_sources is not None:
            self.on_sources(event)


@dataclass(slots=True)
class QueryResult:
    """An answer with what it rests on. `cited` are markers: marker n is `sources[n-1]`.

    `search_query` is the question that was searched for where it is not the one that was asked.
    """

    answer: str
    cited: list[int]
    sources: list[ScoredHit]
    grounding: list[SentenceGrounding]
    omitted: int
    model: str | None
    finish_reason: str
    usage: Usage
    degraded: list[str]
    timings: dict[str, float]
    search_query: str | None = None


@dataclass(slots=True)
class SourcesFound:
    """The first event of a stream: retrieval is done."""

    found: SearchResult
    omitted: int


@dataclass(slots=True)
class TextDelta:
    """The next piece of the answer, never empty."""

    text: str


Event = SourcesFound | TextDelta | QueryResult
