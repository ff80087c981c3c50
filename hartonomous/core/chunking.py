"""Documents cut into chunks that fit an embedding model, at the borders of their structure.

The cutting is done by semantic-text-splitter (Unicode sentences and words; for Markdown its blocks and headings), which
asks `count` for the size of candidates, some 8,000 of them a megabyte: 1 MB of Markdown takes 1.2 s with
`estimate_tokens`. It is work for a thread, not for an event loop. On top of the splitter come these rules: no chunk
ends with a heading whose text begins in the next one, no code block or table that fits into a chunk is cut, no chunk is
over the limit as `count` sees it, and each chunk knows the headings above it.

Offsets are Unicode code points into the document's text, and a chunk's text is exactly that span.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from hartonomous.core.outline import Outline, outline
from hartonomous.core.tokens import estimate_tokens

__all__ = ["Chunk", "Span", "chunks_of", "estimate_tokens", "halve", "headings_before", "in_order", "spans_of", "split"]

# What the splitter gets at once, in characters: of a text, and of a word or a script without blanks.
_SECTION = 32_000
_RUN = 2_000
_ENDLESS = re.compile(rf"\S{{{_RUN},}}")
_PUNCTUATION = "\u3002\uff01\uff1f\uff1b\uff0c\u3001.!?;,"

Span = tuple[int, int]
_Count = Callable[[str], int]


@dataclass(slots=True, frozen=True)
class Chunk:
    """A part of a document: `text == document[start:end]`.

    `headings` are the Markdown headings over the chunk's first line of text, outermost first; a heading with which
    the chunk itself begins is one of them.
    """

    index: int
    text: str
    start: int
    end: int
    headings: tuple[str, ...]


def split(
    text: str, *, markdown: bool, max_tokens: int, overlap_tokens: int, count: _Count = estimate_tokens
) -> list[Chunk]:
    """Cut `text` into chunks of at most `max_tokens`, in order, that together cover everything but blanks.

    Neighbours share up to `overlap_tokens` (at most half a chunk), where whole sentences or blocks allow it. A
    heading stays with what follows it; code blocks and tables that fit stay whole. An empty or blank text has no
    chunks. Raises ValueError when `max_tokens` is below 1 or `overlap_tokens` below 0.
    """
    headings = outline(text) if markdown else Outline()
    spans = spans_of(
        text,
        (0, len(text)),
        headings,
        markdown=markdown,
        max_tokens=max_tokens,
        overlap_tokens=overlap_tokens,
        count=count,
    )
    return chunks_of(text, spans, headings)


def spans_of(
    text: str,
    span: Span,
    headings: Outline,
    *,
    markdown: bool,
    max_tokens: int,
    overlap_tokens: int,
    count: _Count = estimate_tokens,
) -> list[Span]:
    """Cut a span of `text`, whose outline `headings` is, by the rules of `split`; return where the chunks stand."""
    if max_tokens < 1 or overlap_tokens < 0:
        raise ValueError(f"cannot make chunks of {max_tokens!r} tokens that share {overlap_tokens!r}")
    overlap = min(overlap_tokens, max_tokens // 2)
    spans = _cut(text[slice(*span)], span[0], markdown, max_tokens, overlap, count)
    spans = _keep_headings(text, spans, headings, max_tokens, count)
    spans = _keep_blocks(text, spans, headings, max_tokens, count)
    return in_order(piece for part in spans for piece in _fit(text, part, markdown, max_tokens, count))


def in_order(spans: Iterable[Span]) -> list[Span]:
    """Return the spans by their beginnings, without those that lie in another one: overlap can make such."""
    kept: list[Span] = []
    for start, end in sorted(spans):
        if kept and kept[-1][0] == start:
            kept.pop()
        if not kept or end > kept[-1][1]:
            kept.append((start, end))
    return kept


def chunks_of(text: str, spans: Iterable[Span], headings: Outline) -> list[Chunk]:
    """Return the chunks that stand at `spans`, numbered, each with the headings above it."""
    return [
        Chunk(index, text[start:end], start, end, headings.above(_body(text, start, end, headings)))
        for index, (start, end) in enumerate(spans)
    ]


def _body(text: str, start: int, end: int, headings: Outline) -> int:
    """Return where in a span the text under its leading headings begins (or the last of them, if that is all)."""
    position = passed = start
    for heading in headings.at(start - 3, end):  # a heading may be indented by three blanks that the chunk lacks
        if text[passed : heading.start].strip():
            break
        position, passed = max(position, heading.start), heading.end
    return position


def _cut(text: str, offset: int, markdown: bool, limit: int, overlap: int, count: _Count) -> list[Span]:
    """Cut by the splitter alone; `offset` is added to the spans."""
    # Imported here (1 ms, once): it is 2 MB, and a process that is only asked questions never needs it.
    from semantic_text_splitter import MarkdownSplitter, TextSplitter

    splitter = (MarkdownSplitter if markdown else TextSplitter).from_callback(count, limit, overlap)
    try:
        spans = [
            (offset + first + start, offset + first + start + len(piece))
            for first, last in _sections(text)
            for start, piece in splitter.chunk_indices(text[first:last])
            if piece.strip()
        ]
    except UnicodeEncodeError:
        # Lone surrogates have no UTF-8; a character of the same length stands in for each.
        return _cut(text.encode("utf-8", "replace").decode(), offset, markdown, limit, overlap, count)
    # An overlap can swallow a whole short chunk.
    return [span for index, span in enumerate(spans) if index + 1 == len(spans) or spans[index + 1][0] > span[0]]


def _sections(text: str) -> list[Span]:
    """Return the parts that the splitter gets one by one, because its time grows faster than a text does.

    A long text is cut at blank lines, else at a line's end, else at a blank; a run without blanks behind a mark of
    punctuation, as in Chinese, or anywhere.
    """
    ends = {run.start() + end for run in _ENDLESS.finditer(text) for end in _cuts(run[0], _RUN, _PUNCTUATION)}
    ends.update(_cuts(text, _SECTION, ("\n\n", "\n", " ")))
    return list(pairwise([0, *sorted(ends), len(text)]))


def _cuts(text: str, size: int, marks: Iterable[str]) -> Iterator[int]:
    """Yield where to cut a text into parts of half to whole `size`, behind the first of the marks that is there."""
    place = 0
    while len(text) - place > size:
        window = text[place + size // 2 : place + size]
        after = next((found + len(mark) for mark in marks if (found := window.rfind(mark)) >= 0), size - size // 2)
        place += size // 2 + after
        yield place


def _fit(text: str, span: Span, markdown: bool, limit: int, count: _Count) -> list[Span]:
    """Cut a span until each part is at most `limit` by `count`, or a single character."""
    done: list[Span] = []
    todo = [span]
    while todo:
        start, end = todo.pop()
        part = text[start:end]
        if count(part) <= limit or len(part.strip()) <= 1:
            done.append((start, end))
            continue
        # A counter that is not monotonic can lead the splitter astray: half of it is smaller in any case.
        pieces = _cut(part, start, markdown, limit, 0, count)
        todo += reversed(pieces if len(pieces) > 1 else halve(text, (start, end)))
    return done


def halve(text: str, span: Span) -> list[Span]:
    """Cut a span in two near its middle, at a blank if there is one in the middle half; one character stays whole."""
    start, end = span
    middle, reach = (start + end) // 2, (end - start) // 4
    for near in (text.rfind(" ", middle - reach, middle), text.find(" ", middle, middle + reach)):
        if near > start:
            middle = near
            break
    halves = (_trim(text, (start, middle)), _trim(text, (middle, end)))
    return [half for half in halves if half[0] < half[1]]


def _trim(text: str, span: Span) -> Span:
    """Return the span without blanks at its ends; an empty one where it has nothing else."""
    part = text[span[0] : span[1]]
    start = span[0] + len(part) - len(part.lstrip())
    return start, max(start, span[0] + len(part.rstrip()))


def _keep_headings(text: str, spans: list[Span], headings: Outline, limit: int, count: _Count) -> list[Span]:
    """Move every heading at the end of a chunk to the beginning of the next one."""
    kept: list[Span] = []
    todo = list(reversed(spans))
    while todo:
        start, end = todo.pop()
        tail = headings_before(text, start, end, headings)
        if not todo or tail == end:
            kept.append((start, end))
            continue
        following = todo.pop()
        joined = [following] if following[0] <= tail else _join(text, (tail, end), following, limit, count)
        before = _trim(text, (start, tail))
        kept += [before] if before[0] < before[1] else []
        if joined[0] == (tail, end):
            kept.append(joined.pop(0))
        todo += reversed(joined)
    return kept


def headings_before(text: str, start: int, end: int, headings: Outline) -> int:
    """Return where the headings begin with which a span ends; its end if it ends with none."""
    tail = end
    for heading in headings.before(end):
        if heading.start < start - 3 or text[heading.end : tail].strip():
            break
        tail = max(start, heading.start)
    return tail


def _join(text: str, heading: Span, following: Span, limit: int, count: _Count) -> list[Span]:
    """Put headings and what follows into one chunk, or into two of about one size if it is too long for one.

    The heading stays alone where nothing fits beside it, or where what follows is a code block or table that would
    have to be cut for it.
    """
    if count(text[heading[0] : following[1]]) <= limit:
        return [(heading[0], following[1])]
    body = text[slice(*following)]
    size = count(body)
    room = min(limit - count(text[slice(*heading)]), (size * 3 + 4) // 5)
    pieces = _cut(body, following[0], True, room, 0, count) if room > 0 else []
    if len(pieces) < 2 or body.lstrip().startswith(("```", "~~~", "|")):
        return [heading, following]
    first, second = (heading[0], pieces[0][1]), (pieces[1][0], following[1])
    return [first, second] if count(text[slice(*first)]) <= limit else [heading, following]


def _keep_blocks(text: str, spans: list[Span], headings: Outline, limit: int, count: _Count) -> list[Span]:
    """Make whole again every code block and table that was cut though it fits, with the headings right above it."""
    for block in headings.blocks_in(spans[0][0] - 3, spans[-1][1]) if spans else ():
        first = bisect_right(spans, block[0], key=lambda span: span[1])
        last = bisect_left(spans, block[1], first, key=lambda span: span[0])
        touched = spans[first:last]
        if len(touched) < 2 or any(start <= block[0] and block[1] <= end for start, end in touched):
            continue
        if count(text[slice(*block)]) <= limit:
            spans[first:last] = _make_whole(text, block, touched, headings, limit, count)
    return spans


def _make_whole(
    text: str, block: Span, touched: list[Span], headings: Outline, limit: int, count: _Count
) -> list[Span]:
    """Cut the stretch of the touched chunks at the borders of a block; what follows stays with it if it fits."""
    start, end = min(touched[0][0], block[0]), max(touched[-1][1], block[1])
    head = headings_before(text, start, _trim(text, (start, block[0]))[1], headings)
    first = head if count(text[head : block[1]]) <= limit else block[0]
    last = end if count(text[first:end]) <= limit else block[1]
    parts = (_trim(text, span) for span in ((start, first), (first, last), (last, end)))
    return [part for part in parts if part[0] < part[1]]
