"""What the chunks of one document are measured by: how long they may be, and what the embedding service counts.

`Sizes` are the limits, made once for a request. A `Ruler` knows which texts fit: those that no tokenizer could make too
long need not be asked for, the others are counted in one call and remembered. Where there is no count it estimates.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from hartonomous.core.tokens import estimate_tokens, most_tokens

# Tokens of each text, prefix and special tokens included; None where only an estimate can be had.
Counter = Callable[[Sequence[str]], Awaitable[Sequence[int] | None]]
# Runs what computes where it does not hold the loop up.
InThread = Callable[[Callable[[], list[int]]], Awaitable[list[int]]]

# The tokens around a text: [CLS] and [SEP]; at most those, and a space that is put before the text.
_SPECIAL = 2
_MOST_SPECIAL = 4
# A prefix that leaves less room than this to the text does not count towards the tokens that were asked for.
_LEAST_ROOM = 8
# Characters beyond which a thread estimates.
_IN_THREAD = 20_000


@dataclass(slots=True, frozen=True)
class Sizes:
    """The tokens of what is embedded of a chunk, all included, and of what two neighbours share."""

    limit: int
    overlap: int
    prefix: str = ""

    @property
    def around(self) -> int:
        """About how many of the tokens the prefix and the special tokens take."""
        return _SPECIAL + estimate_tokens(self.prefix)

    @property
    def room(self) -> int:
        """About how many tokens are left for text and headings; never less than one."""
        return max(1, self.limit - self.around)


def make_sizes(max_tokens: int, overlap_tokens: int, context: int | None, prefix: str = "") -> Sizes:
    """Return what was asked for, or what the model takes (`context` tokens, special ones included) if that is less."""
    asked = Sizes(max_tokens, 0, prefix)
    limit = max(max_tokens, asked.around + _LEAST_ROOM)
    if context is not None:
        limit = min(limit, context)
    return Sizes(limit, min(overlap_tokens, limit // 2), prefix)


class Ruler:
    """Knows of the texts of one document which ones are within the limit."""

    def __init__(self, sizes: Sizes, counter: Counter, in_thread: InThread = asyncio.to_thread) -> None:
        self.sizes = sizes
        self._counter = counter
        self._in_thread = in_thread
        self._totals: dict[str, int] = {}

    async def learn(self, texts: Iterable[str]) -> None:
        """Have counted, all in one, what is not known yet and may be over the limit. Raises what the counter raises."""
        wanted = [
            text for text in dict.fromkeys(texts) if text not in self._totals and self.most(text) > self.sizes.limit
        ]
        if wanted:
            self._totals.update(zip(wanted, await self.count(wanted), strict=True))

    def most(self, text: str) -> int:
        """Return a number of tokens that no service exceeds for a text, with what is put around it."""
        return _MOST_SPECIAL + most_tokens(self.sizes.prefix) + most_tokens(text)

    async def count(self, texts: Sequence[str]) -> Sequence[int]:
        """Return the tokens of each text as the service counts them, or an estimate."""
        counts = await self._counter(texts)
        if counts is not None:
            return counts
        if sum(map(len, texts)) <= _IN_THREAD:
            return list(map(self.estimate, texts))
        return await self._in_thread(lambda: list(map(self.estimate, texts)))

    def estimate(self, text: str) -> int:
        """Return about how many tokens a text is with what is put around it."""
        return self.sizes.around + estimate_tokens(text)

    def fits(self, text: str) -> bool:
        """Whether a text that has been learnt is within the limit."""
        return self._totals.get(text, 0) <= self.sizes.limit  # what was not worth a question fits

    def ratio(self, text: str) -> float:
        """Return by what factor the service counts more than the estimate of a text that was over the limit."""
        return self._totals[text] / self.estimate(text)

    def counting(self, size: int) -> Callable[[str], int]:
        """Return a counter for cutting into parts of up to `size`: an estimate, which what is known overrules."""

        def count(part: str) -> int:
            estimate, total = estimate_tokens(part), self._totals.get(part.strip())
            if total is None:
                return size if estimate > size and self.most(part) <= self.sizes.limit else estimate
            return min(estimate, size) if total <= self.sizes.limit else max(estimate, size + 1)

        return count
