"""A document cut into chunks that the embedding service takes, measured by its own count of tokens.

What is embedded of a chunk is its text under the headings above it, behind the prefix of documents and between special
tokens: all of that together is within the limit. Chunks are cut by estimate first; then what is embedded of them is
counted, all in one call. Where many are over the limit, because the estimate is too low or leaves the headings no room,
the document is cut once more by a smaller size. Where a few are, their headings go, the outermost first; where the text
alone is over, it is cut again together with neighbours that are over as well, until nothing is. A code block or table
that the estimate finds too long is counted before it is cut.

The counter decides, and nothing is expected of it: parts get smaller in each round, and a single character stays as it
is. The same document, sizes and counts make the same chunks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain, groupby
from typing import ParamSpec, TypeVar

from hartonomous.core.chunking import Chunk, Span, chunks_of, halve, headings_before, spans_of
from hartonomous.core.outline import Outline, outline
from hartonomous.core.tokens import estimate_tokens
from hartonomous.errors import ValidationFailedError
from hartonomous.pipelines.documents import Document
from hartonomous.pipelines.measuring import Counter, Ruler, Sizes, make_sizes
from hartonomous.pipelines.threads import Threads

__all__ = ["Counter", "Cut", "Sizes", "Turns", "cut_document", "make_sizes", "not_embeddable", "recut"]

# The chunks of a document, and what of each is embedded.
Cut = tuple[list[Chunk], list[str]]

_MARKDOWN = ("markdown", "html", "docx")
# Cutting takes the interpreter for a millisecond each thousand characters: beyond so many a thread does it.
_IN_THREAD = 2_000
# One part in so many of what is embedded may be headings, by the estimate: about a quarter of the true tokens.
_HEADINGS = 3
# One chunk in so many may be over the limit after the first cut; where more are, all of them get smaller.
_FEW = 10
# Characters of a heading: it is repeated in every chunk under it, and one of a megabyte would make a thousand of them.
_HEADING = 256
# By no more than this factor an estimate is too high: a block that is estimated longer need not be counted.
_OVERESTIMATE = 3
# What is cut again aims below the limit, because the estimate is not off by the same factor everywhere.
_AIM = 0.95

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def cut_document(document: Document, sizes: Sizes, counter: Counter, turns: Turns | None = None) -> Cut:
    """Return the chunks of a document, none for a blank one, and what of each is embedded.

    Those that share `turns` wait for each other, so that others get on with their work meanwhile. Raises what `counter`
    raises.
    """
    return await _Cutter(document, sizes, counter, turns or Turns()).cut()


async def recut(
    document: Document,
    sizes: Sizes,
    counter: Counter,
    cut: Cut,
    refused: Collection[int],
    turns: Turns | None = None,
) -> Cut:
    """Return a cut whose chunks of the indices `refused` are cut again, into half of what they were or less.

    For texts that the service calls too long though they are within the limit: because they were estimated, or it
    takes less than it says. The chunks before the first of them stay as they are, and there are no fewer than before.
    Raises ValidationFailedError when one of them cannot be made smaller, and what `counter` raises.
    """
    return await _Cutter(document, sizes, counter, turns or Turns()).recut(cut, refused) if refused else cut


def not_embeddable(document: Document) -> ValidationFailedError:
    """Return the error of a document of which the service refuses even the smallest chunk."""
    return ValidationFailedError(
        "The embedding service takes no part of the text.", param=document.param("text"), code="input_too_long"
    )


@dataclass(slots=True, frozen=True)
class Turns:
    """Whose turn it is of those that are cut. Made inside a running loop.

    Short ones are cut on it, by milliseconds, one a turn (`brief`); long ones in `threads`, of which few compute.
    """

    brief: asyncio.Lock = field(default_factory=asyncio.Lock)
    threads: Threads = field(default_factory=Threads)


@dataclass(slots=True, eq=False)
class _Piece:
    """A chunk to be, and the size it was cut by.

    `texts` are what may be embedded of it, the longest first: under all of its headings, under fewer, alone. `embedded`
    is the one that is; None until one is known to fit.
    """

    chunk: Chunk
    size: int
    texts: list[str]
    embedded: str | None = None

    @property
    def is_smallest(self) -> bool:
        return len(self.chunk.text.strip()) <= 1


class _Cutter:
    """Cuts one document."""

    def __init__(self, document: Document, sizes: Sizes, counter: Counter, turns: Turns) -> None:
        self._document = document
        self._text = document.text
        self._markdown = document.format in _MARKDOWN
        self._turns = turns
        self._number = turns.threads.number()
        self._ruler = Ruler(sizes, counter, self._in_thread)
        self._outline = Outline()
        self._size = sizes.room
        self._costs: dict[str, int] = {}

    async def cut(self) -> Cut:
        if self._markdown:
            self._outline = await self._work(outline, self._text)
        pieces = await self._split_whole()
        await self._ruler.learn(piece.texts[0] for piece in pieces)
        size = self._fitting_size(pieces)
        if size < self._size:
            self._size = size
            pieces = await self._split_whole()
        return await self._settle(pieces)

    async def _split_whole(self) -> list[_Piece]:
        whole = (0, len(self._text))
        await self._ruler.learn(await self._work(self._blocks, [whole], self._size))
        return await self._work(self._split, whole, self._size)

    async def recut(self, cut: Cut, refused: Collection[int]) -> Cut:
        if self._markdown:
            self._outline = await self._work(outline, self._text)
        texts = [cut[1][index] for index in refused]
        least = min(map(min, await self._ruler.count(texts), map(self._ruler.most, texts)))
        # At most half of the least, and less than any of them: nothing that was refused is asked for again.
        self._ruler.sizes = replace(self._ruler.sizes, limit=(least + 1) // 2 - 1)
        self._size = self._ruler.sizes.room
        pieces = [_Piece(chunk, self._size, [text], text) for chunk, text in zip(*cut, strict=True)]
        for index in refused:
            pieces[index] = self._smaller(pieces[index])
        return await self._settle(pieces)

    def _smaller(self, refused: _Piece) -> _Piece:
        """Return a refused piece as one that is over the limit, or without headings where it cannot be cut."""
        chunk = refused.chunk
        if not refused.is_smallest:
            return _Piece(chunk, self._size, self._variants(chunk))
        if refused.embedded == chunk.text:
            raise not_embeddable(self._document)
        return _Piece(chunk, self._size, [chunk.text])

    async def _work(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        if len(self._text) > _IN_THREAD:
            return await self._in_thread(work, *args, **kwargs)
        async with self._turns.brief:
            await asyncio.sleep(0)
            return work(*args, **kwargs)

    async def _in_thread(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._turns.threads.run(self._number, work, *args, **kwargs)

    async def _settle(self, pieces: list[_Piece]) -> Cut:
        """Cut again what is over the limit until nothing is."""
        await self._measure(pieces)
        while any(piece.embedded is None for piece in pieces):
            runs = [list(run) for over, run in groupby(pieces, lambda piece: piece.embedded is None) if over]
            await self._ruler.learn(await self._work(self._blocks, [_region(run) for run in runs], 0))
            smaller = chain.from_iterable(await self._work(lambda runs: [*map(self._cut_again, runs)], runs))
            pieces = _in_order([*smaller, *(piece for piece in pieces if piece.embedded is not None)])
            await self._measure(pieces)
        chunks = [_numbered(piece.chunk, index) for index, piece in enumerate(pieces)]
        return chunks, [piece.embedded for piece in pieces if piece.embedded is not None]

    async def _measure(self, pieces: Iterable[_Piece]) -> None:
        """Find what fits of each piece that is new: as much as possible."""
        fresh = [piece for piece in pieces if piece.embedded is None]
        fits = self._ruler.fits
        await self._ruler.learn(piece.texts[0] for piece in fresh)
        await self._ruler.learn(text for piece in fresh if not fits(piece.texts[0]) for text in piece.texts[1:])
        for piece in fresh:
            piece.embedded = next(filter(fits, piece.texts), piece.texts[-1] if piece.is_smallest else None)

    def _fitting_size(self, pieces: Sequence[_Piece]) -> int:
        """Return a size by which all but a few chunks are within the limit, headings included."""
        over = [piece for piece in pieces if not self._ruler.fits(piece.texts[0])]
        few = 1 + len(pieces) // _FEW
        if len(over) <= few:
            return self._size
        return max(1, min(sorted(map(self._size_for, over))[few], self._size - 1))

    def _size_for(self, piece: _Piece) -> int:
        """Return how many estimated tokens of text there is room for, if all of it were like this piece."""
        whole = self._ruler.sizes.limit / self._ruler.ratio(piece.texts[0])
        beside = self._ruler.estimate(piece.texts[0]) - estimate_tokens(piece.chunk.text)
        return int(_AIM * (whole - beside))

    def _variants(self, chunk: Chunk) -> list[str]:
        """Return what may be embedded of a chunk; of its headings the innermost, where all would be too much."""
        headings = chunk.headings
        most = self._ruler.sizes.room // _HEADINGS
        count = sum(cost <= most for cost in accumulate(map(self._cost, reversed(headings))))
        kept = headings[len(headings) - count :]
        return ["\n".join([*kept[first:], chunk.text]) for first in range(count + 1)]

    def _cost(self, heading: str) -> int:
        cost = self._costs.get(heading)
        if cost is None:
            cost = self._costs[heading] = estimate_tokens(heading) + 1
        return cost

    def _blocks(self, spans: Iterable[Span], size: int) -> list[str]:
        """Return the blocks in `spans`, with their headings and without, whose estimate is over `size` and may err."""
        found = []
        for begin, finish in spans:
            for start, end in self._outline.blocks_in(begin, finish):
                head = headings_before(self._text, begin, start, self._outline)
                found += [self._text[first:end].strip() for first in (head, start) if end <= finish]
        most = _OVERESTIMATE * self._ruler.sizes.room
        return [block for block in found if size < estimate_tokens(block) <= most]

    def _split(self, span: Span, size: int) -> list[_Piece]:
        spans = spans_of(
            self._text,
            span,
            self._outline,
            markdown=self._markdown,
            max_tokens=size,
            overlap_tokens=self._ruler.sizes.overlap * size // self._size,
            count=self._ruler.counting(size),
        )
        return self._pieces(spans, size)

    def _pieces(self, spans: Iterable[Span], size: int) -> list[_Piece]:
        chunks = map(_with_short_headings, chunks_of(self._text, spans, self._outline))
        return [_Piece(chunk, size, self._variants(chunk)) for chunk in chunks]

    def _cut_again(self, run: Sequence[_Piece]) -> list[_Piece]:
        """Cut neighbours that are over the limit, as one stretch of text, by a smaller size; at last into halves."""
        size = min(piece.size for piece in run)
        if size <= 1:
            return [half for piece in run for half in self._pieces(halve(self._text, _span(piece.chunk)), 1)]
        if size < self._size:
            return self._split(_region(run), size // 2)
        aim = int(size / max(1.0, *(self._ruler.ratio(piece.chunk.text) for piece in run)) * _AIM)
        # Two halves are better than a chunk and a crumb.
        stretch = estimate_tokens(self._text[slice(*_region(run))])
        parts = max(2, -(-stretch // max(1, aim)))
        return self._split(_region(run), max(1, min(aim, stretch * 6 // (5 * parts) + 1)))


def _with_short_headings(chunk: Chunk) -> Chunk:
    if all(len(heading) <= _HEADING for heading in chunk.headings):
        return chunk
    return replace(chunk, headings=tuple(heading[:_HEADING] for heading in chunk.headings))


def _numbered(chunk: Chunk, index: int) -> Chunk:
    return chunk if chunk.index == index else replace(chunk, index=index)


def _span(chunk: Chunk) -> Span:
    return chunk.start, chunk.end


def _region(run: Sequence[_Piece]) -> Span:
    return run[0].chunk.start, run[-1].chunk.end


def _in_order(pieces: Iterable[_Piece]) -> list[_Piece]:
    """Return the pieces by their beginnings, without those that lie in another one: overlap can make such."""
    kept: list[_Piece] = []
    for piece in sorted(pieces, key=lambda piece: _span(piece.chunk)):
        if kept and kept[-1].chunk.start == piece.chunk.start:
            kept.pop()
        if not kept or piece.chunk.end > kept[-1].chunk.end:
            kept.append(piece)
    return kept
