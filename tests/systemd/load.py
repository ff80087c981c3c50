"""Callers who ask all the time, on connections that they keep and on new ones, and note what became of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import TracebackType
from typing import Any, Self

import aiohttp

_KEEPERS = 6
_NEWCOMERS = 6
_PAUSE_S = 0.01
_CALL_S = 60.0


class Load:
    """`async with Load(url, body, headers) as load:` posts until its end; `load.seen` counts statuses and failures."""

    def __init__(self, url: str, body: dict[str, Any], headers: dict[str, str]) -> None:
        self._url, self._body, self._headers = url, body, headers
        self._tasks: list[asyncio.Task[None]] = []
        self._is_over = False
        self._one_more = asyncio.Event()
        self.seen: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        kinds = [False] * _KEEPERS + [True] * _NEWCOMERS
        self._tasks = [asyncio.create_task(self._ask(force_close)) for force_close in kinds]
        await self.answered(20)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def answered(self, more: int, limit_s: float = 60.0) -> None:
        """Wait until so many more calls have been answered with 200."""
        wanted = self.seen["200"] + more
        async with asyncio.timeout(limit_s):
            while self.seen["200"] < wanted:
                self._one_more.clear()
                await self._one_more.wait()

    async def _ask(self, force_close: bool) -> None:
        timeout = aiohttp.ClientTimeout(_CALL_S)
        connector = aiohttp.TCPConnector(force_close=force_close)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while not self._is_over:
                self.seen[await self._outcome(session)] += 1
                self._one_more.set()
                await asyncio.sleep(_PAUSE_S)

    async def _outcome(self, session: aiohttp.ClientSession) -> str:
        try:
            async with session.post(self._url, json=self._body, headers=self._headers) as response:
                await response.read()
                return str(response.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            return type(error).__name__
