"""The first stage of a search: questions to vectors, many in one call.

A question that is longer than the embedding model takes is embedded as far as it fits. When the embedding service is
down a hybrid search goes on with BM25 alone; a dense one fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

from hartonomous.clients.embedding import EmbeddingClient
from hartonomous.clients.schema import Schema
from hartonomous.core.call import Call
from hartonomous.core.chunking import estimate_tokens
from hartonomous.core.fingerprint import EmbeddingFingerprint
from hartonomous.core.prompt import truncate_to
from hartonomous.errors import HartonomousError, ValidationFailedError
from hartonomous.pipelines.questions import Account, Question, by_collection, fail

# A question that is too long for the embedding model is shortened so many times at most, to what should fit.
_SHORTENINGS = 4
_SPECIAL_TOKENS = 16
_LEAST_CONTEXT = 512


class Vectorizer:
    """Gives questions their vectors."""

    def __init__(self, embedding: EmbeddingClient, schema: Schema, account: Account) -> None:
        self._embedding = embedding
        self._schema = schema
        self._account = account

    async def embed(self, items: Sequence[Question], call: Call) -> None:
        """Give each question its vector, its error, or note that it goes on without."""
        if not items:
            return
        started = time.perf_counter()
        try:
            fingerprint = await self._embedding.fingerprint(call)
        except HartonomousError as error:
            self._without_embedding(items, error, call)
        else:
            await self._compare(items, fingerprint, call)
            alive = [item for item in items if item.error is None]
            size = self._embedding.batch_size
            batches = [alive[start : start + size] for start in range(0, len(alive), size)]
            await asyncio.gather(*(self._embed_batch(batch, call) for batch in batches))
        self._account.took(items, "embed", started)

    async def _compare(self, items: Sequence[Question], fingerprint: EmbeddingFingerprint, call: Call) -> None:
        """Give the questions to a collection that another embedding model made their error."""
        for name, group in by_collection(items).items():
            try:
                await self._schema.require(name, fingerprint, call)
            except HartonomousError as error:
                error.param = "collection"
                fail(group, error)

    async def _embed_batch(self, items: Sequence[Question], call: Call) -> None:
        try:
            embedded = await self._embedding.embed_queries([item.request.query for item in items], call)
        except ValidationFailedError as error:
            if len(items) == 1:
                await self._embed_beginning(items[0], error, call)
                return
            # One question is too long for the model: halved until it stands alone, it does not fail the others.
            middle = len(items) // 2
            await self._embed_batch(items[:middle], call)
            await self._embed_batch(items[middle:], call)
        except HartonomousError as error:
            self._without_embedding(items, error, call)
        else:
            for item, vector in zip(items, embedded.vectors, strict=True):
                item.vector = vector

    async def _embed_beginning(self, item: Question, error: ValidationFailedError, call: Call) -> None:
        """Embed as much of a question as the model takes; BM25 has the whole of it."""
        text = item.request.query
        try:
            context = (await self._embedding.model(call)).context or _LEAST_CONTEXT
            for _ in range(_SHORTENINGS):
                text = truncate_to(text, min(0.75, context / (estimate_tokens(text) + _SPECIAL_TOKENS)))
                with suppress(ValidationFailedError):
                    (item.vector,) = (await self._embedding.embed_queries([text], call)).vectors
                    return
        except HartonomousError as failure:
            self._without_embedding([item], failure, call)
            return
        error.param = "query"
        item.error = error

    def _without_embedding(self, items: Sequence[Question], error: HartonomousError, call: Call) -> None:
        for item in items:
            if item.request.mode == "dense" or call.deadline.expired:
                item.error = error
            else:
                self._account.degrade(item, "embedding")
