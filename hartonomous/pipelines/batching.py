"""The vectors of many documents, embedded in full batches across them.

A document waits only for the batches that hold its texts, so the first ones are written while the last ones are still
being embedded, and a failed batch fails only its own documents. A batch that is refused because a text in it is too
long for the model is halved until that text stands alone: it fails its own document and no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import groupby

from hartonomous.clients.embedding import EmbeddingClient, Vector
from hartonomous.core.call import Call
from hartonomous.errors import ValidationFailedError

_Outcome = Vector | ValidationFailedError


class SharedBatches:
    """Embeds the texts of all documents side by side, from the moment it is made; `tokens` is what it has cost."""

    def __init__(self, client: EmbeddingClient, documents: Sequence[Sequence[str]], call: Call) -> None:
        self.tokens = 0
        self._client = client
        self._call = call
        # As many calls as the service takes: the others wait here, where no timeout of theirs runs.
        self._slots = asyncio.Semaphore(client.concurrency)
        self._parts: list[list[tuple[asyncio.Task[list[_Outcome]], slice]]] = [[] for _ in documents]
        flat = [(index, text) for index, texts in enumerate(documents) for text in texts]
        size = client.batch_size
        for start in range(0, len(flat), size):
            batch = flat[start : start + size]
            task = asyncio.create_task(self._embed([text for _, text in batch]))  # noqa: RUF006 - kept below
            task.add_done_callback(_retrieved)
            for index, place in _runs(batch):
                self._parts[index].append((task, place))

    async def of(self, index: int) -> list[Vector]:
        """Return the vectors of one document's texts, in order.

        Raises what the embedding client raises; ValidationFailedError when one of them is too long for the model.
        """
        vectors: list[Vector] = []
        for task, place in self._parts[index]:
            for outcome in (await asyncio.shield(task))[place]:
                if isinstance(outcome, ValidationFailedError):
                    raise outcome
                vectors.append(outcome)
        return vectors

    def cancel(self) -> None:
        """Stop what is still being embedded: nobody waits for it any more."""
        for parts in self._parts:
            for task, _ in parts:
                task.cancel()

    async def _embed(self, texts: Sequence[str]) -> list[_Outcome]:
        try:
            async with self._slots:
                embedded = await self._client.embed_documents(texts, self._call)
        except ValidationFailedError as error:
            if len(texts) == 1:
                return [error]
            middle = len(texts) // 2
            return [*await self._embed(texts[:middle]), *await self._embed(texts[middle:])]
        self.tokens += embedded.tokens
        return list(embedded.vectors)


def _runs(batch: Sequence[tuple[int, str]]) -> Iterator[tuple[int, slice]]:
    """Yield each document of a batch with the place of its texts in it."""
    start = 0
    for index, group in groupby(batch, key=lambda item: item[0]):
        end = start + sum(1 for _ in group)
        yield index, slice(start, end)
        start = end


def _retrieved(task: asyncio.Task[list[_Outcome]]) -> None:
    """Read a failure that every document of the batch may have stopped waiting for."""
    if not task.cancelled():
        task.exception()
