"""A model that says its next word when the test has seen the one before."""

from __future__ import annotations

import asyncio

from tests.service.fault_backend import Exchange, Received, sse

WORDS = tuple(f"word{number} " for number in range(6))


class Paced:
    """The behaviour of a generative service: what it says ends with `WORDS`; each of them waits for `say()`."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[Received] = asyncio.Queue()
        self._allowed = asyncio.Semaphore(0)

    def say(self) -> None:
        """Let the next word be said."""
        self._allowed.release()

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        self.requests.put_nowait(exchange.request)
        await exchange.head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        for event in sse(WORDS):
            if b"word" in event and not await self._turn(exchange):
                return
            await exchange.chunk(event)
        await exchange.raw(b"0\r\n\r\n")

    async def _turn(self, exchange: Exchange) -> bool:
        """Wait for the next word's turn; return False when the peer has gone before."""
        waits = [asyncio.create_task(self._allowed.acquire()), asyncio.create_task(exchange.request.closed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        if exchange.request.closed.is_set():
            exchange.ended = True
        return not exchange.ended
