"""The callers: a dozen workers, whose requests and their times follow from the seed alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from random import Random

from tests.chaos.reading import Reader
from tests.chaos.relaying import Relayer
from tests.chaos.writing import Writer

Action = Callable[[Random], Awaitable[None]]

_EVERY_S = 0.16
"""How far apart the requests of one worker are on average."""


class Load:
    """Mixed load by workers of four trades."""

    def __init__(self, seed: int, writer: Writer, reader: Reader, relayer: Relayer) -> None:
        self._seed = seed
        self._trades: dict[str, tuple[int, float, Mapping[Action, int]]] = {
            "writer": (4, _EVERY_S, _writing(writer)),
            "reader": (5, _EVERY_S, _reading(reader)),
            "relayer": (3, _EVERY_S, _relaying(relayer)),
            "watcher": (1, 0.5, {relayer.health: 1, relayer.ready: 1, relayer.metrics: 1}),
        }

    async def run(self, seconds: float) -> None:
        """Send requests for so long; returns when the last of them has ended."""
        async with asyncio.TaskGroup() as group:
            for trade, (count, every_s, actions) in self._trades.items():
                for worker in range(count):
                    group.create_task(self._work(f"{self._seed} {trade} {worker}", seconds, every_s, actions))

    async def _work(self, name: str, seconds: float, every_s: float, actions: Mapping[Action, int]) -> None:
        """Send one request after the other, each at its time or when the one before has ended."""
        chance = Random(name)
        began, due = time.monotonic(), chance.expovariate(1 / every_s)
        while due < seconds:
            # What an action draws depends on nothing that happened before.
            action, own = chance.choices(list(actions), list(actions.values()))[0], Random(f"{name} {due}")
            await asyncio.sleep(began + due - time.monotonic())
            await action(own)
            due += chance.expovariate(1 / every_s)
            if began + seconds < time.monotonic():
                return


def _writing(writer: Writer) -> dict[Action, int]:
    return {
        writer.ingest: 8,
        writer.stream: 4,
        writer.delete: 4,
        writer.ingest_twice: 2,
        writer.ingest_and_leave: 2,
    }


def _reading(reader: Reader) -> dict[Action, int]:
    return {
        reader.document: 6,
        reader.search: 5,
        reader.query: 4,
        reader.query_streamed: 4,
        reader.batch: 2,
        reader.documents: 1,
        reader.collections: 1,
    }


def _relaying(relayer: Relayer) -> dict[Action, int]:
    return {
        relayer.chat: 3,
        relayer.chat_streamed: 4,
        relayer.chat_and_leave: 2,
        relayer.rag_model: 2,
        relayer.embeddings: 3,
        relayer.rerank: 3,
        relayer.models: 1,
    }
