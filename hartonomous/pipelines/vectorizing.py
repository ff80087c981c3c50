"""The first stage of a search: questions to vectors, those that are not known yet, many in one call.

A question that is longer than the embedding model takes is embedded as far as it fits. When the embedding service is
down a hybrid search goes on with BM25 alone; a dense one fails.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from hartonomous import tracing
from hartonomous.cache.groups import Outcome
from hartonomous.cache.vectors import QuestionVectors
from hartonomous.clients.embedding import EmbeddingClient
from hartonomous.clients.schema import Schema
from hartonomous.core.call import Call
from hartonomous.core.chunking import estimate_tokens
from hartonomous.core.fingerprint import EmbeddingFingerprint
from hartonomous.core.prompt import truncate_to
from hartonomous.errors import BackendUnavailableError, HartonomousError, ValidationFailedError
from hartonomous.pipelines.questions import Account, Question, by_collection, fail

# A question that is too long for the embedding model is shortened so many times at most, to what should fit.
_SHORTENINGS = 4
_SPECIAL_TOKENS = 16
_LEAST_CONTEXT = 512


class Vectorizer:
    """Gives questions their vectors."""

    def __init__(self, embedding: EmbeddingClient, schema: Schema, account: Account, vectors: QuestionVectors) -> None:
        self._vectors = vectors
        self._embedding = embedding
        self._schema = schema
        self._account = account

    async def embed(self, items: Sequence[Question], call: Call) -> None:
        """Give each question its vector, its error, or note that it goes on without."""
        if not items:
            return
        started = time.perf_counter()
        with tracing.span(call, "embed", {"hartonomous.texts": len(items)}) as call:
            try:
                fingerprint = await self._embedding.fingerprint(call)
            except HartonomousError as error:
                self._without_embedding(items, error, call)
            else:
                unlike = [item for item in items if item.info is None or not item.info.is_made_by(fingerprint)]
                if unlike:
                    await self._compare(unlike, fingerprint, call)
                alike = [item for item in items if item.error is None] if unlike else items
                await self._give(alike, fingerprint, call)
        self._account.took(items, "embed", started, call)

    async def _compare(self, unlike: Sequence[Question], fingerprint: EmbeddingFingerprint, call: Call) -> None:
        """Give the questions to a collection that another embedding model made their error."""
        for name, group in by_collection(unlike).items():
            try:
                await self._schema.require(name, fingerprint, call)
            except HartonomousError as error:
                error.param = "collection"
                fail(group, error)

    async def _give(self, items: Sequence[Question], fingerprint: EmbeddingFingerprint, call: Call) -> None:
        async def embed(texts: Sequence[str], shared: Call) -> list[Outcome]:
            return await self._embed(texts, fingerprint, shared)

        texts = [item.request.query for item in items]
        outcomes = await self._vectors.get(fingerprint, texts, self._embedding.batch_size, embed, call)
        for item, outcome in zip(items, outcomes, strict=True):
            if isinstance(outcome, ValidationFailedError):
                item.error = outcome
            elif isinstance(outcome, HartonomousError):
                self._without_embedding([item], outcome, call)
            else:
                item.vector = outcome

    async def _embed(self, texts: Sequence[str], fingerprint: EmbeddingFingerprint, call: Call) -> list[Outcome]:
        """Embed texts that make a batch. One that is too long for the model does not fail the others."""
        try:
            return await self._ask(texts, fingerprint, call)
        except ValidationFailedError as error:
            if len(texts) == 1:
                return [await self._embed_beginning(texts[0], fingerprint, error, call)]
            middle = len(texts) // 2  # halved until it stands alone
            first = await self._embed(texts[:middle], fingerprint, call)
            return first + await self._embed(texts[middle:], fingerprint, call)
        except HartonomousError as error:
            return [error] * len(texts)

    async def _ask(self, texts: Sequence[str], fingerprint: EmbeddingFingerprint, call: Call) -> list[Outcome]:
        embedded = await self._embedding.embed_queries(texts, call)
        if await self._embedding.fingerprint(call) != fingerprint:
            # These vectors are neither the collection's nor to be kept under the name of the model before.
            raise BackendUnavailableError("The embedding service has changed its model.", retry_after=1)
        return list(embedded.vectors)

    async def _embed_beginning(
        self, text: str, fingerprint: EmbeddingFingerprint, error: ValidationFailedError, call: Call
    ) -> Outcome:
        """Embed as much of a question as the model takes; BM25 has the whole of it."""
        try:
            context = (await self._embedding.model(call)).context or _LEAST_CONTEXT
            for _ in range(_SHORTENINGS):
                text = truncate_to(text, min(0.75, context / (estimate_tokens(text) + _SPECIAL_TOKENS)))
                with suppress(ValidationFailedError):
                    return (await self._ask([text], fingerprint, call))[0]
        except HartonomousError as failure:
            return failure
        error.param = "query"
        return error

    def _without_embedding(self, items: Sequence[Question], error: HartonomousError, call: Call) -> None:
        for item in items:
            if item.request.mode == "dense" or call.deadline.expired:
                item.error = error
            else:
                self._account.degrade(item, "embedding")
