"""The key of an answer: a hash over everything that it depends on.

These are the request with all its fields, the caller's grant, the collection with its generation, the models as the
services report them, the settings that shape answers, our own version and the form of what is kept. Streamed or not
does not matter. Nobody finds an answer of another grant, of a changed collection or of another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from hartonomous import __version__, codec
from hartonomous.cache.generations import Generations
from hartonomous.clients.embedding import EmbeddingClient
from hartonomous.clients.generative import GenerativeClient
from hartonomous.clients.reranking import RerankingClient
from hartonomous.clients.schema import Schema
from hartonomous.core.call import Call
from hartonomous.core.deadline import Deadline
from hartonomous.errors import HartonomousError
from hartonomous.pipelines.query import QueryRequest

# What the services say of themselves is mostly known; a service that hangs is no reason to wait before it is asked.
_LOOK_S = 2.0
# How answers are kept: a server that reads another form finds none of these, nor they any of its own.
_FORM = 2


class AnswerKeys:
    """Makes keys. `settings` are all that shape answers and are the same for every request.

    `is_alone`: what changes the collection beside this process cannot tell it. Its number of points then does, as far
    as it can. Processes that do tell each other would for two seconds not find each other's answers by it.
    """

    def __init__(
        self,
        schema: Schema,
        embedding: EmbeddingClient,
        generative: GenerativeClient,
        reranking: RerankingClient | None,
        generations: Generations,
        settings: Mapping[str, Any],
        *,
        is_alone: bool,
    ) -> None:
        self._schema = schema
        self._embedding = embedding
        self._generative = generative
        self._reranking = reranking
        self._generations = generations
        self._is_alone = is_alone
        self._start = blake2b(codec.canonical({"version": __version__, "form": _FORM, **settings}), digest_size=20)

    async def key(self, request: QueryRequest, call: Call) -> str | None:
        """Return the key; None where the collection or a model is not known now, or Redis is away.

        It must be made before the search: what is found afterwards may be newer than the key says, never older.
        """
        collection = request.search.collection
        quick = call.within(Deadline(call.deadline.bound(_LOOK_S)), call.wanted)
        try:
            info = await self._schema.describe(collection, quick)
            models = await self._models(quick)
        except HartonomousError:
            return None
        generation = None if info is None else await self._generations.current(collection)
        if info is None or generation is None:
            return None
        digest = self._start.copy()
        digest.update(
            codec.canonical(
                {
                    "request": replace(request, on_sources=None),
                    "grant": call.grant.patterns,
                    "generation": generation,
                    "models": models,
                    "made_by": info.fingerprint.as_dict(),
                    "points": info.points if self._is_alone else None,
                    "language": info.language,
                }
            )
        )
        return digest.hexdigest()

    async def _models(self, call: Call) -> list[Any]:
        embedding = await self._embedding.fingerprint(call)
        generative = await self._generative.model(call)
        reranking = None if self._reranking is None else await self._reranking.model(call)
        return [embedding.as_dict(), generative, reranking]
