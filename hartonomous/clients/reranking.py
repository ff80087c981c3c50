"""The reranking service: llama.cpp's `/v1/rerank`, every answer checked.

An index out of range, twice or missing, a score that is no finite number, or one and the same score for different texts
is a `BackendError`: the caller keeps the order it had. Scores come back in the order of the documents, not of the
ranking.

A cross-encoder reads the question and a document at once, in one slot of its context. What is longer is cut to its
beginning: by the estimate of tokens into the context that the service tells, then, should it still say that something
is too long (its physical batch may be smaller than its context, and some texts fall into more pieces than estimated),
into less and less, at last by a bound that no tokenizer exceeds. So one long text never makes the reranking fail.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import msgspec

from hartonomous import codec
from hartonomous.clients.models import ModelInfo, ModelInfoCache, prompt_tokens
from hartonomous.clients.pool import Answer, Pool
from hartonomous.core.call import Call
from hartonomous.core.fitting import fit_pairs
from hartonomous.core.fusion import sigmoids
from hartonomous.core.tokens import ESTIMATED_MOST, MOST, estimate_tokens, most_tokens
from hartonomous.errors import BackendError, ValidationFailedError
from hartonomous.metrics import Metrics
from hartonomous.services import Reranking

# llama.cpp's physical batch where nothing else is set; what fits it fits every service.
_BATCH_TOKENS = 512
# What stands between and around the two texts: special tokens, or the words of a template.
_SPECIAL_TOKENS = 16
# How long it is remembered how much the service takes.
_REMEMBER_S = 60.0
# Scores that differ by less, relative to the largest, tell nothing.
_ALIKE = 1e-6


class _Result(msgspec.Struct, gc=False):
    index: int
    relevance_score: float


class Ranked(msgspec.Struct, gc=False):
    """An answer: what the documents score, by their places in the call, the tokens used, and the model's name."""

    results: list[_Result]
    usage: Any = None
    model: Any = None

    @property
    def tokens(self) -> int:
        """How many tokens the service counted; 0 where it says nothing of use."""
        return prompt_tokens(self.usage)

    @property
    def model_name(self) -> str | None:
        """What the service calls its model; None where it says nothing of use."""
        return self.model if isinstance(self.model, str) else None


_index, _score = attrgetter("index"), attrgetter("relevance_score")
_read_ranked = msgspec.json.Decoder(Ranked).decode

_Count = Callable[[str], int]
_Fit = tuple[int, _Count, int]


class RerankingClient:
    """Scores documents against a question."""

    def __init__(
        self, pool: Pool, config: Reranking, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool = pool
        self._config = config
        self._tokens = metrics.tokens.labels("reranking", "in")
        self._info = ModelInfoCache(pool, config.model)
        self._clock = clock
        self._fits: list[_Fit] = []
        self._until = 0.0

    async def model(self, call: Call) -> ModelInfo:
        """Return the name of the model that the service has loaded."""
        return await self._info.get(call)

    async def rerank(self, query: str, documents: Sequence[str], call: Call) -> list[float]:
        """Return a relevance in 0..1 for each document, in the order given; what is too long counts by its beginning.

        Raises what `Pool.request` raises, and BackendError on an answer that is nonsensical or tells nothing.
        """
        fits = self._fits
        if not fits or self._clock() > self._until:
            fits = self._remember(_fits(await self._context(call)))
        for index, (room, count, most) in enumerate(fits):
            asked, texts = fit_pairs(query, documents, room, count, most)
            try:
                scores, _ = await self.raw_scores(asked, texts, call)
            except ValidationFailedError:
                if index + 1 == len(fits):
                    raise
                if room > _room(_BATCH_TOKENS):
                    # The service's own bound. What follows is the fault of these texts alone.
                    self._remember(fits[index + 1 :])
            else:
                _check_telling(texts, scores)
                return self.calibrated(scores)
        raise AssertionError("there is always something to try")

    async def _context(self, call: Call) -> int | None:
        try:
            return (await self.model(call)).context
        except BackendError:
            return None  # a service that tells nothing of itself

    def _remember(self, fits: list[_Fit]) -> list[_Fit]:
        self._fits, self._until = fits, self._clock() + _REMEMBER_S
        return fits

    async def raw_scores(
        self, query: str, documents: Sequence[str], call: Call, model: str | None = None
    ) -> tuple[list[float], Ranked]:
        """Return the service's own scores, in the order given, and the answer that they came in."""
        body: dict[str, Any] = {"query": query, "documents": list(documents), "top_n": len(documents)}
        if model or self._config.model:
            body["model"] = model or self._config.model
        scores, ranked = await self._pool.request(
            "POST",
            "/v1/rerank",
            call,
            codec.dumps(body),
            is_hedged=self._config.hedging,
            read=partial(_read, count=len(documents)),
            nonsense="The reranking service answered something that is no ranking.",
        )
        self._tokens.value += ranked.tokens
        return scores, ranked

    def calibrated(self, scores: Sequence[float]) -> list[float]:
        """Map the service's own scores to 0..1: the logistic function of a logit, or the score itself."""
        if self._config.scores == "logits":
            return sigmoids(scores)
        return [min(1.0, max(0.0, score)) for score in scores]


def _fits(context: int | None) -> list[_Fit]:
    """Return how much to send, and how it is counted (`fit_pairs`): the most first, then what if it is too much."""
    least = _room(min(context or _BATCH_TOKENS, _BATCH_TOKENS))
    most = sys.maxsize if context is None else _room(context)
    rooms = [most, least] if most > least else [least]
    return [*((room, estimate_tokens, ESTIMATED_MOST) for room in (*rooms, least // 2)), (least, most_tokens, MOST)]


def _room(context: int) -> int:
    """Return how many tokens of a context are left to the question and a document."""
    return max(2, context - _SPECIAL_TOKENS - context // 32)


def _check_telling(texts: Sequence[str], scores: Sequence[float]) -> None:
    """Refuse scores that are all the same though the texts are not: the model is broken, or is no reranker."""
    highest, lowest = max(scores), min(scores)
    if highest - lowest <= _ALIKE * max(1.0, highest, -lowest) and len(set(texts)) > 1:
        raise BackendError("The reranking service gives every text the same score.")


def _read(answer: Answer, count: int) -> tuple[list[float], Ranked]:
    """Return the scores in the order of the documents, and the answer. Raises Python's own errors."""
    try:
        ranked = _read_ranked(answer.body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    results = sorted(ranked.results, key=_index)
    if list(map(_index, results)) != list(range(count)):
        raise ValueError("not each document once")
    return list(map(_score, results)), ranked
