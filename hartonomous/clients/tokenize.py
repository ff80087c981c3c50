"""llama.cpp's `/tokenize`: how many tokens a service makes of texts, exactly, a hundred of them in one call.

It takes a list of texts and token ids and answers one list of tokens. Its first text alone gets the special tokens:
that is an empty one here, which shows how many there are. The others follow, each behind a row of ids that no text
makes; where one does make it, the numbers do not come out and the texts are asked for one by one. So nothing has to be
known of the model.

A server without `/tokenize` is asked again after 30 s, so that a service restarted as another one is noticed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hartonomous import codec
from hartonomous.clients.failures import BackendRefusedError
from hartonomous.clients.pool import Answer, Pool
from hartonomous.core.call import Call
from hartonomous.errors import BackendError

_TTL_S = 30.0
# Statuses of a server without `/tokenize`, and of one whose `/tokenize` is asked otherwise (vLLM, TEI).
MISSING = frozenset({404, 405, 501})
FOREIGN = frozenset({400, 415, 422})
_TEXTS = 256
_BYTES = 512 * 1024
# Ids that every vocabulary has, in an order that no text makes by itself. No beginning of the row is an end of it: two
# of them cannot overlap, so each that is found where as many were sent is one that was sent.
_SEPARATOR = [0, 0, 0, 1]


class Tokenize:
    """Counts tokens as a service's model makes them, control tokens in the texts read as such."""

    def __init__(self, pool: Pool, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._missing_until = self._known_until = -1.0

    async def count(self, texts: Sequence[str], call: Call) -> list[int] | None:
        """Return how many tokens each text has, the special ones that stand around a whole input included.

        None when the service has no llama.cpp's `/tokenize`. Raises what `Pool.request` raises.
        """
        counts: list[int] = []
        for batch in _batches(texts):
            some = await self._count_batch(batch, call)
            if some is None:
                return None
            counts += some
        return counts

    async def _count_batch(self, texts: Sequence[str], call: Call) -> list[int] | None:
        content: list[str | int] = [""]
        for text in texts:
            content += [*_SEPARATOR, text]
        tokens = await self._tokenize(content, call)
        if tokens is None:
            return None
        special, *counts = _sizes(tokens)
        if len(counts) == len(texts):
            return [special + count for count in counts]
        return await self._count_one_by_one(texts, call)

    async def _count_one_by_one(self, texts: Sequence[str], call: Call) -> list[int] | None:
        counts = []
        for text in texts:
            tokens = await self._tokenize(text, call)
            if tokens is None:
                return None
            counts.append(len(tokens))
        return counts

    async def _tokenize(self, content: str | list[str | int], call: Call) -> list[int] | None:
        """Return the tokens; None where the service has no llama.cpp's `/tokenize`."""
        if self._clock() < self._missing_until:
            return None
        # As `/v1/embeddings` reads its input.
        body = codec.dumps({"content": content, "add_special": True, "parse_special": True})
        tokens, is_missing = await self._ask(body, call)
        now = self._clock()
        if tokens is not None:
            self._known_until = now + _TTL_S
        elif is_missing or now >= self._known_until:
            self._missing_until = now + _TTL_S
        else:
            # It was there a moment ago: a fault, and no reason to go on with an estimate.
            self._known_until = now
            raise BackendError(f"The {self._pool.name} service answered something that is no list of tokens.")
        return tokens

    async def _ask(self, body: bytes, call: Call) -> tuple[list[int] | None, bool]:
        """Return the tokens, None where the answer is not llama.cpp's; and whether there is no `/tokenize` at all."""
        try:
            # Counting twice does no harm.
            return _tokens(await self._pool.request("POST", "/tokenize", call, body, is_lookup=True)), False
        except BackendRefusedError as refusal:
            if refusal.answered not in MISSING | FOREIGN:
                raise
            return None, refusal.answered in MISSING


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in batches of a size that a server takes; a text that is too large goes alone."""
    batch: list[str] = []
    room = _BYTES
    for text in texts:
        size = len(text) if text.isascii() else len(text.encode())
        if batch and (size > room or len(batch) == _TEXTS):
            yield batch
            batch, room = [], _BYTES
        batch.append(text)
        room -= size
    if batch:
        yield batch


def _tokens(answer: Answer) -> list[int] | None:
    """Return the tokens of llama.cpp's answer, None for another one."""
    try:
        tokens: Any = codec.loads(answer.body)["tokens"]
    except (codec.NotJsonError, KeyError, TypeError):
        return None
    return tokens if isinstance(tokens, list) and {int}.issuperset(map(type, tokens)) else None


def _sizes(tokens: list[int]) -> list[int]:
    """Return how many tokens stand before, between and behind the separators."""
    sizes: list[int] = []
    start = place = 0
    width, last = len(_SEPARATOR), _SEPARATOR[-1]
    try:
        while True:
            place = tokens.index(last, place) + 1
            if place >= width and tokens[place - width : place] == _SEPARATOR:
                sizes.append(place - width - start)
                start = place
    except ValueError:
        return [*sizes, len(tokens) - start]
