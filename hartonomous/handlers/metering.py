"""What a request uses of its key's limits, told as it becomes known. Without limits nothing is done here."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from hartonomous.core.usage import UsageReader
from hartonomous.keys import METER
from hartonomous.pipelines.answering import CachedResult, CachedSources
from hartonomous.pipelines.answers import Event, SourcesFound, TextDelta

# About so many characters are a token.
_CHARACTERS = 4


async def received(request: web.Request, size: int) -> None:
    """Tell that bytes of the body have come. Raises RateLimitedError when they are more than the key may send."""
    meter = request.get(METER)
    if meter is not None and size:
        await meter.received(size)


def spent(request: web.Request, tokens: float) -> None:
    """Tell that models have taken and made tokens."""
    meter = request.get(METER)
    if meter is not None:
        meter.spent(tokens)


def answered(request: web.Request, event: Event) -> None:
    """Tell what an answer, or the next event of one, has taken; what was kept takes nothing."""
    meter = request.get(METER)
    if meter is None or isinstance(event, CachedResult | CachedSources):
        return
    if isinstance(event, SourcesFound):
        meter.estimated(sum(len(found.chunk.text) for found in event.found.hits) // _CHARACTERS)
    elif isinstance(event, TextDelta):
        meter.estimated(1)
    else:
        meter.spent(event.usage.prompt_tokens + event.usage.completion_tokens, all_of_it=True)


def reader_of(request: web.Request, body: bytes) -> UsageReader | None:
    """Return what reads the tokens off a relayed answer to `body`, None where nobody counts them."""
    meter = request.get(METER)
    return UsageReader(len(body) // _CHARACTERS) if meter is not None and meter.counts_tokens else None


async def read_by(reader: UsageReader, pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Yield the pieces as they are, read on their way."""
    async with aclosing(pieces):
        async for piece in pieces:
            reader.feed(piece)
            yield piece
