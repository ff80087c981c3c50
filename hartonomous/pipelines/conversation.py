"""Follow-ups made questions that stand alone, by the generative service, so that a search finds what they are about.

Only where there is history, and not where the question plainly needs none. What the service writes is checked
(`core.followup`); where it is refused or the call fails, words alone must do. A failing service is named in `degraded`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from hartonomous import tracing
from hartonomous.clients.generative import GenerativeClient
from hartonomous.config import Generation
from hartonomous.core.call import Call
from hartonomous.core.followup import accept, from_words, stands_alone
from hartonomous.core.prompt import Message, alternating, rewriting_message
from hartonomous.core.template import Template
from hartonomous.core.timings import milliseconds
from hartonomous.core.tokens import estimate_tokens
from hartonomous.errors import HartonomousError, ValidationFailedError
from hartonomous.metrics import Metrics
from hartonomous.pipelines.questions import SearchResult
from hartonomous.pipelines.traffic import Traffic

# What is meant was said lately: of the conversation the service sees its newest turns, each from its beginning. Words
# are looked for in more of them, but not in all: a request can hold megabytes, and a millisecond reads some hundred
# characters of them, in which the event loop does nothing else.
_SHOWN_TURNS, _SHOWN_CHARS = 6, 500
_READ_TURNS, _READ_CHARS = 16, 1_000
# What a name may need beyond twice the follow-up.
_NAME_TOKENS = 24
# The longest question that a request may hold.
_LONGEST = 8_192
# Of the time that is left, so much is for this, but no more than so many seconds: a service that writes one sentence
# in longer than that is too slow to wait for, where words alone do as well.
_SHARE, _MOST_S = 0.25, 20.0


@dataclass(slots=True, frozen=True)
class StandAlone:
    """A question as it is searched for, and what its making cost: milliseconds, None where nothing was done."""

    query: str
    changed: bool = False
    took_ms: float | None = None
    failed: bool = False

    def note(self, found: SearchResult) -> None:
        """Tell a search's result what came before it."""
        if self.took_ms is not None:
            found.timings = {"rewrite": self.took_ms, **found.timings}
        if self.failed:
            found.degraded.insert(0, "rewriting")


class Conversation:
    """Makes follow-ups stand alone."""

    def __init__(
        self,
        generative: GenerativeClient,
        config: Generation,
        template: Template,
        metrics: Metrics,
        traffic: Traffic,
    ) -> None:
        self._generative = generative
        self._config = config
        self._template = template
        self._traffic = traffic
        self._metrics = metrics.rag

    async def stand_alone(
        self, question: str, history: Sequence[Mapping[str, str]], model: str | None, call: Call
    ) -> StandAlone:
        """Return the question that is meant. Raises only when the request's own deadline has passed."""
        turns = _newest(_said(history), _READ_TURNS, _READ_CHARS) if history and self._config.rewrite else []
        if not turns or stands_alone(question, turns):
            return StandAlone(question)
        started = time.perf_counter()
        failed, written = False, None
        try:
            with self._traffic.query(), tracing.span(call, "rewrite") as asked:
                written = accept(await self._ask(question, turns, model, asked), question, turns)
        except ValidationFailedError:
            pass  # the conversation is too long for the model's context: no fault of the service
        except HartonomousError:
            if call.deadline.expired:
                raise
            failed = True
            self._metrics.degraded["rewriting"].inc()
        took = time.perf_counter() - started
        self._metrics.stage["rewrite"].observe(took, call.exemplar)
        query = written or from_words(question, turns)
        if len(query) > _LONGEST:
            query = question
        return StandAlone(query, query != question, milliseconds(took), failed)

    async def _ask(self, question: str, turns: Sequence[Message], model: str | None, call: Call) -> str:
        body = {
            **self._config.options,
            "messages": [rewriting_message(self._template, _newest(turns, _SHOWN_TURNS, _SHOWN_CHARS), question)],
            "max_tokens": _NAME_TOKENS + 2 * estimate_tokens(question),
            "temperature": 0.0,
        }
        if model is not None:
            body["model"] = model
        return (await self._generative.chat(body, call.share(_SHARE, _MOST_S))).text


def _said(history: Sequence[Mapping[str, str]]) -> list[Message]:
    """Return the turns of a conversation, also of one whose beginning was cut off, so that an answer comes first."""
    opening = takewhile(lambda turn: turn.get("role") != "user" or not (turn.get("content") or "").strip(), history)
    texts = [(turn.get("content") or "").strip() for turn in opening if turn.get("role") == "assistant"]
    answer = "\n\n".join(filter(None, texts))
    return [*([{"role": "assistant", "content": answer}] if answer else []), *alternating(history)]


def _newest(turns: Sequence[Message], count: int, characters: int) -> list[Message]:
    return [{**turn, "content": turn["content"][:characters]} for turn in turns[-count:]]
