"""How many tokens the embedding service makes of a text: exactly, by its own `/tokenize` or by a tokenizer file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hartonomous.clients.pool import Pool
from hartonomous.clients.tokenize import Tokenize
from hartonomous.core.call import Call
from hartonomous.errors import ConfigError
from hartonomous.services import Embedding

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Tokenizing by a file takes the interpreter for about a microsecond a character: beyond so many a thread does it.
_CHARACTERS_IN_THREAD = 2_000


class TokenCounter:
    """Counts as the embedding service does; `check` says at the start whether the tokenizer file is of use."""

    def __init__(self, pool: Pool, config: Embedding, clock: Callable[[], float] = time.monotonic) -> None:
        self._tokenize = Tokenize(pool, clock)
        self._prefix = config.document_prefix
        self._path = config.tokenizer
        self._tokenizer: Tokenizer | None = None

    async def check(self) -> None:
        """Load the tokenizer file, if one is configured; raise ConfigError when it cannot be read, or is none."""
        if self._path is not None and self._tokenizer is None:
            self._tokenizer = await asyncio.to_thread(load_tokenizer, self._path)

    async def count(self, texts: Sequence[str], call: Call) -> list[int] | None:
        """Return how many tokens each text has as it is embedded: as a document, with prefix and special tokens.

        None when the service has no llama.cpp's `/tokenize` and there is no tokenizer file; such a file is believed.
        Raises what `Pool.request` raises.
        """
        prefixed = [self._prefix + text for text in texts]
        if self._path is not None:
            return await self._count_by_file(prefixed)
        return await self._tokenize.count(prefixed, call)

    async def _count_by_file(self, texts: Sequence[str]) -> list[int]:
        await self.check()
        assert self._tokenizer is not None
        if sum(map(len, texts)) <= _CHARACTERS_IN_THREAD:
            return _encode(self._tokenizer, texts)
        return await asyncio.to_thread(_encode, self._tokenizer, texts)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizers JSON file; raise ConfigError when it cannot be read, or is none. It is work for a thread."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise ConfigError(f"backends.embedding.tokenizer: {path} cannot be read as a tokenizer ({error}).") from error
    # What it would cut off or fill up must be counted, or not.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    return [len(encoding) for encoding in tokenizer.encode_batch_fast(list(texts))]
