"""Token counts of many documents share their calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hartonomous.clients.tokenizing import TokenCounter
from hartonomous.core.call import Call
from hartonomous.pipelines.counting import SharedCounter
from hartonomous.pipelines.jobs import Jobs
from tests.pipelines.fakes import call


async def test_the_counts_of_many_documents_go_into_one_call() -> None:
    asked: list[int] = []

    class Tokens(TokenCounter):
        def __init__(self) -> None:
            pass

        async def count(self, texts: Sequence[str], call: Call) -> list[int] | None:
            asked.append(len(texts))
            await asyncio.sleep(0)
            return [len(text) for text in texts]

    shared = SharedCounter(Tokens(), Jobs())
    results = await asyncio.gather(*(shared.of(call())(["a" * number] * 3) for number in range(50)))
    assert results == [[number] * 3 for number in range(50)]
    assert len(asked) <= 4


async def test_no_count_is_none_for_every_document() -> None:
    class Tokens(TokenCounter):
        def __init__(self) -> None:
            pass

        async def count(self, texts: Sequence[str], call: Call) -> list[int] | None:
            return None

    shared = SharedCounter(Tokens(), Jobs())
    assert await asyncio.gather(*(shared.of(call())(["a"]) for _ in range(3))) == [None, None, None]
