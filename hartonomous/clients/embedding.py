"""The embedding service: texts to vectors, every answer checked before anybody uses it.

Vectors are asked for as base64 (little-endian float32, a third of the bytes of decimal text and 7 times cheaper to
read); a server that answers plain floats is understood as well. A permuted answer is put in order by its `index`, which
one vector alone need not have; a wrong count, a wrong dimension, NaN, infinity, null or a vector of zeros is the
backend's fault, and nothing is returned.
"""

from __future__ import annotations

import asyncio
import math
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from hartonomous import codec
from hartonomous.clients.models import ModelInfo, ModelInfoCache, prompt_tokens
from hartonomous.clients.pool import NONSENSE, Answer, Pool
from hartonomous.clients.replica import Replica
from hartonomous.core.call import Call
from hartonomous.core.fingerprint import EmbeddingFingerprint
from hartonomous.errors import BackendError, BackendUnavailableError, NotAskedError
from hartonomous.metrics import Metrics
from hartonomous.services import Embedding

Vector = Sequence[float]


@dataclass(slots=True, frozen=True)
class Embedded:
    """Vectors in the order of the texts, the tokens that the service counted, and what it calls its model."""

    vectors: list[Vector]
    tokens: int
    model: object = None


class Spelled(array):  # type: ignore[type-arg]  # Python 3.11 takes none
    """A vector that came alone and in decimals, with these as JSON: the store is sent them as they are."""

    __slots__ = ("json",)

    json: bytes


class _Item(msgspec.Struct, gc=False):
    embedding: msgspec.Raw
    index: int | msgspec.UnsetType = msgspec.UNSET


class _Answer(msgspec.Struct, gc=False):
    data: list[_Item]
    usage: Any = None
    model: Any = None


_read = msgspec.json.Decoder(_Answer).decode
# Base64 is read with the JSON, in a quarter of the time that it takes from a string.
_read_numbers = msgspec.json.Decoder(bytes | list[float]).decode


class EmbeddingClient:
    """Embeds queries and documents, in batches side by side."""

    def __init__(self, pool: Pool, config: Embedding, metrics: Metrics) -> None:
        self._pool = pool
        self._config = config
        self._tokens = metrics.tokens.labels("embedding", "in")
        self._info = ModelInfoCache(pool, config.model)
        self._fingerprint: EmbeddingFingerprint | None = None  # the last one: each question asks for it three times

    async def model(self, call: Call) -> ModelInfo:
        """Return the name, dimension and context size of the model that the service has loaded."""
        return await self._info.get(call)

    def forget(self) -> None:
        """Ask the service anew which model it has."""
        self._info.forget()

    async def check(self, replica: Replica, call: Call) -> None:
        """Embed one short text at one address, past the guard.

        Raises what `Pool.poll` raises, and BackendError when the vector is not finite, or not as wide as the service
        says that its model makes them.
        """
        answer = await self._pool.poll("/v1/embeddings", replica, call, self._body(["canary"]))
        try:
            decode(answer.body, 1, self._info.known_dimension)
        except NONSENSE as error:
            raise BackendError("The embedding service's canary did not come back.") from error

    async def fingerprint(self, call: Call) -> EmbeddingFingerprint:
        """Return what a collection's vectors depend on: model, dimension and prefixes."""
        model = self._info.fresh or await self._info.get(call)
        dimension = model.dimension
        if dimension is None:
            dimension = len((await self._embed_batch(["dimension"], call, None)).vectors[0])
            self._info.learn(dimension)
        made = self._fingerprint
        if made is None or made.model != model.name or made.dimension != dimension:
            made = EmbeddingFingerprint(model.name, dimension, self._config.query_prefix, self._config.document_prefix)
            self._fingerprint = made
        return made

    async def embed_queries(self, texts: Sequence[str], call: Call) -> Embedded:
        """Embed questions. Raises what `Pool.request` raises, and BackendError on a nonsensical answer."""
        return await self._embed([self._config.query_prefix + text for text in texts], call)

    async def embed_documents(self, texts: Sequence[str], call: Call) -> Embedded:
        """Embed passages of documents. Raises as `embed_queries` does."""
        return await self._embed([self._config.document_prefix + text for text in texts], call)

    @property
    def batch_size(self) -> int:
        """How many texts go into one call."""
        return self._config.batch_size

    @property
    def concurrency(self) -> int:
        """How many calls the service takes side by side, over all its addresses."""
        return self._config.slots * len(self._pool.addresses.asked)

    @property
    def typical_s(self) -> float:
        """What the service is busy with at a moment, in seconds; 0.0 before the first answer."""
        return self._pool.admission.service_time.typical

    async def _embed(self, texts: Sequence[str], call: Call) -> Embedded:
        dimension = (await self.fingerprint(call)).dimension
        size = self._config.batch_size
        if 0 < len(texts) <= size:
            return await self._embed_batch(texts, call, dimension)
        batches = [texts[start : start + size] for start in range(0, len(texts), size)]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._embed_batch(batch, call, dimension)) for batch in batches]
        except ExceptionGroup as errors:
            # The first failure has cancelled the others: it alone tells the caller what is wrong.
            raise errors.exceptions[0] from None
        parts = [task.result() for task in tasks]
        return Embedded([vector for part in parts for vector in part.vectors], sum(part.tokens for part in parts))

    def _body(self, texts: Sequence[str]) -> bytes:
        body: dict[str, Any] = {"input": list(texts), "encoding_format": "base64"}
        if self._config.model is not None:
            body["model"] = self._config.model
        return codec.dumps(body)

    async def _embed_batch(self, texts: Sequence[str], call: Call, dimension: int | None) -> Embedded:

        def read(answer: Answer) -> Embedded:
            return decode(answer.body, len(texts), dimension)

        try:
            embedded: Embedded = await self._pool.request(
                "POST",
                "/v1/embeddings",
                call,
                self._body(texts),
                is_hedged=self._config.hedging,
                read=read,
                nonsense="The embedding service answered something that is no list of embeddings.",
            )
        except NotAskedError:
            raise
        except (BackendError, BackendUnavailableError):
            self._info.forget()  # it may come back with another model
            raise
        if self._info.is_another(embedded.model):
            self._info.forget()
            raise BackendUnavailableError("The embedding service has changed its model.", retry_after=1)
        self._tokens.value += embedded.tokens
        return embedded


def decode(body: bytes, count: int, dimension: int | None) -> Embedded:
    """Read OpenAI's embeddings answer, in the order of the inputs.

    Raises ValueError: it is not `count` finite, non-zero vectors of `dimension`.
    """
    try:
        answer = _read(body)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    vectors: list[Vector | None] = [None] * count
    if len(answer.data) != count:
        raise ValueError("wrong count")
    for item in answer.data:
        index = item.index
        if index is msgspec.UNSET and count == 1:
            index = 0  # which one it is need not be said
        if not isinstance(index, int) or not 0 <= index < count or vectors[index] is not None:
            raise ValueError("bad index")
        vectors[index] = _vector(item.embedding, dimension, alone=count == 1)
    embedded = [vector for vector in vectors if vector is not None]
    return Embedded(embedded, prompt_tokens(answer.usage), answer.model)


def _vector(text: msgspec.Raw, dimension: int | None, *, alone: bool) -> Vector:
    value = _read_numbers(text)
    vector: array[float]
    if isinstance(value, bytes):
        vector = array("f", value)
        if sys.byteorder == "big":
            vector.byteswap()
    elif alone:
        vector = Spelled("f", value)
        vector.json = bytes(text)
    else:
        vector = array("f", value)
    _check_range(vector)
    if not vector or (dimension is not None and len(vector) != dimension):
        raise ValueError("wrong dimension")
    if not any(vector):
        raise ValueError("all zero")
    return vector


def _check_range(vector: array[float]) -> None:
    """Raise ValueError when a number is none, or beyond those that a vector store keeps."""
    # Sign and the upper 7 bits of the exponent: without all 7 a number is finite, and below 1.8e38.
    highest = vector.tobytes()[3 if sys.byteorder == "little" else 0 :: 4]
    if (b"\x7f" in highest or b"\xff" in highest) and not math.isfinite(sum(vector)):
        raise ValueError("beyond the numbers that a vector store keeps")
