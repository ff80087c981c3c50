"""The reranking service: llama.cpp's `/v1/rerank`, every answer checked.

An index out of range, twice or missing, or a score that is no finite number, is a `BackendError`: the caller keeps the
order it had. Scores come back in the order of the documents, not of the ranking.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hartonomous import codec
from hartonomous.clients.models import ModelInfo, ModelInfoCache, count_of
from hartonomous.clients.pool import Pool
from hartonomous.config import Reranking
from hartonomous.core.call import Call
from hartonomous.core.fusion import sigmoid
from hartonomous.errors import BackendError
from hartonomous.metrics import Metrics


class RerankingClient:
    """Scores documents against a question."""

    def __init__(self, pool: Pool, config: Reranking, metrics: Metrics) -> None:
        self._pool = pool
        self._config = config
        self._tokens = metrics.tokens.labels("reranking", "in")
        self._info = ModelInfoCache(pool, config.model)

    async def model(self, call: Call) -> ModelInfo:
        """Return the name of the model that the service has loaded."""
        return await self._info.get(call)

    async def rerank(self, query: str, documents: Sequence[str], call: Call) -> list[float]:
        """Return a relevance in 0..1 for each document, in the order given.

        Raises what `Pool.request` raises, and BackendError on a nonsensical answer.
        """
        scores, _ = await self.raw_scores(query, documents, call)
        return [self.calibrate(score) for score in scores]

    async def raw_scores(
        self, query: str, documents: Sequence[str], call: Call, model: str | None = None
    ) -> tuple[list[float], dict[str, Any]]:
        """Return the service's own scores, in the order given, and the answer that they came in."""
        body: dict[str, Any] = {"query": query, "documents": list(documents), "top_n": len(documents)}
        if model or self._config.model:
            body["model"] = model or self._config.model
        answer = await self._pool.request("POST", "/v1/rerank", call, codec.dumps(body))
        try:
            parsed = codec.loads(answer.body)
            scores = _scores(parsed["results"], len(documents))
            tokens = count_of((parsed.get("usage") or {}).get("prompt_tokens"))
        except (codec.NotJsonError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise BackendError("The reranking service answered something that is no ranking.") from error
        self._tokens.inc(tokens)
        return scores, parsed

    def calibrate(self, score: float) -> float:
        """Map one of the service's own scores to 0..1: the logistic function of a logit, or the score itself."""
        return sigmoid(score) if self._config.scores == "logits" else min(1.0, max(0.0, score))


def _scores(results: Sequence[dict[str, Any]], count: int) -> list[float]:
    scores: list[float | None] = [None] * count
    for result in results:
        index, score = result["index"], result["relevance_score"]
        if type(index) is not int or not 0 <= index < count or scores[index] is not None:
            raise ValueError("bad index")
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise ValueError("bad score")
        scores[index] = float(score)
    complete = [score for score in scores if score is not None]
    if len(complete) != count:
        raise ValueError("missing documents")
    return complete
