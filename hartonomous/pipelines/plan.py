"""What is settled of one query before the first token, and what is heard from the generative service then."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from hartonomous.clients.generative import Delta, Usage
from hartonomous.core.citations import AnswerBuilder
from hartonomous.pipelines.answers import QueryRequest
from hartonomous.pipelines.packing import Packed
from hartonomous.pipelines.questions import ScoredHit, SearchResult

_NOTHING_TOLD = Usage()


class Plan:
    """A query whose prompt is packed; `go_on` with a smaller one after a refusal."""

    __slots__ = (
        "builder",
        "finish",
        "found",
        "grounds",
        "hits",
        "model",
        "omitted",
        "options",
        "packed",
        "request",
        "sources",
        "started",
        "usage",
    )

    def __init__(
        self,
        request: QueryRequest,
        found: SearchResult,
        hits: Sequence[ScoredHit],
        packed: Packed,
        options: Mapping[str, Any],
        started: float,
    ) -> None:
        self.request = request
        self.found = found
        self.hits = hits
        self.options = options
        self.started = started
        self.usage, self.model, self.finish = _NOTHING_TOLD, request.model, "stop"
        self.go_on(packed)

    def go_on(self, packed: Packed) -> None:
        """Go on with a prompt; after a refusal with one whose sources are the first of the other one's."""
        self.packed = packed
        self.sources = list(map(self.hits.__getitem__, packed.shown.places))
        """The hits that the model sees, by marker."""
        self.omitted = len(self.hits) - len(self.sources)
        """How many hits did not fit."""
        self.grounds = [source.ground for source in packed.shown.sources]
        self.builder = AnswerBuilder(self.grounds, require_grounding=self.request.require_grounding)

    def hear(self, delta: Delta, *, final: bool = False) -> str:
        """Take what the service says next, or at last; return what of the answer is decided by it."""
        self.usage, self.model = delta.usage or self.usage, delta.model or self.model
        self.finish = delta.finish_reason or self.finish
        return self.builder.feed(delta.text, final=final)

    @property
    def took(self) -> float:
        """The seconds since the plan was begun."""
        return time.perf_counter() - self.started

    @property
    def shown(self) -> list[str]:
        """The texts that the model sees, by marker."""
        return [source.text for source in self.packed.shown.sources]

    @property
    def body(self) -> dict[str, Any]:
        """The chat request."""
        return {"messages": self.packed.messages, "max_tokens": self.packed.max_tokens, **self.options}
