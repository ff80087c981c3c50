"""Token counts of many documents in one call: what is asked while a call is under way goes together into the next."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from hartonomous.clients.tokenizing import TokenCounter
from hartonomous.core.call import Call
from hartonomous.pipelines.grouping import Grouper
from hartonomous.pipelines.jobs import Jobs
from hartonomous.pipelines.measuring import Counter

# Texts in a call, and calls side by side.
_COUNTED = 256
_CALLS = 2


class SharedCounter:
    """The counter of all documents that are being cut. Made inside a running loop."""

    def __init__(self, tokens: TokenCounter, jobs: Jobs) -> None:
        self._tokens = tokens
        self._grouper: Grouper[None, Sequence[str], list[int] | None] = Grouper(
            self._count, jobs, most=_COUNTED, concurrency=_CALLS
        )

    def of(self, call: Call) -> Counter:
        """Return the counter for a document of `call`; it raises what `TokenCounter.count` raises."""

        async def count(texts: Sequence[str]) -> list[int] | None:
            return await self._grouper.do(None, texts, call, len(texts))

        return count

    async def _count(self, _: None, lists: list[Sequence[str]], call: Call) -> list[list[int] | None]:
        counts = await self._tokens.count([text for texts in lists for text in texts], call)
        if counts is None:
            return [None] * len(lists)
        rest = iter(counts)
        return [list(islice(rest, len(texts))) for texts in lists]
