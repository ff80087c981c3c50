"""A route with what `/openapi.json` says of it: each handler module lists its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hartonomous.core.access import Scope
from hartonomous.handlers import shapes
from hartonomous.keys import Guard, Handler

_ON_BOTH = frozenset(("/health", "/ready", "/openapi.json"))
_OPERATORS = ("/admin/", "/metrics")

COST = ("Server-Timing", "X-Hartonomous-Degraded")
"""The headers by which operations tell of their work."""


@dataclass(slots=True, frozen=True)
class Operation:
    """One method of one path.

    `request` and `answer` are types that pydantic makes a schema from; None stands for no body. `requests` and
    `answers` are those of further media types; of a stream they describe a line. A request's body may be left out
    unless `body_required`.
    `path_parameters` and `query` are the schemas of its parameters; `headers` are further ones, as OpenAPI describes
    them. `tells` are the headers of its answer beside those that all have, and `encoding` describes parts of a form.
    `failure` is the shape of its errors, and `errors` are the statuses that the operation itself can answer beside
    those that all can.
    `scope` is what a key needs, None where anyone is answered; `event` is the audit trail's word for what is done.
    `gathers`: its requests begin together (`hartonomous.gathering`).
    """

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    request: Any = None
    answer: Any = None
    status: int = 200
    media: Sequence[str] = ("application/json",)
    requests: Mapping[str, Any] = field(default_factory=dict)
    answers: Mapping[str, Any] = field(default_factory=dict)
    body_required: bool = True
    path_parameters: Mapping[str, Any] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Sequence[Mapping[str, Any]] = ()
    tells: Sequence[str] = ()
    encoding: Mapping[str, Any] = field(default_factory=dict)
    failure: Any = shapes.ErrorAnswer
    errors: Sequence[int] = ()
    scope: Scope | None = "query"
    event: str | None = None
    gathers: bool = False

    def is_found(self, *, by_operators: bool) -> bool:
        """Whether it is found on this one of two listeners (`server.admin`); the path alone says so, not the scope."""
        return self.path in _ON_BOTH or self.path.startswith(_OPERATORS) == by_operators

    @property
    def guard(self) -> Guard:
        """What the middlewares must know of it."""
        ours = self.path.startswith(("/rag/", "/admin/"))
        return Guard(
            self.scope,
            self.event,
            is_closed_to_pages=self.scope in {"admin", "metrics"},
            parameters=frozenset(self.query) if ours else None,
        )
